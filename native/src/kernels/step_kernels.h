// What the model step asks of a variant: products with packed weights, attention, sparse
// feed-forward, and the sums over one row. Each variant is built from the same loops
// (`*_kernels.h`) over its own lanes.
//
// Every result of a row depends on that row alone, to the bit: sums run in one fixed order whatever
// the number of rows, the place of a row in a register block, or the thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nestling/matrix.h"
#include "nestling/variant.h"

namespace nestling {

// Rows of bytes lie in panels of four, which kernels take together; a single row lies alone, so
// that it takes a quarter of the cache lines.
constexpr std::size_t kPanelRows = 4;

// How activations become bytes, in groups of 32; gemma3n.h says where.
//   coarse: x = scale * byte, the scale a power of two, so that some processors need not multiply
//   fine: x = scale * byte, the largest magnitude being 127 steps
//   wide: x = scale * (kWideStep * byte + low byte), as good as 16 bits, for twice the products
enum class Rounding { kCoarse, kFine, kWide };
constexpr std::int32_t kWideStep = 254;

// What a group of one row needs beside its bytes; `sum` is that of the integers that scale
// multiplies.
struct GroupScale {
  float scale;
  float exponent;            // log2 of a coarse scale
  float scaled_sum;          // scale * sum
  std::int32_t nibble_bias;  // -8 * sum: where the sum of nibbles starts
};

// Where the sums of codes of 6 bits start: -32 * the sum of each 16 of the group's integers. Apart
// from GroupScale, as only kQ6 reads them.
struct HalfBiases {
  std::int32_t of[2];
};

// Where the bytes of rows go; p is panel_rows.
struct ByteRows {
  std::int8_t* bytes;      // [row / p][k / 4][row % p][4], of padded_in inputs
  std::int8_t* low_bytes;  // likewise; null unless wide
  GroupScale* groups;      // [row / p][group][row % p]
  HalfBiases* halves;      // likewise
  std::size_t padded_in;
  std::size_t panel_rows;  // kPanelRows or 1
  Rounding rounding;

  // The same rows from that group of inputs on.
  ByteRows from_group(std::size_t group) const {
    const std::size_t skipped = group * panel_rows;
    return {bytes + skipped * kGroup,
            low_bytes != nullptr ? low_bytes + skipped * kGroup : nullptr,
            groups + skipped,
            halves + skipped,
            padded_in,
            panel_rows,
            rounding};
  }
};

// Rows of activations, as floats and, for quantised weights, as bytes.
struct Rows {
  const float* floats = nullptr;           // [row][stride]
  std::size_t stride = 0;                  // multiple of 16
  const std::int8_t* bytes = nullptr;      // see ByteRows
  const std::int8_t* low_bytes = nullptr;  // likewise; null unless wide
  const GroupScale* groups = nullptr;      // likewise
  const HalfBiases* halves = nullptr;      // likewise
  std::size_t padded_in = 0;               // multiple of 128
  std::size_t panel_rows = kPanelRows;     // 1 if there is but one row
  Rounding rounding = Rounding::kFine;

  std::size_t num_groups() const { return padded_in / kGroup; }
};

// out[row][16 * tile + i] for rows [0, num_rows) and tiles [tile_begin, tile_end).
struct ProductTask {
  const Matrix* weight;
  Rows x;
  std::size_t num_rows;
  std::size_t tile_begin;
  std::size_t tile_end;
  float* out;              // of tile_begin
  std::size_t out_stride;  // multiple of 16, at least the tiles' outputs
  // What the thread probably reads next, asked for ahead; null: what follows the tiles.
  const std::uint8_t* next = nullptr;
};

// One row in a form for dots with single rows of weights.
struct DotRow {
  const float* floats;           // [padded_in], zero beyond in_features
  const std::int8_t* bytes;      // [padded_in / 512][8][16][4], as in a RowMatrix
  const std::int8_t* low_bytes;  // likewise, null unless wide
  const float* scales;           // [padded_in / 32]
  const float* scaled_sums;      // [padded_in / 32]
};

// Rows of a RowMatrix, and others to ask memory for.
struct RowList {
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

// What a row has alive among some columns, and its outputs.
struct LiveRow {
  const std::uint32_t* indices;  // ascending
  const float* values;
  std::size_t count;
  std::size_t num_known;  // indices that may be read, at least count: later ones are needed soon
  float* out;
};

// Rows' living columns among [first, last), outputs [begin, end).
struct ColumnTask {
  const ColumnMatrix* weight;
  std::size_t first;  // multiple of 32
  std::size_t last;
  std::size_t begin;  // multiple of 32, as is `end`
  std::size_t end;
  const LiveRow* rows;
  std::size_t num_rows;
  float* scratch;  // column_scratch(...) floats
};

// Floats of scratch that a column task needs: scales and minima of its groups.
constexpr std::size_t column_scratch(std::size_t num_columns, std::size_t num_outputs) {
  return 2 * ((num_columns + kGroup - 1) / kGroup) * num_outputs;
}

// Keys and values of one layer and pool of blocks. 16 neighbouring positions are a key group: keys
// [kv_head][dim][16], then values [kv_head][16][dim].
struct LayerCache {
  const void* base = nullptr;
  bool is_float16 = true;
  std::size_t block_stride = 0;  // elements from one block to the next
  std::size_t group_stride = 0;  // elements from one key group to the next within a block
  std::size_t groups_per_block = 1;
};

// Positions whose sums are made together, before they are joined with those of earlier ones.
constexpr std::size_t kAttentionChunk = 256;

// Neighbouring positions of one sequence and the query heads of one kv head.
struct AttentionTask {
  const float* q;  // [num_rows][q_stride]: at the first query head of the kv head
  std::size_t q_stride;
  float* out;  // likewise
  std::size_t out_stride;
  std::size_t num_rows;
  std::size_t num_queries;  // query heads that share the kv head, `head_stride` apart
  std::size_t head_stride;  // padded head_dim, multiple of 16
  std::size_t kv_head;
  std::size_t num_kv_heads;
  std::int64_t first_position;
  std::int64_t window;  // positions that a row sees, its own included; 0: all
  LayerCache cache;
  const std::int32_t* block_table;
  // Chunks of positions: all that its rows see, or some of them if the results are parts.
  std::size_t chunk_begin;
  std::size_t chunk_end;
  float* parts;    // [chunk][row][query head][attention_part_size(head_stride)]; null: none
  float* scratch;  // attention_scratch(...) floats
};

// A vector's weighted values in one chunk, the chunk's largest score and its sum of weights.
constexpr std::size_t attention_part_size(std::size_t head_stride) { return head_stride + 16; }

// The chunks of positions that rows from `first` to `last` see.
constexpr std::size_t attention_chunk_begin(std::int64_t first, std::int64_t window) {
  const std::int64_t seen = window > 0 && first >= window ? first + 1 - window : 0;
  return static_cast<std::size_t>(seen) / kAttentionChunk;
}
constexpr std::size_t attention_chunk_end(std::int64_t last) {
  return static_cast<std::size_t>(last) / kAttentionChunk + 1;
}

constexpr std::size_t kMostStreams = 16;  // of AltUp: a row keeps as many numbers on the stack

// AltUp's correction of one row, in place: stream o becomes p[o] + gains[o] * (activated -
// p[active]) with the predictions p[o] = sum over i of prediction_coefs[o][i] * stream i.
struct CorrectionTask {
  float* streams;  // [num_streams][size]
  std::size_t num_streams;
  std::size_t active;
  const float* prediction_coefs;
  const float* activated;  // [size]
  const float* gains;      // [num_streams]
  std::size_t size;        // multiple of 16
};

struct StepKernels {
  std::size_t attention_rows;  // rows of a tile, times query heads, that fit the registers

  void (*linear)(const ProductTask&);

  // Bytes, scales and sums of row number `row`.
  void (*quantize)(const float* x, std::size_t size, std::size_t row, const ByteRows& to);
  // A row for dots, as a DotRow holds it.
  void (*quantize_dot)(const float* x, std::size_t size, std::size_t padded_in, std::int8_t* bytes,
                       std::int8_t* low_bytes, float* scales, float* scaled_sums);

  // dots[n] = x . row rows.indices[n]
  void (*row_dots)(const RowMatrix& weight, const DotRow& x, const RowList& rows, float* dots);
  // out[d - begin] += sum over n of values[n] * column indices[n]
  void (*add_columns)(const ColumnTask&);
  // The same in two parts, for many rows: columns [first, last), outputs [begin, end) to float32;
  // then their sums. Both ways give the same bits.
  void (*decode_columns)(const ColumnMatrix& weight, std::size_t first, std::size_t last,
                         std::size_t begin, std::size_t end, float* out);
  void (*add_decoded)(const DecodedColumns& columns, const LiveRow* rows, std::size_t num_rows);

  // To `out`, or to `parts`; both ways give the same bits.
  void (*attention)(const AttentionTask&);
  void (*join_attention)(const AttentionTask&);  // from `parts`, of all chunks, to `out`

  float (*sum)(const float* x, std::size_t n);
  float (*sum_squares)(const float* x, std::size_t n);
  // sum of (x - mean)^2
  float (*sum_squared_distances)(const float* x, std::size_t size, float mean);
  // sums[i] = x . rows[i], and last the sum of squares of x
  void (*dots)(const float* x, const float* rows, std::size_t num_rows, std::size_t n, float* sums);
  // out = sum of coefs[i] * inputs[i]; out may be one of them
  void (*combine)(float* out, const float* const* inputs, const float* coefs, std::size_t count,
                  std::size_t n);
  void (*correct)(const CorrectionTask&);
  // out = base + x * scale * weight; base may be null (0) or out
  void (*add_normed)(float* out, const float* base, const float* x, float scale,
                     const float* weight, std::size_t n);
  // RoPE on x [2 * half]
  void (*rotate)(float* x, const float* cos, const float* sin, std::size_t half);
  void (*to_float16)(const float* x, std::size_t n, std::uint16_t* out);
  // Indices of x > bound and those x; returns their number. `values` may be x itself; both have
  // room for size + 16.
  std::size_t (*select_above)(const float* x, std::size_t size, float bound, std::uint32_t* indices,
                              float* values);
  // Of those, in place, the ones above the cutoff, with gelu(value - cutoff); returns their number.
  std::size_t (*keep_live)(std::uint32_t* indices, float* values, std::size_t count, float cutoff);
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
  return num_vectors * (kAttentionChunk + head_stride);
}

const StepKernels& step_kernels(Variant variant);  // throws std::invalid_argument if unsupported

}  // namespace nestling
