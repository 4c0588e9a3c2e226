// y = x W^T over the tiles of a Matrix. Each variant's source file includes this file.
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

// Groups whose weights and activations stay in the first caches while tokens and tiles go by.
constexpr std::size_t kGroupsAtOnce = 128;
constexpr std::size_t kPrefetchBytes = 4096;

// Returns a sum of products times the scale of its activations. If the scale is a power of two,
// both ways give the same bits.
template <class V, ActivationQuant kQuant>
inline typename V::F32 scaled(const typename V::I32& dot, const GroupScale& group) {
  if constexpr (kQuant == ActivationQuant::kInt8Pow2) {
    return V::scaled_by_exponent(dot.to_float(), group.exponent);
  } else {
    return dot.to_float() * V::F32::all(group.scale);
  }
}

// The weights that are read after those of a call, and how much of them each group prefetches.
struct Prefetch {
  const std::uint8_t* next;
  const std::uint8_t* far;
  std::size_t far_bytes_per_group;
};

template <class V>
inline void prefetch_group(Prefetch& prefetch) {
  for (std::size_t i = 0; i < prefetch.far_bytes_per_group; i += 64)
    V::prefetch_far(prefetch.far + i);
  prefetch.far += prefetch.far_bytes_per_group;
}

template <class V, int kTokens, int kPanel, bool kNibbles, bool kHasMin, ActivationQuant kQuant>
inline void quantized_tile(const Matrix& weight, const TokenInputs& x, std::size_t tile,
                           std::size_t token, std::size_t group_begin, std::size_t group_end,
                           float* out, std::size_t out_stride, Prefetch prefetch) {
  using F32 = typename V::F32;
  using I32 = typename V::I32;
  using Bytes = typename V::Bytes;
  constexpr int kPanels = (kTokens + kPanel - 1) / kPanel;
  constexpr int kLines = kNibbles ? 4 : 8;
  constexpr bool kIsInt16 = kQuant == ActivationQuant::kInt16;
  constexpr std::size_t kPrefetchGroups = kPrefetchBytes / (kLines * 64);
  const std::size_t first = tile * weight.num_groups() + group_begin;
  const std::uint8_t* line = weight.values<std::uint8_t>() + first * kLines * 64;
  const std::uint16_t* scales = weight.scales() + first * kTile;
  const std::uint16_t* mins = kHasMin ? weight.mins() + first * kTile : nullptr;
  const std::int8_t* values[kPanels];
  const std::int8_t* low_values[kPanels];
  const GroupScale* groups[kPanels];
  for (int p = 0; p < kPanels; ++p) {
    const std::size_t panel = token / kPanel + static_cast<std::size_t>(p);
    const std::size_t at = (panel * x.padded_in + group_begin * kGroup) * kPanel;
    values[p] = x.values + at;
    low_values[p] = kIsInt16 ? x.low_values + at : nullptr;
    groups[p] = x.groups + (panel * x.num_groups() + group_begin) * kPanel;
  }
  F32 sums[kTokens];
#pragma GCC unroll 16
  for (int r = 0; r < kTokens; ++r) {
    sums[r] =
        group_begin == 0 ? F32::zero() : F32::load(out + static_cast<std::size_t>(r) * out_stride);
  }
  for (std::size_t g = group_begin; g < group_end; ++g) {
    const std::uint8_t* const near =
        g + kPrefetchGroups < group_end
            ? line + kPrefetchBytes
            : prefetch.next + (g + kPrefetchGroups - group_end) * kLines * 64;
    for (int j = 0; j < kLines; ++j) V::prefetch(near + 64 * j);
    if constexpr (kTokens > 1) prefetch_group<V>(prefetch);
    I32 dots[kTokens];
    I32 low_dots[kTokens];
#pragma GCC unroll 16
    for (int r = 0; r < kTokens; ++r) {
      const GroupScale& group = groups[r / kPanel][r % kPanel];
      const I32 start = kNibbles ? (kHasMin ? I32::zero() : I32::all(group.nibble_bias))
                                 : V::signed_start(group.nibble_bias);
      dots[r] = kIsInt16 ? I32::zero() : start;
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
          for (int r = 0; r < kTokens; ++r) {
            const int at = kPanel * (8 * j + 4 * h) + 4 * (r % kPanel);
            dots[r] = V::add_dot(dots[r], halves[h], values[r / kPanel] + at);
            if constexpr (kIsInt16) {
              low_dots[r] = V::add_dot(low_dots[r], halves[h], low_values[r / kPanel] + at);
            }
          }
        }
      } else {
        const Bytes w = Bytes::load_signed(reinterpret_cast<const std::int8_t*>(line) + 64 * j);
#pragma GCC unroll 16
        for (int r = 0; r < kTokens; ++r) {
          const int at = kPanel * 4 * j + 4 * (r % kPanel);
          dots[r] = V::add_dot_signed(dots[r], w, values[r / kPanel] + at);
          if constexpr (kIsInt16) {
            low_dots[r] = V::add_dot_signed(low_dots[r], w, low_values[r / kPanel] + at);
          }
        }
      }
    }
    const F32 scale = F32::load_float16(scales);
#pragma GCC unroll 16
    for (int r = 0; r < kTokens; ++r) {
      const GroupScale& group = groups[r / kPanel][r % kPanel];
      const I32 dot = kIsInt16 ? dots[r].times(kInt16Step) + low_dots[r] : dots[r];
      sums[r] = V::fma(scaled<V, kQuant>(dot, group), scale, sums[r]);
      if constexpr (kHasMin) {
        sums[r] = V::fma(F32::load_float16(mins), F32::all(group.scaled_sum), sums[r]);
      }
    }
    line += kLines * 64;
    scales += kTile;
    if constexpr (kHasMin) mins += kTile;
    for (int p = 0; p < kPanels; ++p) {
      values[p] += kGroup * kPanel;
      if constexpr (kIsInt16) low_values[p] += kGroup * kPanel;
      groups[p] += kPanel;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kTokens; ++r) sums[r].store(out + static_cast<std::size_t>(r) * out_stride);
}

// The same for codes of 6 bits. A group's halves have scales of their own.
template <class V, int kTokens, int kPanel, ActivationQuant kQuant>
inline void six_bit_tile(const Matrix& weight, const TokenInputs& x, std::size_t tile,
                         std::size_t token, std::size_t group_begin, std::size_t group_end,
                         float* out, std::size_t out_stride, Prefetch prefetch) {
  using F32 = typename V::F32;
  using I32 = typename V::I32;
  using Bytes = typename V::Bytes;
  constexpr int kPanels = (kTokens + kPanel - 1) / kPanel;
  constexpr std::size_t kBlockGroups = kSixBitBlock / kGroup;
  constexpr bool kIsInt16 = kQuant == ActivationQuant::kInt16;
  static_assert(kGroupsAtOnce % kBlockGroups == 0);
  const std::size_t first = (tile * weight.num_groups() + group_begin) / kBlockGroups;
  const std::uint8_t* line = weight.values<std::uint8_t>() + first * kSixBitBlockBytes;
  const std::uint16_t* scales = weight.scales() + first * kTile;
  const std::int8_t* values[kPanels];
  const std::int8_t* low_values[kPanels];
  const GroupScale* groups[kPanels];
  const HalfBiases* halves[kPanels];
  for (int p = 0; p < kPanels; ++p) {
    const std::size_t panel = token / kPanel + static_cast<std::size_t>(p);
    const std::size_t at = (panel * x.padded_in + group_begin * kGroup) * kPanel;
    values[p] = x.values + at;
    low_values[p] = kIsInt16 ? x.low_values + at : nullptr;
    groups[p] = x.groups + (panel * x.num_groups() + group_begin) * kPanel;
    halves[p] = x.halves + (panel * x.num_groups() + group_begin) * kPanel;
  }
  F32 sums[kTokens];
#pragma GCC unroll 16
  for (int r = 0; r < kTokens; ++r) {
    sums[r] =
        group_begin == 0 ? F32::zero() : F32::load(out + static_cast<std::size_t>(r) * out_stride);
  }
  for (std::size_t block = group_begin; block < group_end; block += kBlockGroups) {
    const auto* factors = reinterpret_cast<const std::int8_t*>(line);
    // All prefetches follow the order of the memory. Fetching the factors before their turn costs a
    // sixth of the speed.
    for (std::size_t j = 0; j < kSixBitFactorBytes; j += 64) {
      V::prefetch(line + kPrefetchBytes + j);
    }
    line += kSixBitFactorBytes;
    const F32 block_scale = F32::load_float16(scales);
    scales += kTile;
    for (std::size_t g = 0; g < kBlockGroups; ++g) {
      for (int j = 0; j < 6; ++j) V::prefetch(line + kPrefetchBytes + 64 * j);
      if constexpr (kTokens > 1) prefetch_group<V>(prefetch);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const Bytes nibbles[2] = {Bytes::load(line), Bytes::load(line + 64)};
        Bytes codes[4];
        V::join_six_bits(nibbles, Bytes::load(line + 128), codes);
        const F32 scale = block_scale * I32::widen_signed_bytes(factors).to_float();
        // Computes panel by panel, as the sums of all tokens leave no registers for more.
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) {
          const int num_tokens = std::min(kTokens - p * kPanel, kPanel);
          I32 dots[kPanel];
          I32 low_dots[kPanel];
#pragma GCC unroll 4
          for (int r = 0; r < num_tokens; ++r) {
            const I32 start = I32::all(halves[p][r].of[h]);
            dots[r] = kIsInt16 ? I32::zero() : start;
            low_dots[r] = start;
          }
#pragma GCC unroll 4
          for (int s = 0; s < 4; ++s) {
#pragma GCC unroll 4
            for (int r = 0; r < num_tokens; ++r) {
              const int at = kPanel * (16 * h + 4 * s) + 4 * r;
              dots[r] = V::add_dot(dots[r], codes[s], values[p] + at);
              if constexpr (kIsInt16) {
                low_dots[r] = V::add_dot(low_dots[r], codes[s], low_values[p] + at);
              }
            }
          }
#pragma GCC unroll 4
          for (int r = 0; r < num_tokens; ++r) {
            const I32 dot = kIsInt16 ? dots[r].times(kInt16Step) + low_dots[r] : dots[r];
            F32& sum = sums[p * kPanel + r];
            sum = V::fma(scaled<V, kQuant>(dot, groups[p][r]), scale, sum);
          }
        }
        line += 3 * 64;
        factors += kTile;
      }
      for (int p = 0; p < kPanels; ++p) {
        values[p] += kGroup * kPanel;
        if constexpr (kIsInt16) low_values[p] += kGroup * kPanel;
        groups[p] += kPanel;
        halves[p] += kPanel;
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kTokens; ++r) sums[r].store(out + static_cast<std::size_t>(r) * out_stride);
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

template <class V, int kTokens, class Weight>
inline void float_tile(const Matrix& weight, const TokenInputs& x, std::size_t tile,
                       std::size_t token, float* out, std::size_t out_stride) {
  using F32 = typename V::F32;
  const std::size_t in_features = weight.in_features();
  const Weight* w = weight.values<Weight>() + tile * in_features * kTile;
  const float* from = x.floats + token * x.stride;
  F32 sums[kTokens];
#pragma GCC unroll 16
  for (int r = 0; r < kTokens; ++r) sums[r] = F32::zero();
  for (std::size_t k = 0; k < in_features; ++k) {
    const F32 lanes = load_weights<V>(w + k * kTile);
#pragma GCC unroll 16
    for (int r = 0; r < kTokens; ++r) {
      sums[r] = V::fma(F32::all(from[static_cast<std::size_t>(r) * x.stride + k]), lanes, sums[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kTokens; ++r) sums[r].store(out + static_cast<std::size_t>(r) * out_stride);
}

// Computes tokens [token, token + num_tokens) of one tile, num_tokens <= kMax.
template <class V, int kMax, int kPanel, Format kFormat, bool kHasMin, ActivationQuant kQuant>
inline void quantized_tokens(const ProductTask& task, std::size_t tile, std::size_t token,
                             std::size_t num_tokens, std::size_t group_begin, std::size_t group_end,
                             const Prefetch& prefetch) {
  if (num_tokens == kMax) {
    float* out = task.out + token * task.out_stride + (tile - task.tile_begin) * kTile;
    if constexpr (kFormat == Format::kQ6) {
      return six_bit_tile<V, kMax, kPanel, kQuant>(*task.weight, task.x, tile, token, group_begin,
                                                   group_end, out, task.out_stride, prefetch);
    } else {
      return quantized_tile<V, kMax, kPanel, kFormat == Format::kQ4, kHasMin, kQuant>(
          *task.weight, task.x, tile, token, group_begin, group_end, out, task.out_stride,
          prefetch);
    }
  }
  if constexpr (kMax > 1) {
    quantized_tokens<V, kMax - 1, kPanel, kFormat, kHasMin, kQuant>(
        task, tile, token, num_tokens, group_begin, group_end, prefetch);
  }
}

// Returns how many of `rest` tokens to take next: whole panels, in blocks of nearly equal size of
// at most kBest. The last tokens, at most kMax, go together where a part of a panel would be left,
// since a part costs as much as a panel.
template <int kMax, int kBest = kMax>
inline std::size_t tokens_at_once(std::size_t rest) {
  static_assert(kBest <= kMax && kMax < kBest + kPanelTokens);
  if (rest <= kMax) return rest;
  const std::size_t num_blocks = (rest + kBest - 1) / kBest;
  const std::size_t tokens = (rest + num_blocks - 1) / num_blocks;
  return (tokens + kPanelTokens - 1) / kPanelTokens * kPanelTokens;
}

// With up to so many tokens, a tile's weights serve all tokens while they are in the L1 cache. With
// more, the tokens stay there while the tiles go by.
constexpr std::size_t kFewTokens = 24;

template <class V, int kMax, int kBest, int kPanel, Format kFormat, bool kHasMin,
          ActivationQuant kQuant>
inline void quantized_linear(const ProductTask& task) {
  constexpr std::size_t kGroupBytes = kFormat == Format::kQ4   ? 256
                                      : kFormat == Format::kQ8 ? 512
                                                               : kSixBitBlockBytes / 8;
  const std::size_t num_groups = task.weight->num_groups();
  // A single token fits into the cache whole.
  const std::size_t at_once = kMax == 1 ? num_groups : kGroupsAtOnce;
  const auto weights_at = [&](std::size_t tile, std::size_t group) {
    return task.weight->values<std::uint8_t>() + (tile * num_groups + group) * kGroupBytes;
  };
  const bool tiles_first = task.num_tokens <= kFewTokens;
  for (std::size_t begin = 0; begin < num_groups; begin += at_once) {
    const std::size_t end = begin + at_once < num_groups ? begin + at_once : num_groups;
    const auto next = [&](std::size_t tile) {
      if (tile + 1 < task.tile_end) return weights_at(tile + 1, begin);
      if (end < num_groups) return weights_at(task.tile_begin, end);
      return task.next != nullptr ? task.next : weights_at(tile + 1, 0);
    };
    // Few tokens wait for memory while the first of them pass. So each block of them prefetches its
    // share of the next tile.
    const auto prefetch_of = [&](std::size_t tile, std::size_t token, std::size_t tokens) {
      const std::uint8_t* const weights = next(tile);
      const std::size_t share =
          tiles_first ? (kGroupBytes * tokens / task.num_tokens + 63) / 64 * 64 : 0;
      return Prefetch{weights, weights + (end - begin) * kGroupBytes * token / task.num_tokens,
                      share};
    };
    for (std::size_t tile = task.tile_begin; tiles_first && tile < task.tile_end; ++tile) {
      for (std::size_t token = 0; token < task.num_tokens;) {
        const std::size_t tokens =
            kMax == 1 ? 1 : tokens_at_once<kMax, kBest>(task.num_tokens - token);
        quantized_tokens<V, kMax, kPanel, kFormat, kHasMin, kQuant>(
            task, tile, token, tokens, begin, end, prefetch_of(tile, token, tokens));
        token += tokens;
      }
    }
    for (std::size_t token = 0; !tiles_first && token < task.num_tokens;) {
      const std::size_t tokens =
          kMax == 1 ? 1 : tokens_at_once<kMax, kBest>(task.num_tokens - token);
      for (std::size_t tile = task.tile_begin; tile < task.tile_end; ++tile) {
        quantized_tokens<V, kMax, kPanel, kFormat, kHasMin, kQuant>(
            task, tile, token, tokens, begin, end, prefetch_of(tile, token, tokens));
      }
      token += tokens;
    }
  }
}

template <class V, Format kFormat, bool kHasMin, ActivationQuant kQuant>
inline void quantized_linear(const ProductTask& task) {
  constexpr bool kIsInt16 = kQuant == ActivationQuant::kInt16;
  constexpr int kBest = kFormat == Format::kQ6 ? V::kSixBitTokens
                        : kIsInt16             ? V::kInt16Tokens
                                               : V::kInt8Tokens;
  constexpr int kMax = kBest < V::kMaxTokens ? kBest + kPanelTokens - 1 : kBest;
  if (task.x.panel_tokens == 1) {
    return quantized_linear<V, 1, 1, 1, kFormat, kHasMin, kQuant>(task);
  }
  quantized_linear<V, kMax, kBest, kPanelTokens, kFormat, kHasMin, kQuant>(task);
}

template <class V, Format kFormat, bool kHasMin>
inline void quantized_linear(const ProductTask& task) {
  switch (task.x.quant) {
    case ActivationQuant::kInt8Pow2:
      if constexpr (V::kScalesByExponent) {
        return quantized_linear<V, kFormat, kHasMin, ActivationQuant::kInt8Pow2>(task);
      }
      [[fallthrough]];
    case ActivationQuant::kInt8:
      return quantized_linear<V, kFormat, kHasMin, ActivationQuant::kInt8>(task);
    case ActivationQuant::kInt16:
      return quantized_linear<V, kFormat, kHasMin, ActivationQuant::kInt16>(task);
  }
}

template <class V, int kMax, class Weight>
inline void float_tokens(const ProductTask& task, std::size_t tile, std::size_t token,
                         std::size_t num_tokens) {
  if (num_tokens == kMax) {
    float* out = task.out + token * task.out_stride + (tile - task.tile_begin) * kTile;
    return float_tile<V, kMax, Weight>(*task.weight, task.x, tile, token, out, task.out_stride);
  }
  if constexpr (kMax > 1) float_tokens<V, kMax - 1, Weight>(task, tile, token, num_tokens);
}

template <class V, class Weight>
inline void float_linear(const ProductTask& task) {
  for (std::size_t token = 0; token < task.num_tokens;) {
    const std::size_t tokens = tokens_at_once<V::kMaxTokens>(task.num_tokens - token);
    for (std::size_t tile = task.tile_begin; tile < task.tile_end; ++tile) {
      float_tokens<V, V::kMaxTokens, Weight>(task, tile, token, tokens);
    }
    token += tokens;
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

// A group below this counts as zeros, as the inverse of its scale would leave float32's range.
constexpr float kLeastMagnitude = 0x1p-100f;

// Scales of 16 neighbouring groups.
struct GroupSteps {
  float scale[kTile];
  float exponent[kTile];        // log2 of a kInt8Pow2 scale
  float steps_per_unit[kTile];  // of the int8 values; with kInt16 of the high ones
};

// Replaces the scales by the least powers of two that are not below them. What is not finite
// becomes NaN.
inline void round_up_to_powers_of_two(GroupSteps& steps) {
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

// Returns the scales of groups [0, count) of x, count <= 16. All magnitudes come first, then all
// divisions, so that no group waits for the one before. A group with a NaN gets it as its scale.
inline GroupSteps steps_of_groups(const float* x, std::size_t count, ActivationQuant quant) {
  float largest[kTile] = {};
  for (std::size_t i = 0; i < count; ++i) largest[i] = largest_size(x + i * kGroup);
  GroupSteps steps{};
  for (std::size_t i = 0; i < kTile; ++i) {
    steps.scale[i] = largest[i] / 127.0f;
    steps.steps_per_unit[i] = 127.0f / largest[i];
  }
  if (quant == ActivationQuant::kInt8Pow2) round_up_to_powers_of_two(steps);
  for (std::size_t i = 0; i < kTile; ++i) {
    if (quant == ActivationQuant::kInt16) steps.scale[i] /= static_cast<float>(kInt16Step);
    if (!(largest[i] >= kLeastMagnitude)) steps.steps_per_unit[i] = 0.0f;
  }
  return steps;
}

// Writes the int8 values of group i of x, the low values if it is kInt16, and the sums of each
// half's integers.
template <class V, bool kIsInt16>
inline void quantize_group(const float* x, const GroupSteps& steps, std::size_t i,
                           std::int8_t* values, std::int8_t* low, std::int32_t (&sums)[2]) {
  using F32 = typename V::F32;
  const F32 steps_per_unit = F32::all(steps.steps_per_unit[i]);
  for (std::size_t half = 0; half < 2; ++half) {
    const F32 exact = F32::load(x + i * kGroup + 16 * half) * steps_per_unit;
    std::int8_t* const high = values + 16 * half;
    V::store_int8(exact, high);
    sums[half] = V::sum_of_int8(high);
    if constexpr (!kIsInt16) continue;
    const F32 rounded = V::I32::widen_signed_bytes(high).to_float();
    V::store_int8((exact - rounded) * F32::all(static_cast<float>(kInt16Step)), low + 16 * half);
    sums[half] = sums[half] * kInt16Step + V::sum_of_int8(low + 16 * half);
  }
}

template <class V, bool kIsInt16>
inline void quantize_token(const float* x, std::size_t size, std::size_t token,
                           const Int8Tokens& tokens) {
  const Int8Tokens to = tokens;  // a copy, as values that are stored may alias the original
  const std::size_t panel_tokens = to.panel_tokens;
  const std::size_t panel = token / panel_tokens;
  const std::size_t place = token % panel_tokens;
  const std::size_t num_groups = (size + kGroup - 1) / kGroup;
  std::size_t at = panel * (to.padded_in / kGroup) * panel_tokens + place;
  std::size_t value_at = panel * to.padded_in * panel_tokens + place * 4;
  for (std::size_t begin = 0; begin < num_groups; begin += kTile) {
    const float* const from = x + begin * kGroup;
    const std::size_t count = std::min(kTile, num_groups - begin);
    const GroupSteps steps = steps_of_groups(from, count, to.quant);
    for (std::size_t i = 0; i < count; ++i) {
      alignas(64) std::int8_t values[kGroup];
      alignas(64) std::int8_t low[kGroup];
      std::int32_t sums[2];
      quantize_group<V, kIsInt16>(from, steps, i, values, low, sums);
      const std::int32_t sum = sums[0] + sums[1];
      // Stores number by number, as copies of whole structs would wait for their parts.
      GroupScale& group = to.groups[at];
      group.scale = steps.scale[i];
      group.exponent = steps.exponent[i];
      group.scaled_sum = steps.scale[i] * static_cast<float>(sum);
      group.nibble_bias = -8 * sum;
      HalfBiases& halves = to.halves[at];
      halves.of[0] = -32 * sums[0];
      halves.of[1] = -32 * sums[1];
      at += panel_tokens;
      for (std::size_t k = 0; k < kGroup; k += 4) {
        __builtin_memcpy(to.values + value_at, values + k, 4);
        if constexpr (kIsInt16) __builtin_memcpy(to.low_values + value_at, low + k, 4);
        value_at += 4 * panel_tokens;
      }
    }
  }
}

template <class V>
void quantize_kernel(const float* x, std::size_t size, std::size_t token, const Int8Tokens& to) {
  if (to.quant == ActivationQuant::kInt16) return quantize_token<V, true>(x, size, token, to);
  quantize_token<V, false>(x, size, token, to);
}

template <class V, bool kIsInt16>
inline void quantize_dot(const float* x, std::size_t size, std::size_t padded_in,
                         std::int8_t* values, std::int8_t* low_values, float* scales,
                         float* scaled_sums) {
  const std::size_t num_groups = (size + kGroup - 1) / kGroup;
  for (std::size_t begin = 0; begin < padded_in / kGroup; begin += kTile) {
    const float* const from = x + begin * kGroup;
    const std::size_t count = begin < num_groups ? std::min(kTile, num_groups - begin) : 0;
    const GroupSteps steps =
        steps_of_groups(from, count, kIsInt16 ? ActivationQuant::kInt16 : ActivationQuant::kInt8);
    for (std::size_t i = 0; i < kTile; ++i) {
      alignas(64) std::int8_t group[kGroup] = {};
      alignas(64) std::int8_t low[kGroup] = {};
      std::int32_t sums[2] = {};
      if (i < count) quantize_group<V, kIsInt16>(from, steps, i, group, low, sums);
      scales[begin + i] = steps.scale[i];
      scaled_sums[begin + i] = steps.scale[i] * static_cast<float>(sums[0] + sums[1]);
      for (std::size_t k = 0; k < kGroup; k += 4) {
        const std::size_t at = begin * kGroup + k * kTile + 4 * i;
        __builtin_memcpy(values + at, group + k, 4);
        if constexpr (kIsInt16) __builtin_memcpy(low_values + at, low + k, 4);
      }
    }
  }
}

template <class V>
void quantize_dot_kernel(const float* x, std::size_t size, std::size_t padded_in,
                         std::int8_t* values, std::int8_t* low_values, float* scales,
                         float* scaled_sums) {
  const auto quantize = low_values != nullptr ? quantize_dot<V, true> : quantize_dot<V, false>;
  quantize(x, size, padded_in, values, low_values, scales, scaled_sums);
}

}  // namespace

}  // namespace nestling
