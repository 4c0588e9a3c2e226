// The sampler's passes over the vocabulary: branch-free loops that compilers turn into vectors.
//
// Built once for each variant, with the same bits from each. Everything here
// is static and calls nothing of the standard library that might stay a function: the linker would
// keep one copy for all variants, perhaps that of a variant which the processor cannot run.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sampling/exp.h"
#include "sampling/logit_keys.h"
#include "sampling/sampling_kernels.h"

namespace nestling {

// Sums have sixteen lanes, so that the order of the additions is the same however wide the vectors
// are. Loops over blocks keep what one of them needs in the first-level cache.
constexpr std::size_t kLanes = 16;

static inline double sum_of_lanes(const double* lanes) {
  double eight[8];
  for (std::size_t i = 0; i < 8; ++i) eight[i] = lanes[i] + lanes[i + 8];
  return ((eight[0] + eight[1]) + (eight[2] + eight[3])) +
         ((eight[4] + eight[5]) + (eight[6] + eight[7]));
}

static inline std::size_t block_end(std::size_t begin, std::size_t count) {
  return begin + kBlock < count ? begin + kBlock : count;
}

static inline void add_to_lanes(const float* values, std::size_t count, double* lanes) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += static_cast<double>(values[i + lane]);
    }
  }
  for (std::size_t lane = 0; i < count; ++i, ++lane) lanes[lane] += static_cast<double>(values[i]);
}

static inline float larger_of(float a, float b) { return a > b ? a : b; }  // b if a is NaN

static inline float largest_of_block(const float* block) {
  constexpr std::size_t kRow = 64;
  float row[kRow];
  for (std::size_t i = 0; i < kRow; ++i) row[i] = larger_of(block[i], -kInfinity);
  for (std::size_t begin = kRow; begin < kBlock; begin += kRow) {
    for (std::size_t i = 0; i < kRow; ++i) row[i] = larger_of(block[begin + i], row[i]);
  }
  for (std::size_t i = 0; i < 32; ++i) row[i] = larger_of(row[i + 32], row[i]);
  for (std::size_t i = 0; i < 16; ++i) row[i] = larger_of(row[i + 16], row[i]);
  for (std::size_t i = 0; i < 8; ++i) row[i] = larger_of(row[i + 8], row[i]);
  for (std::size_t i = 0; i < 4; ++i) row[i] = larger_of(row[i + 4], row[i]);
  return larger_of(larger_of(row[0], row[1]), larger_of(row[2], row[3]));
}

static bool block_maxima(const float* logits, std::size_t count, float* maxima) {
  std::int32_t num_nan = 0;
  std::size_t begin = 0;
  for (; begin + kBlock <= count; begin += kBlock) {
    const float* const block = logits + begin;
    maxima[begin / kBlock] = largest_of_block(block) + 0.0f;  // -0 becomes +0
    for (std::size_t i = 0; i < kBlock; ++i) num_nan += block[i] != block[i] ? 1 : 0;
  }
  float largest = -kInfinity;
  for (std::size_t i = begin; i < count; ++i) {
    largest = larger_of(logits[i], largest);
    num_nan += logits[i] != logits[i] ? 1 : 0;
  }
  if (begin < count) maxima[begin / kBlock] = largest + 0.0f;
  return num_nan == 0;
}

static void buckets_of(const float* logits, std::size_t count, std::int32_t lowest, int shift,
                       std::uint16_t* buckets) {
  for (std::size_t i = 0; i < count; ++i) {
    buckets[i] = bucket_of(logits[i], lowest, shift);
  }
}

static inline float weight_of(float logit, const Weighing& weighing) {
  const float weight = exp2_nonpositive((logit - weighing.max_logit) * weighing.factor);
  return logit < weighing.least_logit ? 0.0f : weight;
}

[[maybe_unused]] static double weights_of(const float* logits, std::size_t count,
                                          const Weighing& weighing, float* weights) {
  const Weighing copy = weighing;  // which no weight can overwrite
  double sums[kLanes] = {};
  for (std::size_t begin = 0; begin < count; begin += kBlock) {
    const std::size_t end = block_end(begin, count);
    for (std::size_t i = begin; i < end; ++i) weights[i] = weight_of(logits[i], copy);
    add_to_lanes(weights + begin, end - begin, sums);
  }
  return sum_of_lanes(sums);
}

[[maybe_unused]] static double sum_kept(const float* logits, const float* weights,
                                        std::size_t count, float least_logit, float least_weight) {
  double sums[kLanes] = {};
  for (std::size_t begin = 0; begin < count; begin += kBlock) {
    const std::size_t end = block_end(begin, count);
    float kept[kBlock];
    for (std::size_t i = begin; i < end; ++i) {
      const float weight = weights[i];
      const float heavy = weight < least_weight ? 0.0f : weight;
      kept[i - begin] = logits[i] < least_logit ? 0.0f : heavy;
    }
    add_to_lanes(kept, end - begin, sums);
  }
  return sum_of_lanes(sums);
}

// Writes the indices and, unless `values` is null, the logits that are inside, by eights: most have
// none.
template <class IsInside>
static inline std::size_t ids_inside(const float* logits, std::size_t begin, std::size_t end,
                                     const IsInside& is_inside, std::uint32_t* ids, float* values) {
  constexpr std::size_t kPiece = 64;
  std::size_t num_ids = 0;
  const auto write = [&](std::size_t i, std::uint8_t inside) {
    ids[num_ids] = static_cast<std::uint32_t>(i);  // stays if it is inside
    if (values != nullptr) values[num_ids] = logits[i];
    num_ids += inside;
  };
  std::size_t piece = begin;
  for (; piece + kPiece <= end; piece += kPiece) {
    std::uint8_t inside[kPiece];
    for (std::size_t i = 0; i < kPiece; ++i) inside[i] = is_inside(logits[piece + i]) ? 1 : 0;
    for (std::size_t i = 0; i < kPiece; i += 8) {
      std::uint64_t any;
      __builtin_memcpy(&any, inside + i, 8);
      if (any == 0) continue;
      for (std::size_t j = i; j < i + 8; ++j) write(piece + j, inside[j]);
    }
  }
  for (; piece < end; ++piece) write(piece, is_inside(logits[piece]) ? 1 : 0);
  return num_ids;
}

static std::size_t ids_between(const float* logits, std::size_t begin, std::size_t end,
                               float lowest, float highest, std::uint32_t* ids, float* values) {
  const auto is_inside = [=](float x) { return (x >= lowest) & (x <= highest); };
  return ids_inside(logits, begin, end, is_inside, ids, values);
}

[[maybe_unused]] static Split split(const float* logits, const float* weights, std::size_t count,
                                    float lowest, float highest, std::uint32_t* ids) {
  const auto is_inside = [=](float x) { return (x > lowest) & (x < highest); };
  double sums[kLanes] = {};
  std::uint32_t num_from_highest = 0;
  std::size_t num_ids = 0;
  for (std::size_t begin = 0; begin < count; begin += kBlock) {
    const std::size_t end = block_end(begin, count);
    num_ids += ids_inside(logits, begin, end, is_inside, ids + num_ids, nullptr);
    if (weights == nullptr) {
      for (std::size_t i = begin; i < end; ++i) num_from_highest += logits[i] >= highest ? 1 : 0;
      continue;
    }
    float kept[kBlock];
    for (std::size_t i = begin; i < end; ++i) {
      const float weight = weights[i];
      kept[i - begin] = logits[i] < highest ? 0.0f : weight;
    }
    add_to_lanes(kept, end - begin, sums);
  }
  return {weights == nullptr ? static_cast<double>(num_from_highest) : sum_of_lanes(sums), num_ids};
}

}  // namespace nestling
