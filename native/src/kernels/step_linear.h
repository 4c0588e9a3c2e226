// y = x W^T over the tiles of a Matrix. Included by each variant's source file.
//
// Each output is summed over the inputs in ascending order (groups of 32 for quantised weights,
// whose integer sums are exact), in its own lane.
#pragma once

#include <algorithm>
#include <bit>

#include "kernels/step_kernels.h"
#include "weights/quantize.h"

namespace nestling {

namespace {

// Groups whose weights and activations stay in the first caches while rows and tiles go by.
constexpr std::size_t kGroupsAtOnce = 128;
constexpr std::size_t kPrefetchBytes = 4096;

// A sum of bytes times the scale of its activations. Where that is a power of two both ways give
// the same bits.
template <class V, Rounding kRounding>
inline typename V::F32 scaled(const typename V::I32& dot, const GroupScale& group) {
  if constexpr (kRounding == Rounding::kCoarse) {
    return V::scaled_by_exponent(dot.to_float(), group.exponent);
  } else {
    return dot.to_float() * V::F32::all(group.scale);
  }
}

// The weights that are read after those of a call, and what to ask for of them with each group.
struct Ahead {
  const std::uint8_t* next;
  const std::uint8_t* far;
  std::size_t far_bytes_per_group;
};

template <class V>
inline void ask_for_group(Ahead& ahead) {
  for (std::size_t i = 0; i < ahead.far_bytes_per_group; i += 64) V::prefetch_far(ahead.far + i);
  ahead.far += ahead.far_bytes_per_group;
}

template <class V, int kRows, int kPanel, bool kNibbles, bool kHasMin, Rounding kRounding>
inline void quantized_tile(const Matrix& weight, const Rows& x, std::size_t tile, std::size_t row,
                           std::size_t group_begin, std::size_t group_end, float* out,
                           std::size_t out_stride, Ahead ahead) {
  using F32 = typename V::F32;
  using I32 = typename V::I32;
  using Bytes = typename V::Bytes;
  constexpr int kPanels = (kRows + kPanel - 1) / kPanel;
  constexpr int kLines = kNibbles ? 4 : 8;
  constexpr bool kWide = kRounding == Rounding::kWide;
  constexpr std::size_t kGroupsAhead = kPrefetchBytes / (kLines * 64);
  const std::size_t first = tile * weight.num_groups() + group_begin;
  const std::uint8_t* line = weight.values<std::uint8_t>() + first * kLines * 64;
  const std::uint16_t* scales = weight.scales() + first * kTile;
  const std::uint16_t* mins = kHasMin ? weight.mins() + first * kTile : nullptr;
  const std::int8_t* bytes[kPanels];
  const std::int8_t* low_bytes[kPanels];
  const GroupScale* groups[kPanels];
  for (int p = 0; p < kPanels; ++p) {
    const std::size_t panel = row / kPanel + static_cast<std::size_t>(p);
    const std::size_t at = (panel * x.padded_in + group_begin * kGroup) * kPanel;
    bytes[p] = x.bytes + at;
    low_bytes[p] = kWide ? x.low_bytes + at : nullptr;
    groups[p] = x.groups + (panel * x.num_groups() + group_begin) * kPanel;
  }
  F32 sums[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    sums[r] =
        group_begin == 0 ? F32::zero() : F32::load(out + static_cast<std::size_t>(r) * out_stride);
  }
  for (std::size_t g = group_begin; g < group_end; ++g) {
    const std::uint8_t* const near =
        g + kGroupsAhead < group_end ? line + kPrefetchBytes
                                     : ahead.next + (g + kGroupsAhead - group_end) * kLines * 64;
    for (int j = 0; j < kLines; ++j) V::prefetch(near + 64 * j);
    if constexpr (kRows > 1) ask_for_group<V>(ahead);
    I32 dots[kRows];
    I32 low_dots[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const GroupScale& group = groups[r / kPanel][r % kPanel];
      const I32 start = kNibbles ? (kHasMin ? I32::zero() : I32::all(group.nibble_bias))
                                 : V::signed_start(group.nibble_bias);
      dots[r] = kWide ? I32::zero() : start;
      low_dots[r] = start;
    }
#pragma GCC unroll 8
    for (int j = 0; j < kLines; ++j) {
      if constexpr (kNibbles) {
        const Bytes both = Bytes::load(line + 64 * j);
        const Bytes halves[2] = {both.low_nibbles(), both.high_nibbles()};
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 16
          for (int r = 0; r < kRows; ++r) {
            const int at = kPanel * (8 * j + 4 * h) + 4 * (r % kPanel);
            dots[r] = V::add_dot(dots[r], halves[h], bytes[r / kPanel] + at);
            if constexpr (kWide) {
              low_dots[r] = V::add_dot(low_dots[r], halves[h], low_bytes[r / kPanel] + at);
            }
          }
        }
      } else {
        const Bytes w = Bytes::load_signed(reinterpret_cast<const std::int8_t*>(line) + 64 * j);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const int at = kPanel * 4 * j + 4 * (r % kPanel);
          dots[r] = V::add_dot_signed(dots[r], w, bytes[r / kPanel] + at);
          if constexpr (kWide) {
            low_dots[r] = V::add_dot_signed(low_dots[r], w, low_bytes[r / kPanel] + at);
          }
        }
      }
    }
    const F32 scale = F32::load_float16(scales);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const GroupScale& group = groups[r / kPanel][r % kPanel];
      const I32 dot = kWide ? dots[r].times(kWideStep) + low_dots[r] : dots[r];
      sums[r] = V::fma(scaled<V, kRounding>(dot, group), scale, sums[r]);
      if constexpr (kHasMin) {
        sums[r] = V::fma(F32::load_float16(mins), F32::all(group.scaled_sum), sums[r]);
      }
    }
    line += kLines * 64;
    scales += kTile;
    if constexpr (kHasMin) mins += kTile;
    for (int p = 0; p < kPanels; ++p) {
      bytes[p] += kGroup * kPanel;
      if constexpr (kWide) low_bytes[p] += kGroup * kPanel;
      groups[p] += kPanel;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sums[r].store(out + static_cast<std::size_t>(r) * out_stride);
}

// The same for codes of 6 bits. A group's halves have scales of their own.
template <class V, int kRows, int kPanel, Rounding kRounding>
inline void six_bit_tile(const Matrix& weight, const Rows& x, std::size_t tile, std::size_t row,
                         std::size_t group_begin, std::size_t group_end, float* out,
                         std::size_t out_stride, Ahead ahead) {
  using F32 = typename V::F32;
  using I32 = typename V::I32;
  using Bytes = typename V::Bytes;
  constexpr int kPanels = (kRows + kPanel - 1) / kPanel;
  constexpr std::size_t kBlockGroups = kSixBitBlock / kGroup;
  constexpr bool kWide = kRounding == Rounding::kWide;
  static_assert(kGroupsAtOnce % kBlockGroups == 0);
  const std::size_t first = (tile * weight.num_groups() + group_begin) / kBlockGroups;
  const std::uint8_t* line = weight.values<std::uint8_t>() + first * kSixBitBlockBytes;
  const std::uint16_t* scales = weight.scales() + first * kTile;
  const std::int8_t* bytes[kPanels];
  const std::int8_t* low_bytes[kPanels];
  const GroupScale* groups[kPanels];
  const HalfBiases* halves[kPanels];
  for (int p = 0; p < kPanels; ++p) {
    const std::size_t panel = row / kPanel + static_cast<std::size_t>(p);
    const std::size_t at = (panel * x.padded_in + group_begin * kGroup) * kPanel;
    bytes[p] = x.bytes + at;
    low_bytes[p] = kWide ? x.low_bytes + at : nullptr;
    groups[p] = x.groups + (panel * x.num_groups() + group_begin) * kPanel;
    halves[p] = x.halves + (panel * x.num_groups() + group_begin) * kPanel;
  }
  F32 sums[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    sums[r] =
        group_begin == 0 ? F32::zero() : F32::load(out + static_cast<std::size_t>(r) * out_stride);
  }
  for (std::size_t block = group_begin; block < group_end; block += kBlockGroups) {
    const auto* factors = reinterpret_cast<const std::int8_t*>(line);
    // All prefetches in the order of the memory: factors ahead of their turn cost a sixth of the
    // speed.
    for (std::size_t j = 0; j < kSixBitFactorBytes; j += 64) {
      V::prefetch(line + kPrefetchBytes + j);
    }
    line += kSixBitFactorBytes;
    const F32 block_scale = F32::load_float16(scales);
    scales += kTile;
    for (std::size_t g = 0; g < kBlockGroups; ++g) {
      for (int j = 0; j < 6; ++j) V::prefetch(line + kPrefetchBytes + 64 * j);
      if constexpr (kRows > 1) ask_for_group<V>(ahead);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const Bytes nibbles[2] = {Bytes::load(line), Bytes::load(line + 64)};
        Bytes codes[4];
        V::join_six_bits(nibbles, Bytes::load(line + 128), codes);
        const F32 scale = block_scale * I32::widen_signed_bytes(factors).to_float();
        // Panel by panel, as sums of all rows leave no registers for more.
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) {
          const int num_rows = std::min(kRows - p * kPanel, kPanel);
          I32 dots[kPanel];
          I32 low_dots[kPanel];
#pragma GCC unroll 4
          for (int r = 0; r < num_rows; ++r) {
            const I32 start = I32::all(halves[p][r].of[h]);
            dots[r] = kWide ? I32::zero() : start;
            low_dots[r] = start;
          }
#pragma GCC unroll 4
          for (int s = 0; s < 4; ++s) {
#pragma GCC unroll 4
            for (int r = 0; r < num_rows; ++r) {
              const int at = kPanel * (16 * h + 4 * s) + 4 * r;
              dots[r] = V::add_dot(dots[r], codes[s], bytes[p] + at);
              if constexpr (kWide) {
                low_dots[r] = V::add_dot(low_dots[r], codes[s], low_bytes[p] + at);
              }
            }
          }
#pragma GCC unroll 4
          for (int r = 0; r < num_rows; ++r) {
            const I32 dot = kWide ? dots[r].times(kWideStep) + low_dots[r] : dots[r];
            F32& sum = sums[p * kPanel + r];
            sum = V::fma(scaled<V, kRounding>(dot, groups[p][r]), scale, sum);
          }
        }
        line += 3 * 64;
        factors += kTile;
      }
      for (int p = 0; p < kPanels; ++p) {
        bytes[p] += kGroup * kPanel;
        if constexpr (kWide) low_bytes[p] += kGroup * kPanel;
        groups[p] += kPanel;
        halves[p] += kPanel;
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sums[r].store(out + static_cast<std::size_t>(r) * out_stride);
}

template <class V>
inline typename V::F32 load_weights(const float* from) {
  return V::F32::load(from);
}
struct Float16 {
  std::uint16_t bits;
};
struct Bfloat16 {
  std::uint16_t bits;
};
template <class V>
inline typename V::F32 load_weights(const Float16* from) {
  return V::F32::load_float16(&from->bits);
}
template <class V>
inline typename V::F32 load_weights(const Bfloat16* from) {
  return V::F32::load_bfloat16(&from->bits);
}

template <class V, int kRows, class Weight>
inline void float_tile(const Matrix& weight, const Rows& x, std::size_t tile, std::size_t row,
                       float* out, std::size_t out_stride) {
  using F32 = typename V::F32;
  const std::size_t in_features = weight.in_features();
  const Weight* w = weight.values<Weight>() + tile * in_features * kTile;
  const float* from = x.floats + row * x.stride;
  F32 sums[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sums[r] = F32::zero();
  for (std::size_t k = 0; k < in_features; ++k) {
    const F32 lanes = load_weights<V>(w + k * kTile);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      sums[r] = V::fma(F32::all(from[static_cast<std::size_t>(r) * x.stride + k]), lanes, sums[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sums[r].store(out + static_cast<std::size_t>(r) * out_stride);
}

// Rows [row, row + num_rows) of one tile, num_rows <= kMost.
template <class V, int kMost, int kPanel, Format kFormat, bool kHasMin, Rounding kRounding>
inline void quantized_rows(const ProductTask& task, std::size_t tile, std::size_t row,
                           std::size_t num_rows, std::size_t group_begin, std::size_t group_end,
                           const Ahead& ahead) {
  if (num_rows == kMost) {
    float* out = task.out + row * task.out_stride + (tile - task.tile_begin) * kTile;
    if constexpr (kFormat == Format::kQ6) {
      return six_bit_tile<V, kMost, kPanel, kRounding>(*task.weight, task.x, tile, row, group_begin,
                                                       group_end, out, task.out_stride, ahead);
    } else {
      return quantized_tile<V, kMost, kPanel, kFormat == Format::kQ4, kHasMin, kRounding>(
          *task.weight, task.x, tile, row, group_begin, group_end, out, task.out_stride, ahead);
    }
  }
  if constexpr (kMost > 1) {
    quantized_rows<V, kMost - 1, kPanel, kFormat, kHasMin, kRounding>(
        task, tile, row, num_rows, group_begin, group_end, ahead);
  }
}

// Rows to take next of `rest`: whole panels, in blocks of nearly equal size, at most kBest; or the
// last ones together, at most kMost, where part of a panel would be left, which costs as much.
template <int kMost, int kBest = kMost>
inline std::size_t rows_at_once(std::size_t rest) {
  static_assert(kBest <= kMost && kMost < kBest + kPanelRows);
  if (rest <= kMost) return rest;
  const std::size_t num_blocks = (rest + kBest - 1) / kBest;
  const std::size_t rows = (rest + num_blocks - 1) / num_blocks;
  return (rows + kPanelRows - 1) / kPanelRows * kPanelRows;
}

// With few rows a tile's weights serve all rows while they are in the L1 cache; with many, the rows
// stay there while the tiles go by.
constexpr std::size_t kFewRows = 24;

template <class V, int kMost, int kBest, int kPanel, Format kFormat, bool kHasMin,
          Rounding kRounding>
inline void quantized_linear(const ProductTask& task) {
  constexpr std::size_t kGroupBytes = kFormat == Format::kQ4   ? 256
                                      : kFormat == Format::kQ8 ? 512
                                                               : kSixBitBlockBytes / 8;
  const std::size_t num_groups = task.weight->num_groups();
  // A single row stays in the cache whole.
  const std::size_t at_once = kMost == 1 ? num_groups : kGroupsAtOnce;
  const auto weights_at = [&](std::size_t tile, std::size_t group) {
    return task.weight->values<std::uint8_t>() + (tile * num_groups + group) * kGroupBytes;
  };
  const bool tiles_first = task.num_rows <= kFewRows;
  for (std::size_t begin = 0; begin < num_groups; begin += at_once) {
    const std::size_t end = begin + at_once < num_groups ? begin + at_once : num_groups;
    const auto next = [&](std::size_t tile) {
      if (tile + 1 < task.tile_end) return weights_at(tile + 1, begin);
      if (end < num_groups) return weights_at(task.tile_begin, end);
      return task.next != nullptr ? task.next : weights_at(tile + 1, 0);
    };
    // Few rows wait for memory while the first of them pass; so each block of them asks for its
    // share of the next tile.
    const auto ahead = [&](std::size_t tile, std::size_t row, std::size_t rows) {
      const std::uint8_t* const weights = next(tile);
      const std::size_t share =
          tiles_first ? (kGroupBytes * rows / task.num_rows + 63) / 64 * 64 : 0;
      return Ahead{weights, weights + (end - begin) * kGroupBytes * row / task.num_rows, share};
    };
    for (std::size_t tile = task.tile_begin; tiles_first && tile < task.tile_end; ++tile) {
      for (std::size_t row = 0; row < task.num_rows;) {
        const std::size_t rows = kMost == 1 ? 1 : rows_at_once<kMost, kBest>(task.num_rows - row);
        quantized_rows<V, kMost, kPanel, kFormat, kHasMin, kRounding>(task, tile, row, rows, begin,
                                                                      end, ahead(tile, row, rows));
        row += rows;
      }
    }
    for (std::size_t row = 0; !tiles_first && row < task.num_rows;) {
      const std::size_t rows = kMost == 1 ? 1 : rows_at_once<kMost, kBest>(task.num_rows - row);
      for (std::size_t tile = task.tile_begin; tile < task.tile_end; ++tile) {
        quantized_rows<V, kMost, kPanel, kFormat, kHasMin, kRounding>(task, tile, row, rows, begin,
                                                                      end, ahead(tile, row, rows));
      }
      row += rows;
    }
  }
}

template <class V, Format kFormat, bool kHasMin, Rounding kRounding>
inline void quantized_linear(const ProductTask& task) {
  constexpr bool kWide = kRounding == Rounding::kWide;
  constexpr int kBest = kFormat == Format::kQ6 ? V::kSixBitRows
                        : kWide                ? V::kWideRows
                                               : V::kByteRows;
  constexpr int kMost = kBest < V::kMostRows ? kBest + kPanelRows - 1 : kBest;
  if (task.x.panel_rows == 1) {
    return quantized_linear<V, 1, 1, 1, kFormat, kHasMin, kRounding>(task);
  }
  quantized_linear<V, kMost, kBest, kPanelRows, kFormat, kHasMin, kRounding>(task);
}

template <class V, Format kFormat, bool kHasMin>
inline void quantized_linear(const ProductTask& task) {
  switch (task.x.rounding) {
    case Rounding::kCoarse:
      if constexpr (V::kScalesByExponent) {
        return quantized_linear<V, kFormat, kHasMin, Rounding::kCoarse>(task);
      }
      [[fallthrough]];
    case Rounding::kFine:
      return quantized_linear<V, kFormat, kHasMin, Rounding::kFine>(task);
    case Rounding::kWide:
      return quantized_linear<V, kFormat, kHasMin, Rounding::kWide>(task);
  }
}

template <class V, int kMost, class Weight>
inline void float_rows(const ProductTask& task, std::size_t tile, std::size_t row,
                       std::size_t num_rows) {
  if (num_rows == kMost) {
    float* out = task.out + row * task.out_stride + (tile - task.tile_begin) * kTile;
    return float_tile<V, kMost, Weight>(*task.weight, task.x, tile, row, out, task.out_stride);
  }
  if constexpr (kMost > 1) float_rows<V, kMost - 1, Weight>(task, tile, row, num_rows);
}

template <class V, class Weight>
inline void float_linear(const ProductTask& task) {
  for (std::size_t row = 0; row < task.num_rows;) {
    const std::size_t rows = rows_at_once<V::kMostRows>(task.num_rows - row);
    for (std::size_t tile = task.tile_begin; tile < task.tile_end; ++tile) {
      float_rows<V, V::kMostRows, Weight>(task, tile, row, rows);
    }
    row += rows;
  }
}

template <class V>
void linear_kernel(const ProductTask& task) {
  const bool has_min = task.weight->has_min();
  switch (task.weight->format()) {
    case Format::kFloat32:
      return float_linear<V, float>(task);
    case Format::kFloat16:
      return float_linear<V, Float16>(task);
    case Format::kBfloat16:
      return float_linear<V, Bfloat16>(task);
    case Format::kQ4:
      return has_min ? quantized_linear<V, Format::kQ4, true>(task)
                     : quantized_linear<V, Format::kQ4, false>(task);
    case Format::kQ6:
      return quantized_linear<V, Format::kQ6, false>(task);
    case Format::kQ8:
      return has_min ? quantized_linear<V, Format::kQ8, true>(task)
                     : quantized_linear<V, Format::kQ8, false>(task);
  }
}

// Below this a group counts as zeros: the inverse of its scale would leave float32's range.
constexpr float kLeastMagnitude = 0x1p-100f;

// Of 16 neighbouring groups.
struct GroupSteps {
  float scale[kTile];
  float exponent[kTile];        // of a coarse scale: its log2
  float steps_per_unit[kTile];  // of the bytes, or the high ones
};

// The least powers of two that are not below the scales. What is not finite becomes NaN.
inline void make_coarse(GroupSteps& steps) {
  for (std::size_t i = 0; i < kTile; ++i) {
    const float scale = steps.scale[i];
    const std::uint32_t bits = (std::bit_cast<std::uint32_t>(scale) + 0x7fffffu) & 0x7f800000u;
    const auto exponent = static_cast<float>(static_cast<std::int32_t>(bits >> 23) - 127);
    const bool is_finite = scale <= __FLT_MAX__;
    steps.scale[i] = is_finite ? std::bit_cast<float>(bits) : __builtin_nanf("");
    steps.exponent[i] = is_finite ? exponent : __builtin_nanf("");
    steps.steps_per_unit[i] = 1.0f / steps.scale[i];
  }
}

// Of groups [0, count) of x, count <= 16: all magnitudes, then all divisions, so that no group
// waits for the one before. A group with a NaN gets it as its scale.
inline GroupSteps steps_of_groups(const float* x, std::size_t count, Rounding rounding) {
  float largest[kTile] = {};
  for (std::size_t i = 0; i < count; ++i) largest[i] = largest_size(x + i * kGroup);
  GroupSteps steps{};
  for (std::size_t i = 0; i < kTile; ++i) {
    steps.scale[i] = largest[i] / 127.0f;
    steps.steps_per_unit[i] = 127.0f / largest[i];
  }
  if (rounding == Rounding::kCoarse) make_coarse(steps);
  for (std::size_t i = 0; i < kTile; ++i) {
    if (rounding == Rounding::kWide) steps.scale[i] /= static_cast<float>(kWideStep);
    if (!(largest[i] >= kLeastMagnitude)) steps.steps_per_unit[i] = 0.0f;
  }
  return steps;
}

// Bytes of group i of x, and low bytes if it is wide; sums of each half's integers.
template <class V, bool kWide>
inline void quantize_group(const float* x, const GroupSteps& steps, std::size_t i,
                           std::int8_t* bytes, std::int8_t* low, std::int32_t (&sums)[2]) {
  using F32 = typename V::F32;
  const F32 steps_per_unit = F32::all(steps.steps_per_unit[i]);
  for (std::size_t half = 0; half < 2; ++half) {
    const F32 exact = F32::load(x + i * kGroup + 16 * half) * steps_per_unit;
    std::int8_t* const high = bytes + 16 * half;
    V::store_bytes(exact, high);
    sums[half] = V::sum_of_bytes(high);
    if constexpr (!kWide) continue;
    const F32 rounded = V::I32::widen_signed_bytes(high).to_float();
    V::store_bytes((exact - rounded) * F32::all(static_cast<float>(kWideStep)), low + 16 * half);
    sums[half] = sums[half] * kWideStep + V::sum_of_bytes(low + 16 * half);
  }
}

template <class V, bool kWide>
inline void quantize_row(const float* x, std::size_t size, std::size_t row, const ByteRows& rows) {
  const ByteRows to = rows;  // a copy, as bytes that are stored may alias the original
  const std::size_t panel_rows = to.panel_rows;
  const std::size_t panel = row / panel_rows;
  const std::size_t place = row % panel_rows;
  const std::size_t num_groups = (size + kGroup - 1) / kGroup;
  std::size_t at = panel * (to.padded_in / kGroup) * panel_rows + place;
  std::size_t byte_at = panel * to.padded_in * panel_rows + place * 4;
  for (std::size_t begin = 0; begin < num_groups; begin += kTile) {
    const float* const from = x + begin * kGroup;
    const std::size_t count = std::min(kTile, num_groups - begin);
    const GroupSteps steps = steps_of_groups(from, count, to.rounding);
    for (std::size_t i = 0; i < count; ++i) {
      alignas(64) std::int8_t bytes[kGroup];
      alignas(64) std::int8_t low[kGroup];
      std::int32_t sums[2];
      quantize_group<V, kWide>(from, steps, i, bytes, low, sums);
      const std::int32_t sum = sums[0] + sums[1];
      // Number by number: copies of whole structs would wait for their parts.
      GroupScale& group = to.groups[at];
      group.scale = steps.scale[i];
      group.exponent = steps.exponent[i];
      group.scaled_sum = steps.scale[i] * static_cast<float>(sum);
      group.nibble_bias = -8 * sum;
      HalfBiases& halves = to.halves[at];
      halves.of[0] = -32 * sums[0];
      halves.of[1] = -32 * sums[1];
      at += panel_rows;
      for (std::size_t k = 0; k < kGroup; k += 4) {
        __builtin_memcpy(to.bytes + byte_at, bytes + k, 4);
        if constexpr (kWide) __builtin_memcpy(to.low_bytes + byte_at, low + k, 4);
        byte_at += 4 * panel_rows;
      }
    }
  }
}

template <class V>
void quantize_kernel(const float* x, std::size_t size, std::size_t row, const ByteRows& to) {
  if (to.rounding == Rounding::kWide) return quantize_row<V, true>(x, size, row, to);
  quantize_row<V, false>(x, size, row, to);
}

template <class V, bool kWide>
inline void quantize_dot(const float* x, std::size_t size, std::size_t padded_in,
                         std::int8_t* bytes, std::int8_t* low_bytes, float* scales,
                         float* scaled_sums) {
  const std::size_t num_groups = (size + kGroup - 1) / kGroup;
  for (std::size_t begin = 0; begin < padded_in / kGroup; begin += kTile) {
    const float* const from = x + begin * kGroup;
    const std::size_t count = begin < num_groups ? std::min(kTile, num_groups - begin) : 0;
    const GroupSteps steps =
        steps_of_groups(from, count, kWide ? Rounding::kWide : Rounding::kFine);
    for (std::size_t i = 0; i < kTile; ++i) {
      alignas(64) std::int8_t group[kGroup] = {};
      alignas(64) std::int8_t low[kGroup] = {};
      std::int32_t sums[2] = {};
      if (i < count) quantize_group<V, kWide>(from, steps, i, group, low, sums);
      scales[begin + i] = steps.scale[i];
      scaled_sums[begin + i] = steps.scale[i] * static_cast<float>(sums[0] + sums[1]);
      for (std::size_t k = 0; k < kGroup; k += 4) {
        const std::size_t at = begin * kGroup + k * kTile + 4 * i;
        __builtin_memcpy(bytes + at, group + k, 4);
        if constexpr (kWide) __builtin_memcpy(low_bytes + at, low + k, 4);
      }
    }
  }
}

template <class V>
void quantize_dot_kernel(const float* x, std::size_t size, std::size_t padded_in,
                         std::int8_t* bytes, std::int8_t* low_bytes, float* scales,
                         float* scaled_sums) {
  const auto quantize = low_bytes != nullptr ? quantize_dot<V, true> : quantize_dot<V, false>;
  quantize(x, size, padded_in, bytes, low_bytes, scales, scaled_sums);
}

}  // namespace

}  // namespace nestling
