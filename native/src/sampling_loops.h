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

static void weights_of(const float* logits, std::size_t count, float max_logit, float divisor,
                       float* weights) {
  for (std::size_t i = 0; i < count; ++i) {
    weights[i] = exp_nonpositive((logits[i] - max_logit) / divisor);
  }
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
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
         ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

}  // namespace nestling
