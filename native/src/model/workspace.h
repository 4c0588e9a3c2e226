// Memory that a step computes in, allocated once.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/step_kernels.h"
#include "nestling/gemma3n.h"

namespace nestling {

// Rows are padded with zeros to whole groups, so that neither sums nor bytes need a tail.
constexpr std::size_t padded(std::size_t size) { return (size + kGroup - 1) / kGroup * kGroup; }

// Rows whole pages apart would share a few sets of the caches.
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

struct ByteArrays {
  ByteArrays() = default;
  ByteArrays(std::size_t num_rows, std::size_t padded_in)
      : bytes(num_rows * padded_in),
        low_bytes(num_rows * padded_in),
        groups(num_rows * (padded_in / kGroup)),
        halves(num_rows * (padded_in / kGroup)) {}

  Array<std::int8_t> bytes;
  Array<std::int8_t> low_bytes;
  Array<GroupScale> groups;
  Array<HalfBiases> halves;
};

// The input of products with weights: rows of floats, and their bytes if a weight is quantised. A
// row that is alone in its step has arrays of its own for them.
struct Activations {
  Activations() = default;
  Activations(std::size_t num_rows, std::size_t in_features, bool has_floats = true)
      : width(padded(in_features)),
        stride(spread(width)),
        padded_in((in_features + 127) / 128 * 128),
        floats(has_floats ? num_rows * stride : 0),
        panels(num_rows + kPanelRows, padded_in),
        single(1, padded_in) {}

  float* row(std::size_t index) { return floats.data() + index * stride; }
  // From row `index` on, a multiple of kPanelRows.
  Rows from(std::size_t index, bool is_alone) const {
    const ByteArrays& from = is_alone ? single : panels;
    return {.floats = floats.data() + index * stride,
            .stride = stride,
            .bytes = from.bytes.data() + index * padded_in,
            .low_bytes =
                rounding == Rounding::kWide ? from.low_bytes.data() + index * padded_in : nullptr,
            .groups = from.groups.data() + index * (padded_in / kGroup),
            .halves = from.halves.data() + index * (padded_in / kGroup),
            .padded_in = padded_in,
            .panel_rows = is_alone ? 1 : kPanelRows,
            .rounding = rounding};
  }
  ByteRows byte_rows(bool is_alone) {
    ByteArrays& to = is_alone ? single : panels;
    return {.bytes = to.bytes.data(),
            .low_bytes = rounding == Rounding::kWide ? to.low_bytes.data() : nullptr,
            .groups = to.groups.data(),
            .halves = to.halves.data(),
            .padded_in = padded_in,
            .panel_rows = is_alone ? 1 : kPanelRows,
            .rounding = rounding};
  }

  std::size_t width = 0;  // of a row, padded; rows lie `stride` apart
  std::size_t stride = 0;
  std::size_t padded_in = 0;
  Array<float> floats;
  ByteArrays panels;
  ByteArrays single;
  Rounding rounding = Rounding::kFine;  // of the bytes in it
};

// Plain float results [row][stride].
struct Outputs {
  Outputs() = default;
  Outputs(std::size_t num_rows, std::size_t size)
      : stride(spread(padded(size))), floats(num_rows * stride) {}
  float* row(std::size_t index) { return floats.data() + index * stride; }

  std::size_t stride = 0;
  Array<float> floats;
};

// Rows of gate outputs that one thread turns into activations at once.
constexpr std::size_t kFeedForwardRows = 48;
constexpr std::size_t kFeedForwardTiles = 8;
constexpr std::size_t kHeadTiles = 16;     // of logits
constexpr std::size_t kChunk = 256;        // neurons whose rows of up_proj stay in the L2 cache
constexpr std::size_t kSlice = 256;        // outputs that one thread adds up for few rows, or
constexpr std::size_t kSlicesAtOnce = 2;   // twice as many where the others have enough left
constexpr std::size_t kDecodedWidth = 64;  // outputs of a chunk that stay there in float32

constexpr std::size_t kSplitRows = 16;  // whose attention may be in parts for the whole context

// Neighbouring rows of a sequence and the query heads of one kv head, and the chunks of positions
// to compute for them.
struct AttentionPiece {
  std::size_t num_chunks() const { return chunk_end - chunk_begin; }
  std::size_t work() const { return num_chunks() * num_rows; }

  std::size_t row;
  std::size_t num_rows;
  std::size_t kv_head;
  std::size_t chunk_begin;
  std::size_t chunk_end;
  float* parts = nullptr;  // see AttentionTask
};

struct Gemma3n::Workspace {
  Workspace(const Gemma3nConfig& config, const std::vector<LayerConfig>& layers,
            const Gemma3nWeights& weights, std::size_t max_rows, std::size_t max_model_len,
            std::size_t num_threads, const StepKernels& kernels);

  Activations embedding;          // the token's own, scaled
  Outputs streams;                // [row][altup_num_inputs][hidden]
  Array<float> prediction_coefs;  // [row][prediction][stream], of AltUp
  Outputs predicted;              // AltUp's prediction of the active stream
  Activations normed;             // after input_layernorm
  Outputs q, k, v;                // [row][head][head_dim] as the projections leave them
  Outputs queries;                // [row][head][padded head_dim], normed and rotated
  Activations attended;           // [row][head][head_dim]
  Outputs attended_heads;         // [row][head][padded head_dim], if that differs
  Activations laurel_low;
  Outputs attention_out, laurel_out;
  Outputs hidden;                     // after attention; then after feed-forward
  Activations ffn_in;                 // after pre_feedforward_layernorm
  Activations ffn_act;                // gelu(gate) * up
  Outputs gate;                       // of sparse layers; then the living neurons' values
  Outputs up;                         // of sparse layers that are computed densely
  Array<std::uint32_t> live_indices;  // [row][gate.stride + 16]
  std::vector<std::size_t> num_live;  // [row]
  std::vector<float> cutoff;          // [row]
  Array<std::uint32_t> live_marks;    // [row][chunk of neurons + 1], see Step::marks
  Array<std::uint32_t> live_counts;   // [chunk of neurons][row], once the dead ones are left out
  std::size_t marks_stride = 0;
  std::size_t dot_padded = 0;    // inputs of a DotRow
  Array<std::int8_t> dot_bytes;  // [row][dot_padded]
  Array<std::int8_t> dot_low_bytes;
  Array<float> dot_scales, dot_sums;  // [row][groups]
  Outputs ffn_out;
  Activations gate_in;  // of the per-layer input gate
  Activations gated;    // gelu(gate) * per-layer input
  Outputs gate_out, update;
  Outputs projected;   // per_layer_model_projection's output
  Outputs per_layer;   // [row][layer][padded per-layer size]
  Outputs total;       // at the exit
  Activations last;    // after the last norm
  Outputs rope[2][2];  // of full and sliding layers: cosines, sines [row][head_dim / 2]
  std::vector<float> inverse_frequency[2];
  std::vector<Array<float>> thread_scratch;         // one a thread
  std::vector<Array<std::uint16_t>> thread_halves;  // of a position's keys or values
  std::vector<std::vector<LiveRow>> thread_live_rows;
  std::size_t attention_rows = 1;  // rows of an attention tile
  std::vector<std::int64_t> row_position;
  std::vector<std::size_t> row_sequence;
  std::vector<std::size_t> source_row;  // [row], its place in the batch
  std::vector<AttentionPiece> attention_tiles, attention_pieces, attention_joins;
  Array<float> attention_parts;
  std::size_t most_attention_parts = 0;
  std::vector<std::int32_t> logit_index;  // [row], -1: its logits are not wanted
};

}  // namespace nestling
