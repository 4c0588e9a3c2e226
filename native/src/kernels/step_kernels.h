// The functions that a variant offers to the model step: products with packed weights, attention,
// the sparse feed-forward, and sums over the vector of one token. Each variant is built from the
// same loops (step_*.h) over its own lanes.
//
// Every result of a token depends on that token alone, to the bit. Sums run in one fixed order,
// whatever the number of tokens, the place of a token in a register block, or the thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nestling/matrix.h"
#include "nestling/variant.h"

namespace nestling {

// A panel holds the int8 activations of four tokens, which the kernels take together. A token that
// is alone in its step is a panel of one, which takes a quarter of the cache lines.
constexpr std::size_t kPanelTokens = 4;

// How activations are quantised, in groups of 32 inputs. gemma3n.h says which layer takes which.
//   kInt8Pow2: x = scale * value, where the scale is a power of two, so that some processors need
//     not multiply by it
//   kInt8: x = scale * value, where the largest magnitude is 127 steps
//   kInt16: x = scale * (kInt16Step * value + low value), at twice the number of products
enum class ActivationQuant { kInt8Pow2, kInt8, kInt16 };
constexpr std::int32_t kInt16Step = 254;

// What a group of one token needs beside its int8 values. `sum` is the sum of the integers that the
// scale multiplies.
struct GroupScale {
  float scale;
  float exponent;            // log2 of a kInt8Pow2 scale
  float scaled_sum;          // scale * sum
  std::int32_t nibble_bias;  // -8 * sum, where the sum of nibbles starts
};

// -32 * the sum of each 16 integers of the group: where the sums of 6-bit codes start. These stand
// apart from GroupScale because only kQ6 reads them.
struct HalfBiases {
  std::int32_t of[2];
};

// Where the int8 activations of tokens go; p is panel_tokens.
struct Int8Tokens {
  std::int8_t* values;      // [token / p][k / 4][token % p][4], of padded_in inputs
  std::int8_t* low_values;  // of the same shape; null unless kInt16
  GroupScale* groups;       // [token / p][group][token % p]
  HalfBiases* halves;       // of the same shape
  std::size_t padded_in;
  std::size_t panel_tokens;  // kPanelTokens or 1
  ActivationQuant quant;

  // The same tokens from that group of inputs on.
  Int8Tokens from_group(std::size_t group) const {
    const std::size_t skipped = group * panel_tokens;
    return {values + skipped * kGroup,
            low_values != nullptr ? low_values + skipped * kGroup : nullptr,
            groups + skipped,
            halves + skipped,
            padded_in,
            panel_tokens,
            quant};
  }
};

// Activations of tokens: as floats and, for quantised weights, as int8 values.
struct TokenInputs {
  const float* floats = nullptr;            // [token][stride]
  std::size_t stride = 0;                   // multiple of 16
  const std::int8_t* values = nullptr;      // as in Int8Tokens
  const std::int8_t* low_values = nullptr;  // as in Int8Tokens; null unless kInt16
  const GroupScale* groups = nullptr;       // as in Int8Tokens
  const HalfBiases* halves = nullptr;       // as in Int8Tokens
  std::size_t padded_in = 0;                // multiple of 128
  std::size_t panel_tokens = kPanelTokens;  // 1 if there is only one token
  ActivationQuant quant = ActivationQuant::kInt8;

  std::size_t num_groups() const { return padded_in / kGroup; }
};

// out[token][16 * tile + i] for tokens [0, num_tokens) and tiles [tile_begin, tile_end).
struct ProductTask {
  const Matrix* weight;
  TokenInputs x;
  std::size_t num_tokens;
  std::size_t tile_begin;
  std::size_t tile_end;
  float* out;              // of tile_begin
  std::size_t out_stride;  // multiple of 16, at least the tiles' outputs
  // What the thread probably reads next, which is prefetched. Null means what follows the tiles.
  const std::uint8_t* next = nullptr;
};

// The activations of one token, arranged for dot products with single weight rows.
struct DotInput {
  const float* floats;            // [padded_in], zero beyond in_features
  const std::int8_t* values;      // [padded_in / 512][8][16][4], as in a RowMatrix
  const std::int8_t* low_values;  // of the same shape, null unless kInt16
  const float* scales;            // [padded_in / 32]
  const float* scaled_sums;       // [padded_in / 32]
};

// Weight rows of a RowMatrix to multiply, and others to prefetch.
struct WeightRows {
  const std::uint32_t* indices;
  std::size_t count;
  const std::uint32_t* next = nullptr;
  std::size_t num_next = 0;
};

// Columns [first, ...) of a ColumnMatrix in float32, a range of outputs of each.
struct DecodedColumns {
  const float* values;  // [column - first][width]
  std::size_t first;
  std::size_t width;  // multiple of 32
};

// The active neurons of a token among some columns, and the token's outputs.
struct ActiveNeurons {
  const std::uint32_t* indices;  // ascending
  const float* values;
  std::size_t count;
  std::size_t num_known;  // indices that may be read, at least count; those beyond are needed soon
  float* out;
};

// For each token: the columns of its active neurons among [first, last), outputs [begin, end).
struct ColumnTask {
  const ColumnMatrix* weight;
  std::size_t first;  // multiple of 32
  std::size_t last;
  std::size_t begin;  // multiple of 32, as is `end`
  std::size_t end;
  const ActiveNeurons* tokens;
  std::size_t num_tokens;
  float* scratch;  // column_scratch(...) floats
};

// Floats of scratch that a column task needs: scales and minima of its groups.
constexpr std::size_t column_scratch(std::size_t num_columns, std::size_t num_outputs) {
  return 2 * ((num_columns + kGroup - 1) / kGroup) * num_outputs;
}

// Keys and values of one layer in a pool of cache blocks. 16 neighbouring positions are a key
// group: keys [kv_head][dim][16], then values [kv_head][16][dim].
struct LayerCache {
  const void* base = nullptr;
  bool is_float16 = true;
  std::size_t block_stride = 0;  // elements from one cache block to the next
  std::size_t group_stride = 0;  // elements from one key group to the next within a cache block
  std::size_t groups_per_block = 1;
};

// Positions of a block, whose weighted values are summed together before the sums of all blocks are
// joined.
constexpr std::size_t kAttentionBlock = 256;

// Neighbouring positions of one sequence and the query heads of one kv head.
struct AttentionTask {
  const float* q;  // [num_tokens][q_stride]: at the first query head of the kv head
  std::size_t q_stride;
  float* out;  // as `q`
  std::size_t out_stride;
  std::size_t num_tokens;
  std::size_t num_queries;  // query heads that share the kv head, `head_stride` apart
  std::size_t head_stride;  // padded head_dim, multiple of 16
  std::size_t kv_head;
  std::size_t num_kv_heads;
  std::int64_t first_position;
  std::int64_t window;  // positions that a token sees, its own included; 0: all
  LayerCache cache;
  const std::int32_t* block_table;  // of cache blocks
  // Blocks of positions: all that the tokens see, or some of them if the results are parts.
  std::size_t block_begin;
  std::size_t block_end;
  float* parts;    // [block][token][query head][attention_part_size(head_stride)]; null: none
  float* scratch;  // attention_scratch(...) floats
};

// Floats of a part: a query vector's weighted values in one block of positions, the largest score
// in it and the sum of the weights.
constexpr std::size_t attention_part_size(std::size_t head_stride) { return head_stride + 16; }

// The blocks of positions that tokens at positions `first` to `last` see.
constexpr std::size_t attention_block_begin(std::int64_t first, std::int64_t window) {
  const std::int64_t seen = window > 0 && first >= window ? first + 1 - window : 0;
  return static_cast<std::size_t>(seen) / kAttentionBlock;
}
constexpr std::size_t attention_block_end(std::int64_t last) {
  return static_cast<std::size_t>(last) / kAttentionBlock + 1;
}

constexpr std::size_t kMaxAltupInputs = 16;  // a token keeps as many numbers on the stack

// AltUp's correction of one token, in place: input o becomes p[o] + gains[o] * (activated -
// p[active_idx]), where p[o] = sum over i of prediction_coefs[o][i] * input i is its prediction.
struct CorrectionTask {
  float* altup_inputs;  // [num_altup_inputs][size]
  std::size_t num_altup_inputs;
  std::size_t active_idx;
  const float* prediction_coefs;  // [num_altup_inputs][num_altup_inputs]
  const float* activated;         // [size]
  const float* gains;             // [num_altup_inputs]
  std::size_t size;               // multiple of 16
};

struct StepKernels {
  std::size_t attention_vectors;  // query vectors that fit the registers

  void (*linear)(const ProductTask&);

  // Writes the int8 values, scales and sums of token number `token`.
  void (*quantize)(const float* x, std::size_t size, std::size_t token, const Int8Tokens& to);
  // Writes what a DotInput holds of a token.
  void (*quantize_dot)(const float* x, std::size_t size, std::size_t padded_in, std::int8_t* values,
                       std::int8_t* low_values, float* scales, float* scaled_sums);

  // dots[n] = x . weight row rows.indices[n]
  void (*row_dots)(const RowMatrix& weight, const DotInput& x, const WeightRows& rows, float* dots);
  // out[d - begin] += sum over n of values[n] * column indices[n]
  void (*add_columns)(const ColumnTask&);
  // The same in two parts, for many tokens: decode_columns turns columns [first, last), outputs
  // [begin, end) into float32, add_decoded sums them up. Both ways give the same bits.
  void (*decode_columns)(const ColumnMatrix& weight, std::size_t first, std::size_t last,
                         std::size_t begin, std::size_t end, float* out);
  void (*add_decoded)(const DecodedColumns& columns, const ActiveNeurons* tokens,
                      std::size_t num_tokens);

  // Writes to `out`, or to `parts` if there are any. Both ways give the same bits.
  void (*attention)(const AttentionTask&);
  // Joins the `parts` of all blocks of positions in `out`.
  void (*join_attention)(const AttentionTask&);

  float (*sum)(const float* x, std::size_t n);
  float (*sum_squares)(const float* x, std::size_t n);
  // sum of (x - mean)^2
  float (*sum_squared_distances)(const float* x, std::size_t size, float mean);
  // sums[i] = x . rows[i], and last the sum of squares of x
  void (*dots)(const float* x, const float* rows, std::size_t num_rows, std::size_t n, float* sums);
  // out = sum of coefs[i] * inputs[i]; out may be one of them
  void (*combine)(float* out, const float* const* inputs, const float* coefs, std::size_t count,
                  std::size_t n);
  void (*altup_correct)(const CorrectionTask&);
  // out = base + x * scale * weight; base may be null (0) or out
  void (*add_normed)(float* out, const float* base, const float* x, float scale,
                     const float* weight, std::size_t n);
  // RoPE on x [2 * half]
  void (*rotate)(float* x, const float* cos, const float* sin, std::size_t half);
  void (*to_float16)(const float* x, std::size_t n, std::uint16_t* out);
  // Writes the indices of x > bound and those x, and returns their number. `values` may be x
  // itself. Both have room for size + 16.
  std::size_t (*select_above)(const float* x, std::size_t size, float bound, std::uint32_t* indices,
                              float* values);
  // Keeps those above the cutoff, in place, with gelu(value - cutoff), and returns their number.
  std::size_t (*keep_active)(std::uint32_t* indices, float* values, std::size_t count,
                             float cutoff);
  // x = gelu(x) * y
  void (*gelu_times)(float* x, const float* y, std::size_t n);
  // x = cap * tanh(x / cap)
  void (*soft_cap)(float* x, std::size_t n, float cap);
};

extern const StepKernels kPortableStep;
extern const StepKernels kAvx2Step;
extern const StepKernels kAvx512Step;
extern const StepKernels kNeonStep;

// Floats of scratch that an attention task needs.
constexpr std::size_t attention_scratch(std::size_t num_vectors, std::size_t head_stride) {
  return num_vectors * (kAttentionBlock + head_stride);
}

const StepKernels& step_kernels(Variant variant);  // throws std::invalid_argument if unsupported

}  // namespace nestling
