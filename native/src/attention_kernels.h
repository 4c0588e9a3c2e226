// Softmax attention of neighbouring rows over cached keys and values. Included by each variant's
// source file.
//
// Keys come in groups of 16 positions, aligned to the sequence's start. A row's sums run over its
// own positions in ascending order, a group's scores in 16 lanes; positions that another row of the
// tile sees and this one does not add exact zeros. So its result has the same bits in any tile.
#pragma once

#include "row_kernels.h"
#include "step_kernels.h"

namespace nestling {

namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// Where the scores of a task's vectors lie and which positions they see.
struct AttentionSpan {
  std::size_t group_begin;
  std::size_t group_end;

  std::size_t num_keys() const { return (group_end - group_begin) * kTile; }
};

inline std::int64_t first_seen(const AttentionTask& task, std::size_t row) {
  const std::int64_t position = task.first_position + static_cast<std::int64_t>(row);
  return task.window > 0 && position >= task.window ? position + 1 - task.window : 0;
}

inline AttentionSpan span_of(const AttentionTask& task) {
  const std::int64_t end = task.first_position + static_cast<std::int64_t>(task.num_rows);
  return {static_cast<std::size_t>(first_seen(task, 0)) / kTile,
          (static_cast<std::size_t>(end) + kTile - 1) / kTile};
}

template <class Element>
inline const Element* key_group(const AttentionTask& task, std::size_t group) {
  const std::size_t per_block = task.cache.groups_per_block;
  const auto block = static_cast<std::size_t>(task.block_table[group / per_block]);
  return static_cast<const Element*>(task.cache.base) + block * task.cache.block_stride +
         group % per_block * task.cache.group_stride + task.kv_head * task.head_stride * kTile;
}

template <class V>
inline typename V::F32 load_cached(const float* from) {
  return V::F32::load(from);
}
template <class V>
inline typename V::F32 load_cached(const std::uint16_t* from) {
  return V::F32::load_float16(from);
}

// Scores of kVectors query vectors, packed as q [dim][kVectors], over all groups of the span.
template <class V, class Element, int kVectors>
inline void score(const AttentionTask& task, const AttentionSpan& span, const float* q,
                  std::size_t first_vector, float* scores) {
  using F32 = typename V::F32;
  for (std::size_t group = span.group_begin; group < span.group_end; ++group) {
    const Element* keys = key_group<Element>(task, group);
    F32 sums[kVectors];
    for (F32& sum : sums) sum = F32::zero();
    for (std::size_t d = 0; d < task.head_stride; ++d) {
      const F32 lanes = load_cached<V>(keys + d * kTile);
      for (int i = 0; i < kVectors; ++i) {
        sums[i] = V::fma(F32::all(q[d * kVectors + static_cast<std::size_t>(i)]), lanes, sums[i]);
      }
    }
    for (int i = 0; i < kVectors; ++i) {
      const std::size_t row = (first_vector + static_cast<std::size_t>(i)) / task.num_queries;
      const auto start = static_cast<std::int64_t>(group * kTile);
      const std::int64_t position = task.first_position + static_cast<std::int64_t>(row);
      const std::int64_t begin = first_seen(task, row) - start;
      const std::int64_t end = position + 1 - start;
      F32 lanes = sums[i];
      if (begin > 0 || end < static_cast<std::int64_t>(kTile)) {
        const auto clamp = [](std::int64_t x) {
          return static_cast<int>(x < 0 ? 0 : x > 16 ? 16 : x);
        };
        lanes = V::select_range(lanes, clamp(begin), clamp(end), kMinusInfinity);
      }
      lanes.store(scores + static_cast<std::size_t>(i) * span.num_keys() +
                  (group - span.group_begin) * kTile);
    }
  }
}

// Scores to weights that sum to the value returned.
template <class V>
inline float exponentiate(float* scores, std::size_t num_keys) {
  using F32 = typename V::F32;
  F32 most = F32::load(scores);
  for (std::size_t k = 16; k < num_keys; k += 16) most = V::max(most, F32::load(scores + k));
  const F32 largest = F32::all(most.largest());
  const F32 least = F32::all(-87.0f);
  F32 sum = F32::zero();
  for (std::size_t k = 0; k < num_keys; k += 16) {
    const F32 x = F32::load(scores + k) - largest;
    // Below -87 the true weight is under 2e-38; e^-87 minus itself makes it an exact zero.
    const F32 weight = exp_lanes<V>(V::max(x, least)) - exp_lanes<V>(least);
    weight.store(scores + k);
    sum = sum + weight;
  }
  return sum.total();
}

// out [vector][kLanes * 16 dims from d] = the weighted values, times inverse[vector].
template <class V, class Element, int kVectors, int kLanes>
inline void mix(const AttentionTask& task, const AttentionSpan& span, const float* weights,
                const float* inverse, std::size_t d, float* const* out) {
  using F32 = typename V::F32;
  F32 sums[kVectors][kLanes];
  for (auto& vector : sums) {
    for (F32& sum : vector) sum = F32::zero();
  }
  const std::size_t num_keys = span.num_keys();
  const std::int64_t first = first_seen(task, 0);
  const std::int64_t last = task.first_position + static_cast<std::int64_t>(task.num_rows);
  for (std::size_t group = span.group_begin; group < span.group_end; ++group) {
    const Element* values =
        key_group<Element>(task, group) + task.num_kv_heads * task.head_stride * kTile;
    const auto start = static_cast<std::int64_t>(group * kTile);
    const std::int64_t begin = first > start ? first - start : 0;
    const std::int64_t end = last < start + 16 ? last - start : 16;
    const float* weight = weights + (group - span.group_begin) * kTile;
    for (std::int64_t key = begin; key < end; ++key) {
      const Element* value = values + static_cast<std::size_t>(key) * task.head_stride + d;
      F32 lanes[kLanes];
      for (int t = 0; t < kLanes; ++t) lanes[t] = load_cached<V>(value + 16 * t);
      for (int i = 0; i < kVectors; ++i) {
        const F32 share = F32::all(
            weight[static_cast<std::size_t>(i) * num_keys + static_cast<std::size_t>(key)]);
        for (int t = 0; t < kLanes; ++t) sums[i][t] = V::fma(share, lanes[t], sums[i][t]);
      }
    }
  }
  for (int i = 0; i < kVectors; ++i) {
    for (int t = 0; t < kLanes; ++t) {
      (sums[i][t] * F32::all(inverse[i])).store(out[i] + d + 16 * static_cast<std::size_t>(t));
    }
  }
}

template <class V, class Element, int kVectors>
inline void mix_all(const AttentionTask& task, const AttentionSpan& span, const float* weights,
                    const float* inverse, float* const* out) {
  std::size_t d = 0;
  for (; d + 64 <= task.head_stride; d += 64) {
    mix<V, Element, kVectors, 4>(task, span, weights, inverse, d, out);
  }
  for (; d < task.head_stride; d += 16) {
    mix<V, Element, kVectors, 1>(task, span, weights, inverse, d, out);
  }
}

// Calls f(integral_constant-like N) for N = count <= kMost.
template <int kMost, class F>
inline void with_count(std::size_t count, const F& f) {
  if (count == kMost) {
    f.template operator()<kMost>();
  } else if constexpr (kMost > 1) {
    with_count<kMost - 1>(count, f);
  }
}

// Query vectors that the registers take: 24 of 32 sums in AVX-512.
template <class V>
constexpr int kMostScored = V::kMostRows * 2;
template <class V>
constexpr int kMostMixed = V::kMostRows / 2;

template <class V, class Element>
inline void attend(const AttentionTask& task) {
  const AttentionSpan span = span_of(task);
  const std::size_t num_vectors = task.num_rows * task.num_queries;
  const std::size_t num_keys = span.num_keys();
  float* const scores = task.scratch;
  float* const packed = scores + num_vectors * num_keys;
  const auto vector_offset = [&](std::size_t vector, std::size_t stride) {
    return vector / task.num_queries * stride + vector % task.num_queries * task.head_stride;
  };
  for (std::size_t first = 0; first < num_vectors;) {
    const std::size_t rest = num_vectors - first;
    const std::size_t count = rest < kMostScored<V> ? rest : kMostScored<V>;
    for (std::size_t i = 0; i < count; ++i) {
      const float* q = task.q + vector_offset(first + i, task.q_stride);
      for (std::size_t d = 0; d < task.head_stride; ++d) packed[d * count + i] = q[d];
    }
    with_count<kMostScored<V>>(count, [&]<int kVectors>() {
      score<V, Element, kVectors>(task, span, packed, first, scores + first * num_keys);
    });
    first += count;
  }
  float inverse[kMostMixed<V>];
  float* out[kMostMixed<V>];
  for (std::size_t first = 0; first < num_vectors;) {
    const std::size_t rest = num_vectors - first;
    const std::size_t count = rest < kMostMixed<V> ? rest : kMostMixed<V>;
    for (std::size_t i = 0; i < count; ++i) {
      inverse[i] = 1.0f / exponentiate<V>(scores + (first + i) * num_keys, num_keys);
      out[i] = task.out + vector_offset(first + i, task.out_stride);
    }
    with_count<kMostMixed<V>>(count, [&]<int kVectors>() {
      mix_all<V, Element, kVectors>(task, span, scores + first * num_keys, inverse, out);
    });
    first += count;
  }
}

template <class V>
void attention_kernel(const AttentionTask& task) {
  if (task.cache.is_float16) {
    attend<V, std::uint16_t>(task);
  } else {
    attend<V, float>(task);
  }
}

}  // namespace

}  // namespace nestling
