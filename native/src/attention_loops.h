// The loops of the attention kernel over `Lanes`, 16 float32 accumulators that a variant provides.
//
// Included by each variant's source file (see linear_loops.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "exp.h"
#include "kernel_table.h"

namespace nestling {

// Sum over i of a[i] * b[i]: lane by lane, then across the lanes, then what is left over.
template <class Lanes>
inline float dot(const float* a, const float* b, std::size_t size) {
  Lanes sums;
  std::size_t i = 0;
  for (; i + 16 <= size; i += 16) sums.add_product(Lanes::load(a + i), Lanes::load(b + i));
  float result = sums.total();
  for (; i < size; ++i) result += a[i] * b[i];
  return result;
}

// Turns scores into weights exp(score - max), in place; returns their sum.
static inline float softmax_weights(float* scores, std::size_t size) {
  float max_score = scores[0];
  for (std::size_t i = 1; i < size; ++i) max_score = scores[i] > max_score ? scores[i] : max_score;
  for (std::size_t i = 0; i < size; ++i) scores[i] = exp_nonpositive(scores[i] - max_score);
  double sum = 0.0;
  for (std::size_t i = 0; i < size; ++i) sum += static_cast<double>(scores[i]);
  return static_cast<float>(sum);
}

// out[0 .. kTiles * 16) = sum over j of weights[j] * values[slots[j] * stride ..], divided by
// total.
template <class Lanes, int kTiles>
inline void mix_values(const float* weights, const std::int64_t* slots, std::size_t num_keys,
                       const float* values, std::size_t stride, float total, float* out) {
  Lanes sums[kTiles];
  for (std::size_t j = 0; j < num_keys; ++j) {
    const float* value = values + static_cast<std::size_t>(slots[j]) * stride;
    for (int t = 0; t < kTiles; ++t) sums[t].add_product(weights[j], Lanes::load(value + t * 16));
  }
  for (int t = 0; t < kTiles; ++t) {
    sums[t].store(out + t * 16);
    for (int lane = 0; lane < 16; ++lane) out[t * 16 + lane] /= total;
  }
}

// One query head of one row; `keys` and `values` point at this kv head's part of slot 0.
template <class Lanes>
inline void attend(const float* q, const float* keys, const float* values, std::size_t stride,
                   const std::int64_t* slots, std::size_t num_keys, std::size_t head_dim,
                   float* scores, float* out) {
  for (std::size_t j = 0; j < num_keys; ++j) {
    scores[j] = dot<Lanes>(q, keys + static_cast<std::size_t>(slots[j]) * stride, head_dim);
  }
  const float total = softmax_weights(scores, num_keys);
  std::size_t d = 0;
  for (; d + 64 <= head_dim; d += 64) {
    mix_values<Lanes, 4>(scores, slots, num_keys, values + d, stride, total, out + d);
  }
  for (; d + 16 <= head_dim; d += 16) {
    mix_values<Lanes, 1>(scores, slots, num_keys, values + d, stride, total, out + d);
  }
  for (; d < head_dim; ++d) {
    float sum = 0.0f;
    for (std::size_t j = 0; j < num_keys; ++j) {
      sum += scores[j] * values[static_cast<std::size_t>(slots[j]) * stride + d];
    }
    out[d] = sum / total;
  }
}

template <class Lanes>
inline void attention_task(const AttentionInput& input, float* out, float* scores,
                           std::size_t begin, std::size_t end) {
  const std::size_t group = input.num_heads / input.num_kv_heads;
  const std::size_t stride = input.num_kv_heads * input.head_dim;
  for (std::size_t pair = begin; pair < end; ++pair) {
    const std::size_t row = pair / input.num_kv_heads;
    const std::size_t kv_head = pair % input.num_kv_heads;
    const auto num_keys = static_cast<std::size_t>(input.row_end[row] - input.row_begin[row]);
    for (std::size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const std::size_t offset = (row * input.num_heads + head) * input.head_dim;
      attend<Lanes>(input.q + offset, input.k_cache + kv_head * input.head_dim,
                    input.v_cache + kv_head * input.head_dim, stride,
                    input.slots + input.row_begin[row], num_keys, input.head_dim, scores,
                    out + offset);
    }
  }
}

}  // namespace nestling
