// Softmax attention of neighbouring tokens over cached keys and values. Each variant's source file
// includes this file.
//
// Keys come in groups of 16 positions and blocks of kAttentionBlock positions; both are aligned to
// the start of the sequence. Within a block, a token's sums run over its own positions in ascending
// order, scaled by the largest score of the block. Blocks are joined in ascending order. Positions
// that another token of the tile sees and this one does not add exact zeros, and so do whole blocks
// of them. Therefore a token's result has the same bits in any tile, and whether one task computes
// all blocks or each block is a part.
#pragma once

#include "kernels/step_kernels.h"
#include "kernels/step_vectors.h"

namespace nestling {

namespace {

constexpr float kMinusInfinity = -__builtin_inff();
constexpr float kLeastScore = -__FLT_MAX__;  // of a block of which a token sees nothing

// Query vectors whose sums the registers hold: 24 of 32 in AVX-512.
template <class V>
constexpr int kMaxScored = V::kMaxTokens * 2;
template <class V>
constexpr int kMaxSummed = V::kMaxTokens / 2;

inline std::int64_t first_seen(const AttentionTask& task, std::size_t token) {
  const std::int64_t position = task.first_position + static_cast<std::int64_t>(token);
  return task.window > 0 && position >= task.window ? position + 1 - task.window : 0;
}

// Query vectors of a task that are computed together, and the positions that any of them sees.
struct AttentionVectors {
  AttentionVectors(const AttentionTask& t, std::size_t first_vector, std::size_t count)
      : task(t),
        first(first_vector),
        first_token(first_vector / t.num_queries),
        last_token((first_vector + count - 1) / t.num_queries),
        begin(first_seen(t, first_token)),
        end(t.first_position + static_cast<std::int64_t>(last_token) + 1) {}

  std::size_t token(int i) const {
    return (first + static_cast<std::size_t>(i)) / task.num_queries;
  }
  const float* q(int i) const { return task.q + offset(i, task.q_stride); }
  float* out(int i) const { return task.out + offset(i, task.out_stride); }
  float* part(int i, std::size_t block) const {
    const std::size_t num_vectors = task.num_tokens * task.num_queries;
    return task.parts +
           ((block - task.block_begin) * num_vectors + first + static_cast<std::size_t>(i)) *
               attention_part_size(task.head_stride);
  }
  std::size_t offset(int i, std::size_t stride) const {
    const std::size_t vector = first + static_cast<std::size_t>(i);
    return vector / task.num_queries * stride + vector % task.num_queries * task.head_stride;
  }

  const AttentionTask& task;
  std::size_t first;
  std::size_t first_token;
  std::size_t last_token;
  std::int64_t begin;
  std::int64_t end;
};

// The positions of a block that any vector sees. There may be none.
struct AttentionSpan {
  AttentionSpan(const AttentionVectors& vectors, std::size_t block) {
    const auto block_begin = static_cast<std::int64_t>(block * kAttentionBlock);
    const auto block_end = static_cast<std::int64_t>((block + 1) * kAttentionBlock);
    begin = vectors.begin > block_begin ? vectors.begin : block_begin;
    end = vectors.end < block_end ? vectors.end : block_end;
    if (end < begin) end = begin;
    first_group = static_cast<std::size_t>(block_begin) / kTile;
    group_begin = static_cast<std::size_t>(begin) / kTile;
    group_end = begin == end ? group_begin : (static_cast<std::size_t>(end) + kTile - 1) / kTile;
  }
  // Returns where the group's scores begin among a vector's.
  std::size_t place(std::size_t group) const { return (group - first_group) * kTile; }

  std::int64_t begin;
  std::int64_t end;
  std::size_t first_group;  // of the block
  std::size_t group_begin;
  std::size_t group_end;
};

template <class Element>
inline const Element* keys_of(const AttentionTask& task, std::size_t group) {
  const std::size_t per_block = task.cache.groups_per_block;
  const auto cache_block = static_cast<std::size_t>(task.block_table[group / per_block]);
  return static_cast<const Element*>(task.cache.base) + cache_block * task.cache.block_stride +
         group % per_block * task.cache.group_stride + task.kv_head * task.head_stride * kTile;
}

template <class Element>
inline const Element* values_of(const AttentionTask& task, std::size_t group) {
  return keys_of<Element>(task, group) + task.num_kv_heads * task.head_stride * kTile;
}

template <class V>
inline typename V::F32 load_cached(const float* from) {
  return V::F32::load(from);
}
template <class V>
inline typename V::F32 load_cached(const std::uint16_t* from) {
  return V::F32::load_float16(from);
}

// Computes the scores of kVectors query vectors, packed as q [dim][kVectors], in kGroups groups
// from `group` on. Pragmas unroll the loops over registers, as GCC keeps the sums in memory
// otherwise.
template <class V, class Element, int kVectors, int kGroups>
inline void score_groups(const AttentionTask& task, const float* q, std::size_t group,
                         float* scores) {
  using F32 = typename V::F32;
  const Element* keys[kGroups];
  const Element* values[kGroups];
  F32 sums[kGroups][kVectors];
#pragma GCC unroll 2
  for (int g = 0; g < kGroups; ++g) {
    keys[g] = keys_of<Element>(task, group + static_cast<std::size_t>(g));
    values[g] = values_of<Element>(task, group + static_cast<std::size_t>(g));
#pragma GCC unroll 32
    for (int i = 0; i < kVectors; ++i) sums[g][i] = F32::zero();
  }
  constexpr std::size_t kStep = 64 / sizeof(Element) / kTile;  // dims of a cache line
  for (std::size_t d = 0; d < task.head_stride; d += kStep) {
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) V::prefetch(values[g] + d * kTile);
#pragma GCC unroll 2
    for (std::size_t e = d; e < d + kStep; ++e) {
      F32 lanes[kGroups];
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; ++g) lanes[g] = load_cached<V>(keys[g] + e * kTile);
#pragma GCC unroll 32
      for (int i = 0; i < kVectors; ++i) {
        const F32 share = F32::all(q[e * kVectors + static_cast<std::size_t>(i)]);
#pragma GCC unroll 2
        for (int g = 0; g < kGroups; ++g) sums[g][i] = V::fma(share, lanes[g], sums[g][i]);
      }
    }
  }
#pragma GCC unroll 2
  for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 32
    for (int i = 0; i < kVectors; ++i) {
      sums[g][i].store(scores + static_cast<std::size_t>(i) * kAttentionBlock +
                       static_cast<std::size_t>(g) * kTile);
    }
  }
}

// Sets the scores of positions that a vector does not see to minus infinity.
template <class V>
inline void hide_unseen(const AttentionVectors& vectors, int count, std::size_t group,
                        float* scores) {
  using F32 = typename V::F32;
  const AttentionTask& task = vectors.task;
  const auto start = static_cast<std::int64_t>(group * kTile);
  if (start >= first_seen(task, vectors.last_token) &&
      start + static_cast<std::int64_t>(kTile) <=
          task.first_position + static_cast<std::int64_t>(vectors.first_token) + 1) {
    return;
  }
  const auto clamp = [](std::int64_t x) { return static_cast<int>(x < 0 ? 0 : x > 16 ? 16 : x); };
  for (int i = 0; i < count; ++i) {
    const std::size_t token = vectors.token(i);
    const std::int64_t end = task.first_position + static_cast<std::int64_t>(token) + 1;
    float* const at = scores + static_cast<std::size_t>(i) * kAttentionBlock;
    V::select_range(F32::load(at), clamp(first_seen(task, token) - start), clamp(end - start),
                    kMinusInfinity)
        .store(at);
  }
}

template <class V, class Element, int kVectors>
inline void score(const AttentionVectors& vectors, const AttentionSpan& span, const float* q,
                  float* scores) {
  std::size_t group = span.group_begin;
  if constexpr (2 * kVectors <= kMaxScored<V>) {
    for (; group + 2 <= span.group_end; group += 2) {
      score_groups<V, Element, kVectors, 2>(vectors.task, q, group, scores + span.place(group));
    }
  }
  for (; group < span.group_end; ++group) {
    score_groups<V, Element, kVectors, 1>(vectors.task, q, group, scores + span.place(group));
  }
  for (group = span.group_begin; group < span.group_end; ++group) {
    hide_unseen<V>(vectors, kVectors, group, scores + span.place(group));
  }
}

// Returns e^x for x <= 0, and an exact zero below -87, where the true value is under 2e-38.
template <class V>
inline typename V::F32 weight_of(typename V::F32 x) {
  const typename V::F32 least = V::F32::all(-87.0f);
  return exp_lanes<V>(V::max(x, least)) - exp_lanes<V>(least);
}

// Turns scores into weights relative to the largest score.
template <class V>
inline void exponentiate(const AttentionSpan& span, float* scores, float& largest, float& sum) {
  using F32 = typename V::F32;
  const std::size_t begin = span.place(span.group_begin);
  const std::size_t end = span.place(span.group_end);
  F32 most = F32::all(kLeastScore);
  for (std::size_t k = begin; k < end; k += 16) most = V::max(most, F32::load(scores + k));
  largest = most.largest();
  const F32 origin = F32::all(largest);
  F32 total = F32::zero();
  for (std::size_t k = begin; k < end; k += 16) {
    const F32 weight = weight_of<V>(F32::load(scores + k) - origin);
    weight.store(scores + k);
    total = total + weight;
  }
  sum = total.total();
}

// The running softmax of 16 vectors, one a lane.
template <class V>
struct Gathered {
  using F32 = typename V::F32;

  F32 largest = F32::all(kLeastScore);
  F32 sum = F32::zero();

  // Adds a block, and returns the factors of the old sums and of the block's.
  void join(F32 block_largest, F32 block_sum, F32& old_share, F32& new_share) {
    const F32 most = V::max(largest, block_largest);
    old_share = weight_of<V>(largest - most);
    new_share = weight_of<V>(block_largest - most);
    largest = most;
    sum = V::fma(block_sum, new_share, sum * old_share);
  }
};

// Sums the weighted values of a block, kLanes * 16 dims from d, and hands them to `take(vector,
// lane, sum)`. Meanwhile it prefetches the keys of the next block up to the group `prefetch_end`; 0
// means none.
template <class V, class Element, int kVectors, int kLanes, class Take>
inline void add_values(const AttentionTask& task, const AttentionSpan& span, const float* weights,
                       std::size_t d, std::size_t prefetch_end, const Take& take) {
  using F32 = typename V::F32;
  F32 sums[kVectors][kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) {
#pragma GCC unroll 4
    for (int t = 0; t < kLanes; ++t) sums[i][t] = F32::zero();
  }
  for (std::size_t group = span.group_begin; group < span.group_end; ++group) {
    const Element* values = values_of<Element>(task, group) + d;
    const std::size_t next = group + kAttentionBlock / kTile;
    const Element* next_keys =
        next < prefetch_end ? keys_of<Element>(task, next) + d * kTile : nullptr;
    const auto start = static_cast<std::int64_t>(group * kTile);
    const auto begin = static_cast<std::size_t>(span.begin > start ? span.begin - start : 0);
    const auto end = static_cast<std::size_t>(span.end < start + 16 ? span.end - start : 16);
    const float* weight = weights + span.place(group);
    for (std::size_t key = begin; key < end; ++key) {
      const Element* value = values + key * task.head_stride;
      F32 lanes[kLanes];
#pragma GCC unroll 4
      for (int t = 0; t < kLanes; ++t) lanes[t] = load_cached<V>(value + 16 * t);
      if (next_keys != nullptr) {
        constexpr std::size_t kBytes = kLanes * 16 * sizeof(Element);
        const auto* line = reinterpret_cast<const std::uint8_t*>(next_keys) + key * kBytes;
#pragma GCC unroll 4
        for (std::size_t at = 0; at < kBytes; at += 64) V::prefetch(line + at);
      }
#pragma GCC unroll 16
      for (int i = 0; i < kVectors; ++i) {
        const F32 share = F32::all(weight[static_cast<std::size_t>(i) * kAttentionBlock + key]);
#pragma GCC unroll 4
        for (int t = 0; t < kLanes; ++t) sums[i][t] = V::fma(share, lanes[t], sums[i][t]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) {
#pragma GCC unroll 4
    for (int t = 0; t < kLanes; ++t) take(i, d + 16 * static_cast<std::size_t>(t), sums[i][t]);
  }
}

template <class V, class Element, int kVectors, class Take>
inline void add_all_values(const AttentionTask& task, const AttentionSpan& span,
                           const float* weights, std::size_t prefetch_end, const Take& take) {
  std::size_t d = 0;
  for (; d + 64 <= task.head_stride; d += 64) {
    add_values<V, Element, kVectors, 4>(task, span, weights, d, prefetch_end, take);
  }
  for (; d < task.head_stride; d += 16) {
    add_values<V, Element, kVectors, 1>(task, span, weights, d, prefetch_end, take);
  }
}

// Calls f.operator()<kBegin, N>() for pieces [kBegin, kBegin + N) of [0, kCount), N <= kMax.
template <int kCount, int kMax, int kBegin = 0, class F>
inline void in_pieces(const F& f) {
  if constexpr (kBegin < kCount) {
    constexpr int kSize = kCount - kBegin < kMax ? kCount - kBegin : kMax;
    f.template operator()<kBegin, kSize>();
    in_pieces<kCount, kMax, kBegin + kSize>(f);
  }
}

// Calls f.operator()<N>() for N = count <= kMax.
template <int kMax, class F>
inline void with_count(std::size_t count, const F& f) {
  if (count == kMax) {
    f.template operator()<kMax>();
  } else if constexpr (kMax > 1) {
    with_count<kMax - 1>(count, f);
  }
}

template <class V, class Element, int kVectors>
inline void attend_vectors(const AttentionVectors& vectors) {
  using F32 = typename V::F32;
  constexpr std::size_t kPadded = (kVectors + 15) / 16 * 16;
  const AttentionTask& task = vectors.task;
  float* const scores = task.scratch;
  float* const packed = scores + kVectors * kAttentionBlock;
  for (int i = 0; i < kVectors; ++i) {
    const float* q = vectors.q(i);
    for (std::size_t d = 0; d < task.head_stride; ++d) {
      packed[d * kVectors + static_cast<std::size_t>(i)] = q[d];
    }
    if (task.parts != nullptr) continue;
    float* out = vectors.out(i);
    for (std::size_t d = 0; d < task.head_stride; d += 16) F32::zero().store(out + d);
  }
  Gathered<V> gathered[kPadded / 16];
  float largest[kPadded] = {};
  float sum[kPadded] = {};
  float old_share[kPadded];
  float new_share[kPadded];
  for (std::size_t block = task.block_begin; block < task.block_end; ++block) {
    const AttentionSpan span(vectors, block);
    score<V, Element, kVectors>(vectors, span, packed, scores);
    for (std::size_t i = 0; i < kVectors; ++i) {
      exponentiate<V>(span, scores + i * kAttentionBlock, largest[i], sum[i]);
    }
    for (std::size_t i = 0; i < kPadded; i += 16) {
      F32 shares[2];
      gathered[i / 16].join(F32::load(largest + i), F32::load(sum + i), shares[0], shares[1]);
      shares[0].store(old_share + i);
      shares[1].store(new_share + i);
    }
    in_pieces<kVectors, kMaxSummed<V>>([&]<int kBegin, int kCount>() {
      const std::size_t last_group = (static_cast<std::size_t>(vectors.end) + kTile - 1) / kTile;
      const std::size_t prefetch_end = kBegin > 0 || block + 1 == task.block_end ? 0 : last_group;
      float* to[kCount];
      for (int i = 0; i < kCount; ++i) {
        to[i] = task.parts != nullptr ? vectors.part(kBegin + i, block) : vectors.out(kBegin + i);
      }
      add_all_values<V, Element, kCount>(
          task, span, scores + kBegin * kAttentionBlock, prefetch_end,
          [&](int i, std::size_t d, F32 sum_of_values) {
            if (task.parts == nullptr) {
              const F32 old = F32::load(to[i] + d) * F32::all(old_share[kBegin + i]);
              sum_of_values = V::fma(sum_of_values, F32::all(new_share[kBegin + i]), old);
            }
            sum_of_values.store(to[i] + d);
          });
    });
    if (task.parts == nullptr) continue;
    for (int i = 0; i < kVectors; ++i) {
      float* const end = vectors.part(i, block) + task.head_stride;
      end[0] = largest[i];
      end[1] = sum[i];
    }
  }
  if (task.parts != nullptr) return;
  for (std::size_t i = 0; i < kPadded; i += 16) {
    (F32::all(1.0f) / gathered[i / 16].sum).store(sum + i);
  }
  for (int i = 0; i < kVectors; ++i) {
    float* out = vectors.out(i);
    for (std::size_t d = 0; d < task.head_stride; d += 16) {
      (F32::load(out + d) * F32::all(sum[i])).store(out + d);
    }
  }
}

template <class V, class Element>
inline void attend(const AttentionTask& task) {
  const std::size_t num_vectors = task.num_tokens * task.num_queries;
  for (std::size_t first = 0; first < num_vectors;) {
    const std::size_t rest = num_vectors - first;
    const std::size_t count = rest < kMaxScored<V> ? rest : kMaxScored<V>;
    with_count<kMaxScored<V>>(count, [&]<int kVectors>() {
      attend_vectors<V, Element, kVectors>(AttentionVectors(task, first, kVectors));
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

template <class V>
void join_attention_kernel(const AttentionTask& task) {
  using F32 = typename V::F32;
  const std::size_t num_vectors = task.num_tokens * task.num_queries;
  const AttentionVectors vectors(task, 0, num_vectors);
  for (int i = 0; static_cast<std::size_t>(i) < num_vectors; ++i) {
    float* const out = vectors.out(i);
    for (std::size_t d = 0; d < task.head_stride; d += 16) F32::zero().store(out + d);
    Gathered<V> gathered;
    for (std::size_t block = task.block_begin; block < task.block_end; ++block) {
      const float* part = vectors.part(i, block);
      const float* end = part + task.head_stride;
      F32 old_share, new_share;
      gathered.join(F32::all(end[0]), F32::all(end[1]), old_share, new_share);
      for (std::size_t d = 0; d < task.head_stride; d += 16) {
        V::fma(F32::load(part + d), new_share, F32::load(out + d) * old_share).store(out + d);
      }
    }
    const F32 inverse = F32::all(1.0f) / gathered.sum;
    for (std::size_t d = 0; d < task.head_stride; d += 16) {
      (F32::load(out + d) * inverse).store(out + d);
    }
  }
}

}  // namespace

}  // namespace nestling
