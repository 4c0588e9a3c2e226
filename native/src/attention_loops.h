// The loops of the attention kernel over `Lanes`, 16 float32 accumulators that a variant provides.
//
// Included by each variant's source file (see linear_loops.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "exp.h"
#include "kernel_table.h"

namespace nestling {

// Keys and values of this many slots stay in the first-level cache while all heads use them.
constexpr std::size_t kKeyBlock = 32;

// One row and kv head: `num_keys` slots whose keys and values are `stride` apart, from slot 0's on.
struct HeadTask {
  const float* keys;
  const float* values;
  const std::int64_t* slots;
  std::size_t num_keys;
  std::size_t stride;
  std::size_t head_dim;

  const float* key(std::size_t j) const {
    return keys + static_cast<std::size_t>(slots[j]) * stride;
  }
  const float* value(std::size_t j) const {
    return values + static_cast<std::size_t>(slots[j]) * stride;
  }
};

// scores[j .. j + kKeys) = q . key: each lane by lane, then across the lanes, then what is left
// over.
template <class Lanes, int kKeys>
inline void score(const HeadTask& task, const float* q, std::size_t j, float* scores) {
  const float* keys[kKeys];
  Lanes sums[kKeys];
  for (int n = 0; n < kKeys; ++n) keys[n] = task.key(j + static_cast<std::size_t>(n));
  std::size_t d = 0;
  for (; d + 16 <= task.head_dim; d += 16) {
    const Lanes lanes = Lanes::load(q + d);
    for (int n = 0; n < kKeys; ++n) sums[n].add_product(lanes, Lanes::load(keys[n] + d));
  }
  for (int n = 0; n < kKeys; ++n) {
    float total = sums[n].total();
    for (std::size_t rest = d; rest < task.head_dim; ++rest) total += q[rest] * keys[n][rest];
    scores[j + static_cast<std::size_t>(n)] = total;
  }
}

static inline void softmax(float* scores, std::size_t size) {
  float max_score = scores[0];
  for (std::size_t i = 1; i < size; ++i) max_score = scores[i] > max_score ? scores[i] : max_score;
  for (std::size_t i = 0; i < size; ++i) scores[i] = exp_nonpositive(scores[i] - max_score);
  double sum = 0.0;
  for (std::size_t i = 0; i < size; ++i) sum += static_cast<double>(scores[i]);
  const auto total = static_cast<float>(sum);
  for (std::size_t i = 0; i < size; ++i) scores[i] /= total;
}

// out[d .. d + kTiles * 16) += sum of weights[j] * value over the slots [begin, end), in their
// order.
template <class Lanes, int kTiles>
inline void mix(const HeadTask& task, const float* weights, std::size_t begin, std::size_t end,
                std::size_t d, float* out) {
  Lanes sums[kTiles];
  for (int t = 0; t < kTiles; ++t) sums[t] = Lanes::load(out + d + t * 16);
  for (std::size_t j = begin; j < end; ++j) {
    const float* value = task.value(j) + d;
    for (int t = 0; t < kTiles; ++t) sums[t].add_product(weights[j], Lanes::load(value + t * 16));
  }
  for (int t = 0; t < kTiles; ++t) sums[t].store(out + d + t * 16);
}

template <class Lanes>
inline void mix_all(const HeadTask& task, const float* weights, std::size_t begin, std::size_t end,
                    float* out) {
  std::size_t d = 0;
  for (; d + 64 <= task.head_dim; d += 64) mix<Lanes, 4>(task, weights, begin, end, d, out);
  for (; d + 16 <= task.head_dim; d += 16) mix<Lanes, 1>(task, weights, begin, end, d, out);
  for (; d < task.head_dim; ++d) {
    for (std::size_t j = begin; j < end; ++j) out[d] += weights[j] * task.value(j)[d];
  }
}

// The `group` query heads that share a kv head: q and out [group, head_dim], scores [group,
// num_keys].
template <class Lanes>
inline void attend(const HeadTask& task, std::size_t group, const float* q, float* scores,
                   float* out) {
  for (std::size_t begin = 0; begin < task.num_keys; begin += kKeyBlock) {
    const std::size_t rest = task.num_keys - begin;
    const std::size_t end = begin + (rest < kKeyBlock ? rest : kKeyBlock);
    for (std::size_t h = 0; h < group; ++h) {
      std::size_t j = begin;
      float* const head_scores = scores + h * task.num_keys;
      for (; j + 4 <= end; j += 4) score<Lanes, 4>(task, q + h * task.head_dim, j, head_scores);
      for (; j < end; ++j) score<Lanes, 1>(task, q + h * task.head_dim, j, head_scores);
    }
  }
  for (std::size_t h = 0; h < group; ++h) softmax(scores + h * task.num_keys, task.num_keys);
  for (std::size_t i = 0; i < group * task.head_dim; ++i) out[i] = 0.0f;
  for (std::size_t begin = 0; begin < task.num_keys; begin += kKeyBlock) {
    const std::size_t rest = task.num_keys - begin;
    const std::size_t end = begin + (rest < kKeyBlock ? rest : kKeyBlock);
    for (std::size_t h = 0; h < group; ++h) {
      mix_all<Lanes>(task, scores + h * task.num_keys, begin, end, out + h * task.head_dim);
    }
  }
}

template <class Lanes>
inline void attention_task(const AttentionInput& input, float* out, float* scores,
                           std::size_t begin, std::size_t end) {
  const std::size_t group = input.num_heads / input.num_kv_heads;
  for (std::size_t pair = begin; pair < end; ++pair) {
    const std::size_t row = pair / input.num_kv_heads;
    const std::size_t kv_head = pair % input.num_kv_heads;
    const HeadTask task{
        .keys = input.k_cache + kv_head * input.head_dim,
        .values = input.v_cache + kv_head * input.head_dim,
        .slots = input.slots + input.row_begin[row],
        .num_keys = static_cast<std::size_t>(input.row_end[row] - input.row_begin[row]),
        .stride = input.num_kv_heads * input.head_dim,
        .head_dim = input.head_dim,
    };
    const std::size_t offset = (row * input.num_heads + kv_head * group) * input.head_dim;
    attend<Lanes>(task, group, input.q + offset, scores, out + offset);
  }
}

}  // namespace nestling
