// The sampler's passes over the vocabulary: branch-free loops that compilers turn into vectors.
//
// Built once for each variant, with the same bits from each. Everything here
// is static and calls nothing of the standard library that might stay a function: the linker would
// keep one copy for all variants, perhaps that of a variant which the processor cannot run.
#pragma once

#include <cstddef>
#include <cstdint>

#include "exp.h"
#include "kernel_table.h"
#include "logit_keys.h"

namespace nestling {

static KeyExtent key_extent(const float* logits, std::size_t count) {
  const std::int32_t banned = key_of(-kInfinity);
  std::int32_t lowest = INT32_MAX;
  std::int32_t lowest_finite = INT32_MAX;
  std::int32_t highest = INT32_MIN;
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t key = key_of(logits[i]);
    // All bits where the key is banned's, else none: lets -inf pass for the largest key.
    const std::int32_t is_banned = -static_cast<std::int32_t>(key == banned);
    lowest = smaller(lowest, key);
    lowest_finite = smaller(lowest_finite, key ^ (is_banned & (banned ^ INT32_MAX)));
    highest = larger(highest, key);
  }
  return {lowest, lowest_finite, highest};
}

static void buckets_of(const float* logits, std::size_t count, std::int32_t lowest, int shift,
                       std::uint16_t* buckets) {
  for (std::size_t i = 0; i < count; ++i) {
    buckets[i] = bucket_of(logits[i], lowest, shift);
  }
}

static void keep(const float* logits, std::size_t count, std::int32_t least_key, float least_weight,
                 float* weights) {
  for (std::size_t i = 0; i < count; ++i) {
    const float weight = weights[i] < least_weight ? 0.0f : weights[i];
    weights[i] = key_of(logits[i]) < least_key ? 0.0f : weight;
  }
}

static inline double sum_of_lanes(const double* lanes) {
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
         ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

// Eight lanes, so that the order of the additions is the same however wide the vectors are.
static double sum_of(const float* weights, std::size_t count) {
  double lanes[8] = {};
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (std::size_t lane = 0; lane < 8; ++lane) {
      lanes[lane] += static_cast<double>(weights[i + lane]);
    }
  }
  for (std::size_t lane = 0; i < count; ++i, ++lane) lanes[lane] += static_cast<double>(weights[i]);
  return sum_of_lanes(lanes);
}

[[maybe_unused]] static double weights_of(const float* logits, std::size_t count, float max_logit,
                                          float divisor, float* weights) {
  for (std::size_t i = 0; i < count; ++i) {
    weights[i] = exp_nonpositive((logits[i] - max_logit) / divisor);
  }
  return sum_of(weights, count);
}

// Sixteen lanes, for the same reason.
static RangeMass mass_of_range(const float* logits, const float* weights, std::size_t count,
                               std::int32_t lowest, std::int32_t highest) {
  if (weights == nullptr) {
    std::uint32_t num_with = 0;
    std::uint32_t num_above = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const std::int32_t key = key_of(logits[i]);
      num_with += key >= lowest ? 1 : 0;
      num_above += key > highest ? 1 : 0;
    }
    return {static_cast<double>(num_with), static_cast<double>(num_above)};
  }
  double with[16] = {};
  double above[16] = {};
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (std::size_t lane = 0; lane < 16; ++lane) {
      const std::int32_t key = key_of(logits[i + lane]);
      const float weight = weights[i + lane];
      with[lane] += static_cast<double>(key >= lowest ? weight : 0.0f);
      above[lane] += static_cast<double>(key > highest ? weight : 0.0f);
    }
  }
  for (std::size_t lane = 0; i < count; ++i, ++lane) {
    const std::int32_t key = key_of(logits[i]);
    with[lane] += static_cast<double>(key >= lowest ? weights[i] : 0.0f);
    above[lane] += static_cast<double>(key > highest ? weights[i] : 0.0f);
  }
  return {sum_of_lanes(with) + sum_of_lanes(with + 8),
          sum_of_lanes(above) + sum_of_lanes(above + 8)};
}

static inline bool is_between(float logit, std::int32_t lowest, std::int32_t highest) {
  const std::int32_t key = key_of(logit);
  return (key >= lowest) & (key <= highest);
}

// Most pieces have no such index, and counting becomes vectors as writing does not.
static std::size_t ids_between(const float* logits, std::size_t begin, std::size_t end,
                               std::int32_t lowest, std::int32_t highest, std::uint32_t* ids,
                               float* values) {
  constexpr std::size_t kPiece = 32;
  std::size_t num_ids = 0;
  const auto write = [&](std::size_t piece_begin, std::size_t piece_end) {
    for (std::size_t i = piece_begin; i < piece_end; ++i) {
      ids[num_ids] = static_cast<std::uint32_t>(i);  // stays if it is inside
      if (values != nullptr) values[num_ids] = logits[i];
      num_ids += is_between(logits[i], lowest, highest) ? 1 : 0;
    }
  };
  std::size_t piece = begin;
  for (; piece + kPiece <= end; piece += kPiece) {
    std::int32_t num_inside = 0;
    for (std::size_t i = 0; i < kPiece; ++i) {
      num_inside += is_between(logits[piece + i], lowest, highest) ? 1 : 0;
    }
    if (num_inside > 0) write(piece, piece + kPiece);
  }
  write(piece, end);
  return num_ids;
}

}  // namespace nestling
