// The memory in which a step computes. It is allocated once.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/step_kernels.h"
#include "nestling/gemma3n.h"

namespace nestling {

// A token's vector is padded with zeros to whole groups, so that neither sums nor int8 values need
// a tail.
constexpr std::size_t padded(std::size_t size) { return (size + kGroup - 1) / kGroup * kGroup; }

// Vectors that lie whole pages apart would share a few sets of the caches.
constexpr std::size_t spread(std::size_t stride) {
  return stride * sizeof(float) % 4096 == 0 ? stride + kGroup : stride;
}

// An array of T in zeroed, aligned memory that takes pages when it is first written.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(std::size_t size) : buffer_(std::max<std::size_t>(size, 1) * sizeof(T)) {}
  T* data() { return buffer_.as<T>(); }
  const T* data() const { return buffer_.as<T>(); }

 private:
  Buffer buffer_;
};

struct Int8Arrays {
  Int8Arrays() = default;
  Int8Arrays(std::size_t num_tokens, std::size_t padded_in)
      : values(num_tokens * padded_in),
        low_values(num_tokens * padded_in),
        groups(num_tokens * (padded_in / kGroup)),
        halves(num_tokens * (padded_in / kGroup)) {}

  Array<std::int8_t> values;
  Array<std::int8_t> low_values;
  Array<GroupScale> groups;
  Array<HalfBiases> halves;
};

// The input of products with weights: floats of each token, and int8 values if a weight is
// quantised. A token that is alone in its step has int8 arrays of its own.
struct Activations {
  Activations() = default;
  Activations(std::size_t num_tokens, std::size_t in_features, bool has_floats = true)
      : width(padded(in_features)),
        stride(spread(width)),
        padded_in((in_features + 127) / 128 * 128),
        floats(has_floats ? num_tokens * stride : 0),
        panels(num_tokens + kPanelTokens, padded_in),
        single(1, padded_in) {}

  float* token(std::size_t index) { return floats.data() + index * stride; }
  // The inputs from token `index` on, which is a multiple of kPanelTokens.
  TokenInputs from(std::size_t index, bool is_alone) const {
    const Int8Arrays& from = is_alone ? single : panels;
    return {.floats = floats.data() + index * stride,
            .stride = stride,
            .values = from.values.data() + index * padded_in,
            .low_values = quant == ActivationQuant::kInt16
                              ? from.low_values.data() + index * padded_in
                              : nullptr,
            .groups = from.groups.data() + index * (padded_in / kGroup),
            .halves = from.halves.data() + index * (padded_in / kGroup),
            .padded_in = padded_in,
            .panel_tokens = is_alone ? 1 : kPanelTokens,
            .quant = quant};
  }
  Int8Tokens int8_tokens(bool is_alone) {
    Int8Arrays& to = is_alone ? single : panels;
    return {.values = to.values.data(),
            .low_values = quant == ActivationQuant::kInt16 ? to.low_values.data() : nullptr,
            .groups = to.groups.data(),
            .halves = to.halves.data(),
            .padded_in = padded_in,
            .panel_tokens = is_alone ? 1 : kPanelTokens,
            .quant = quant};
  }

  std::size_t width = 0;  // of a token, padded; they lie `stride` apart
  std::size_t stride = 0;
  std::size_t padded_in = 0;
  Array<float> floats;
  Int8Arrays panels;
  Int8Arrays single;
  ActivationQuant quant = ActivationQuant::kInt8;  // of the int8 values
};

// Float results [token][stride].
struct Outputs {
  Outputs() = default;
  Outputs(std::size_t num_tokens, std::size_t size)
      : stride(spread(padded(size))), floats(num_tokens * stride) {}
  float* token(std::size_t index) { return floats.data() + index * stride; }

  std::size_t stride = 0;
  Array<float> floats;
};

// Tokens whose gate outputs one thread turns into activations at once.
constexpr std::size_t kFeedForwardTokens = 48;
constexpr std::size_t kFeedForwardTiles = 8;
constexpr std::size_t kHeadTiles = 16;     // of logits
constexpr std::size_t kNeuronBlock = 256;  // neurons whose weight rows stay in the L2 cache
constexpr std::size_t kSlice = 256;        // outputs that one thread adds up for few tokens, or
constexpr std::size_t kSlicesAtOnce = 2;   // twice as many where the others have enough left
constexpr std::size_t kDecodedWidth = 64;  // outputs of a block that stay there in float32

constexpr std::size_t kSplitTokens =
    16;  // of which attention may be in parts for the whole context

// Neighbouring tokens of a sequence and the query heads of one kv head, and the blocks of positions
// to compute for them.
struct AttentionPiece {
  std::size_t num_blocks() const { return block_end - block_begin; }
  std::size_t work() const { return num_blocks() * num_tokens; }

  std::size_t token;
  std::size_t num_tokens;
  std::size_t kv_head;
  std::size_t block_begin;
  std::size_t block_end;
  float* parts = nullptr;  // see AttentionTask
};

struct Gemma3n::Workspace {
  Workspace(const Gemma3nConfig& config, const std::vector<LayerConfig>& layers,
            const Gemma3nWeights& weights, std::size_t max_num_batched_tokens,
            std::size_t max_model_len, std::size_t num_threads, const StepKernels& kernels);

  Activations embedding;          // the scaled embedding of the token
  Outputs altup_inputs;           // [token][altup_num_inputs][hidden]
  Array<float> prediction_coefs;  // [token][prediction][input], of AltUp
  Outputs predicted;              // AltUp's prediction of the active input
  Activations normed;             // after input_layernorm
  Outputs q, k, v;                // [token][head][head_dim] as the projections leave them
  Outputs queries;                // [token][head][padded head_dim], normed and rotated
  Activations attended;           // [token][head][head_dim]
  Outputs attended_heads;         // [token][head][padded head_dim], if that differs
  Activations laurel_low;
  Outputs attention_out, laurel_out;
  Outputs hidden;                       // after attention; then after feed-forward
  Activations ffn_in;                   // after pre_feedforward_layernorm
  Activations ffn_act;                  // gelu(gate) * up
  Outputs gate;                         // of sparse layers; later the values of active neurons
  Outputs up;                           // of sparse layers that are computed densely
  Array<std::uint32_t> active_indices;  // [token][gate.stride + 16]
  std::vector<std::size_t> num_active;  // [token]
  std::vector<float> cutoff;            // [token]
  Array<std::uint32_t> active_begins;   // [token][block of neurons + 1], see Step::active_begins
  Array<std::uint32_t> active_counts;   // [block of neurons][token]
  std::size_t begins_stride = 0;
  std::size_t dot_padded = 0;     // inputs of a DotInput
  Array<std::int8_t> dot_values;  // [token][dot_padded]
  Array<std::int8_t> dot_low_values;
  Array<float> dot_scales, dot_sums;  // [token][groups]
  Outputs ffn_out;
  Activations gate_in;  // of the per-layer input gate
  Activations gated;    // gelu(gate) * per-layer input
  Outputs gate_out, update;
  Outputs projected;   // per_layer_model_projection's output
  Outputs per_layer;   // [token][layer][padded per-layer size]
  Outputs total;       // of all AltUp inputs
  Activations last;    // after the last norm
  Outputs rope[2][2];  // of full and sliding layers: cosines, sines [token][head_dim / 2]
  std::vector<float> inverse_frequency[2];
  std::vector<Array<float>> thread_scratch;          // one a thread
  std::vector<Array<std::uint16_t>> thread_float16;  // of a position's keys or values
  std::vector<std::vector<ActiveNeurons>> thread_active_neurons;
  std::size_t attention_tokens = 1;  // tokens of an attention tile
  std::vector<std::int64_t> token_position;
  std::vector<std::size_t> token_sequence;
  std::vector<std::size_t> source_token;  // [token], its place in the batch
  std::vector<AttentionPiece> attention_tiles, attention_pieces, attention_joins;
  Array<float> attention_parts;
  std::size_t most_attention_parts = 0;
  std::vector<std::int32_t> logit_index;  // [token]; -1 if its logits are not wanted
};

}  // namespace nestling
