#include "model/workspace.h"

#include <algorithm>
#include <cmath>

namespace nestling {

Gemma3n::Workspace::Workspace(const Gemma3nConfig& c, const std::vector<LayerConfig>& layers,
                              const Gemma3nWeights& weights, std::size_t max_rows,
                              std::size_t max_model_len, std::size_t num_threads,
                              const StepKernels& kernels) {
  const std::size_t rows = max_rows;
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

  embedding = Activations(rows, c.hidden_size);
  streams = Outputs(rows, c.altup_num_inputs * stream_size);
  prediction_coefs = Array<float>(rows * c.altup_num_inputs * c.altup_num_inputs);
  predicted = Outputs(rows, c.hidden_size);
  normed = Activations(rows, c.hidden_size);
  q = Outputs(rows, num_heads * c.head_dim);
  k = Outputs(rows, c.num_key_value_heads * c.head_dim);
  v = Outputs(rows, c.num_key_value_heads * c.head_dim);
  queries = Outputs(rows, num_heads * head);
  attended = Activations(rows, num_heads * c.head_dim);
  if (head != c.head_dim) attended_heads = Outputs(rows, num_heads * head);
  laurel_low = Activations(rows, c.laurel_rank);
  attention_out = Outputs(rows, c.hidden_size);
  laurel_out = Outputs(rows, c.hidden_size);
  hidden = Outputs(rows, c.hidden_size);
  ffn_in = Activations(rows, c.hidden_size);
  bool has_float_down = false;
  for (const LayerWeights& w : weights.layers) {
    has_float_down =
        has_float_down || (w.down_proj != nullptr && !is_quantized(w.down_proj->format()));
  }
  ffn_act = Activations(rows, intermediate, has_float_down);
  if (has_sparse) {
    gate = Outputs(rows, intermediate);
    up = Outputs(rows, intermediate);
    live_indices = Array<std::uint32_t>(rows * (gate.stride + kTile));
    num_live.resize(rows);
    cutoff.resize(rows);
    marks_stride = (intermediate + kChunk - 1) / kChunk + 1;
    live_marks = Array<std::uint32_t>(rows * marks_stride);
    live_counts = Array<std::uint32_t>(rows * marks_stride);
    dot_padded = (c.hidden_size + kRowBlock - 1) / kRowBlock * kRowBlock;
    dot_bytes = Array<std::int8_t>(rows * dot_padded);
    dot_low_bytes = Array<std::int8_t>(rows * dot_padded);
    dot_scales = Array<float>(rows * (dot_padded / kGroup));
    dot_sums = Array<float>(rows * (dot_padded / kGroup));
  }
  ffn_out = Outputs(rows, c.hidden_size);
  gate_in = Activations(rows, c.hidden_size);
  gated = Activations(rows, per_layer_size);
  gate_out = Outputs(rows, per_layer_size);
  update = Outputs(rows, c.hidden_size);
  projected = Outputs(rows, layers.size() * per_layer_size);
  per_layer = Outputs(rows, layers.size() * padded(per_layer_size));
  total = Outputs(rows, c.hidden_size);
  last = Activations(rows, c.hidden_size);
  for (int type = 0; type < 2; ++type) {
    const double base = type == 0 ? c.rope_theta : c.rope_local_base_freq;
    for (Outputs& table : rope[type]) table = Outputs(rows, c.head_dim / 2);
    for (std::size_t i = 0; i < c.head_dim; i += 2) {
      // Rounded to float32 where HF rounds.
      const auto exponent =
          static_cast<double>(static_cast<float>(i) / static_cast<float>(c.head_dim));
      inverse_frequency[type].push_back(1.0f / static_cast<float>(std::pow(base, exponent)));
    }
  }
  const std::size_t num_queries = num_heads / c.num_key_value_heads;
  attention_rows = std::max<std::size_t>(kernels.attention_rows / num_queries, 1);
  const std::size_t num_vectors = attention_rows * num_queries;
  const std::size_t kv_size = c.num_key_value_heads * head;
  const std::size_t scratch =
      std::max({attention_scratch(num_vectors, head), 2 * kFeedForwardRows * kHeadTiles * kTile,
                kChunk * kDecodedWidth, column_scratch(kChunk, kSlicesAtOnce * kSlice), kv_size,
                padded(per_layer_size) + layers.size() * per_layer_size});
  for (std::size_t i = 0; i < num_threads; ++i) {
    thread_scratch.emplace_back(scratch);
    thread_halves.emplace_back(kv_size);
    thread_live_rows.emplace_back(has_sparse ? rows : 0);
  }
  row_position.resize(rows);
  row_sequence.resize(rows);
  source_row.resize(rows);
  most_attention_parts =
      std::min(rows, kSplitRows) * num_heads * ((max_model_len - 1) / kAttentionChunk + 1);
  attention_parts = Array<float>(most_attention_parts * attention_part_size(head));
  const std::size_t most_tiles = rows * c.num_key_value_heads;
  attention_tiles.reserve(most_tiles);
  attention_joins.reserve(most_tiles);
  attention_pieces.reserve(most_tiles + most_attention_parts);
  logit_index.resize(rows);
}

}  // namespace nestling
