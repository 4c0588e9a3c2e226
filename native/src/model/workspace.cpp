#include "model/workspace.h"

#include <algorithm>
#include <cmath>

namespace nestling {

Gemma3n::Workspace::Workspace(const Gemma3nConfig& c, const std::vector<LayerConfig>& layers,
                              const Gemma3nWeights& weights, std::size_t max_num_batched_tokens,
                              std::size_t max_model_len, std::size_t num_threads,
                              const StepKernels& kernels) {
  const std::size_t tokens = max_num_batched_tokens;
  const std::size_t stream_size = padded(c.hidden_size);
  std::size_t intermediate = 0;
  bool has_sparse = false;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    intermediate = std::max(intermediate, layers[i].intermediate_size);
    has_sparse = has_sparse || layers[i].std_multiplier.has_value();
  }
  const std::size_t head = padded(c.head_dim);
  const std::size_t num_heads = c.num_attention_heads;
  const std::size_t per_layer_size = c.hidden_size_per_layer_input;

  embedding = Activations(tokens, c.hidden_size);
  altup_inputs = Outputs(tokens, c.altup_num_inputs * stream_size);
  prediction_coefs = Array<float>(tokens * c.altup_num_inputs * c.altup_num_inputs);
  predicted = Outputs(tokens, c.hidden_size);
  normed = Activations(tokens, c.hidden_size);
  q = Outputs(tokens, num_heads * c.head_dim);
  k = Outputs(tokens, c.num_key_value_heads * c.head_dim);
  v = Outputs(tokens, c.num_key_value_heads * c.head_dim);
  queries = Outputs(tokens, num_heads * head);
  attended = Activations(tokens, num_heads * c.head_dim);
  if (head != c.head_dim) attended_heads = Outputs(tokens, num_heads * head);
  laurel_low = Activations(tokens, c.laurel_rank);
  attention_out = Outputs(tokens, c.hidden_size);
  laurel_out = Outputs(tokens, c.hidden_size);
  hidden = Outputs(tokens, c.hidden_size);
  ffn_in = Activations(tokens, c.hidden_size);
  bool has_float_down = false;
  for (const LayerWeights& w : weights.layers) {
    has_float_down =
        has_float_down || (w.down_proj != nullptr && !is_quantized(w.down_proj->format()));
  }
  ffn_act = Activations(tokens, intermediate, has_float_down);
  if (has_sparse) {
    gate = Outputs(tokens, intermediate);
    up = Outputs(tokens, intermediate);
    active_indices = Array<std::uint32_t>(tokens * (gate.stride + kTile));
    num_active.resize(tokens);
    cutoff.resize(tokens);
    begins_stride = (intermediate + kNeuronBlock - 1) / kNeuronBlock + 1;
    active_begins = Array<std::uint32_t>(tokens * begins_stride);
    active_counts = Array<std::uint32_t>(tokens * begins_stride);
    dot_padded = (c.hidden_size + kRowBlock - 1) / kRowBlock * kRowBlock;
    dot_values = Array<std::int8_t>(tokens * dot_padded);
    dot_low_values = Array<std::int8_t>(tokens * dot_padded);
    dot_scales = Array<float>(tokens * (dot_padded / kGroup));
    dot_sums = Array<float>(tokens * (dot_padded / kGroup));
  }
  ffn_out = Outputs(tokens, c.hidden_size);
  gate_in = Activations(tokens, c.hidden_size);
  gated = Activations(tokens, per_layer_size);
  gate_out = Outputs(tokens, per_layer_size);
  update = Outputs(tokens, c.hidden_size);
  projected = Outputs(tokens, layers.size() * per_layer_size);
  per_layer = Outputs(tokens, layers.size() * padded(per_layer_size));
  total = Outputs(tokens, c.hidden_size);
  last = Activations(tokens, c.hidden_size);
  for (int type = 0; type < 2; ++type) {
    const double base = type == 0 ? c.rope_theta : c.rope_local_base_freq;
    const float factor = type == 0 ? c.rope_scaling_factor : c.rope_local_scaling_factor;
    for (Outputs& table : rope[type]) table = Outputs(tokens, c.head_dim / 2);
    for (std::size_t i = 0; i < c.head_dim; i += 2) {
      // Rounded to float32 where HF rounds.
      const auto exponent =
          static_cast<double>(static_cast<float>(i) / static_cast<float>(c.head_dim));
      const float unscaled = 1.0f / static_cast<float>(std::pow(base, exponent));
      inverse_frequency[type].push_back(unscaled / factor);
    }
  }
  const std::size_t num_queries = num_heads / c.num_key_value_heads;
  attention_tokens = std::max<std::size_t>(kernels.attention_vectors / num_queries, 1);
  const std::size_t num_vectors = attention_tokens * num_queries;
  const std::size_t kv_size = c.num_key_value_heads * head;
  const std::size_t scratch =
      std::max({attention_scratch(num_vectors, head), 2 * kFeedForwardTokens * kHeadTiles * kTile,
                kNeuronBlock * kDecodedWidth, column_scratch(kNeuronBlock, kSlicesAtOnce * kSlice),
                kv_size, padded(per_layer_size) + layers.size() * per_layer_size});
  for (std::size_t i = 0; i < num_threads; ++i) {
    thread_scratch.emplace_back(scratch);
    thread_float16.emplace_back(kv_size);
    thread_active_neurons.emplace_back(has_sparse ? tokens : 0);
  }
  token_position.resize(tokens);
  token_sequence.resize(tokens);
  source_token.resize(tokens);
  most_attention_parts =
      std::min(tokens, kSplitTokens) * num_heads * ((max_model_len - 1) / kAttentionBlock + 1);
  attention_parts = Array<float>(most_attention_parts * attention_part_size(head));
  const std::size_t most_tiles = tokens * c.num_key_value_heads;
  attention_tiles.reserve(most_tiles);
  attention_joins.reserve(most_tiles);
  attention_pieces.reserve(most_tiles + most_attention_parts);
  logit_index.resize(tokens);
}

}  // namespace nestling
