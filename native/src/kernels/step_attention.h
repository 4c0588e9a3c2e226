// Softmax attention of neighbouring rows over cached keys and values. Included by each variant's
// source file.
//
// Keys come in groups of 16 positions and chunks of kAttentionChunk, both aligned to the sequence's
// start. Within a chunk a row's sums run over its own positions in ascending order, scaled by the
// chunk's largest score; chunks are joined in ascending order. Positions that another row of the
// tile sees and this one does not add exact zeros, and so do whole chunks of them. So its result
// has the same bits in any tile, and whether one task computes all chunks or each is a part.
#pragma once

#include "kernels/step_kernels.h"
#include "kernels/step_vectors.h"

namespace nestling {

namespace {

constexpr float kMinusInfinity = -__builtin_inff();
constexpr float kLeastScore = -__FLT_MAX__;  // of a chunk in which nothing is seen

// Query vectors that the registers take: 24 of 32 sums in AVX-512.
template <class V>
constexpr int kMostScored = V::kMostRows * 2;
template <class V>
constexpr int kMostMixed = V::kMostRows / 2;

inline std::int64_t first_seen(const AttentionTask& task, std::size_t row) {
  const std::int64_t position = task.first_position + static_cast<std::int64_t>(row);
  return task.window > 0 && position >= task.window ? position + 1 - task.window : 0;
}

// Query vectors of a task that are computed together, and the positions that any of them sees.
struct AttentionVectors {
  AttentionVectors(const AttentionTask& t, std::size_t first_vector, std::size_t count)
      : task(t),
        first(first_vector),
        first_row(first_vector / t.num_queries),
        last_row((first_vector + count - 1) / t.num_queries),
        begin(first_seen(t, first_row)),
        end(t.first_position + static_cast<std::int64_t>(last_row) + 1) {}

  std::size_t row(int i) const { return (first + static_cast<std::size_t>(i)) / task.num_queries; }
  const float* q(int i) const { return task.q + offset(i, task.q_stride); }
  float* out(int i) const { return task.out + offset(i, task.out_stride); }
  float* part(int i, std::size_t chunk) const {
    const std::size_t num_vectors = task.num_rows * task.num_queries;
    return task.parts +
           ((chunk - task.chunk_begin) * num_vectors + first + static_cast<std::size_t>(i)) *
               attention_part_size(task.head_stride);
  }
  std::size_t offset(int i, std::size_t stride) const {
    const std::size_t vector = first + static_cast<std::size_t>(i);
    return vector / task.num_queries * stride + vector % task.num_queries * task.head_stride;
  }

  const AttentionTask& task;
  std::size_t first;
  std::size_t first_row;
  std::size_t last_row;
  std::int64_t begin;
  std::int64_t end;
};

// The positions of a chunk that any vector sees; may be none.
struct AttentionSpan {
  AttentionSpan(const AttentionVectors& vectors, std::size_t chunk) {
    const auto chunk_begin = static_cast<std::int64_t>(chunk * kAttentionChunk);
    const auto chunk_end = static_cast<std::int64_t>((chunk + 1) * kAttentionChunk);
    begin = vectors.begin > chunk_begin ? vectors.begin : chunk_begin;
    end = vectors.end < chunk_end ? vectors.end : chunk_end;
    if (end < begin) end = begin;
    first_group = static_cast<std::size_t>(chunk_begin) / kTile;
    group_begin = static_cast<std::size_t>(begin) / kTile;
    group_end = begin == end ? group_begin : (static_cast<std::size_t>(end) + kTile - 1) / kTile;
  }
  // Of a vector's scores, those of the group.
  std::size_t place(std::size_t group) const { return (group - first_group) * kTile; }

  std::int64_t begin;
  std::int64_t end;
  std::size_t first_group;  // of the chunk
  std::size_t group_begin;
  std::size_t group_end;
};

template <class Element>
inline const Element* keys_of(const AttentionTask& task, std::size_t group) {
  const std::size_t per_block = task.cache.groups_per_block;
  const auto block = static_cast<std::size_t>(task.block_table[group / per_block]);
  return static_cast<const Element*>(task.cache.base) + block * task.cache.block_stride +
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

// Scores of kVectors query vectors, packed as q [dim][kVectors], in kGroups groups from `group` on.
// Loops over registers are unrolled by pragma, else GCC keeps the sums in memory.
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
      sums[g][i].store(scores + static_cast<std::size_t>(i) * kAttentionChunk +
                       static_cast<std::size_t>(g) * kTile);
    }
  }
}

// Minus infinity for the positions of a group that a vector does not see.
template <class V>
inline void hide_unseen(const AttentionVectors& vectors, int count, std::size_t group,
                        float* scores) {
  using F32 = typename V::F32;
  const AttentionTask& task = vectors.task;
  const auto start = static_cast<std::int64_t>(group * kTile);
  if (start >= first_seen(task, vectors.last_row) &&
      start + static_cast<std::int64_t>(kTile) <=
          task.first_position + static_cast<std::int64_t>(vectors.first_row) + 1) {
    return;
  }
  const auto clamp = [](std::int64_t x) { return static_cast<int>(x < 0 ? 0 : x > 16 ? 16 : x); };
  for (int i = 0; i < count; ++i) {
    const std::size_t row = vectors.row(i);
    const std::int64_t end = task.first_position + static_cast<std::int64_t>(row) + 1;
    float* const at = scores + static_cast<std::size_t>(i) * kAttentionChunk;
    V::select_range(F32::load(at), clamp(first_seen(task, row) - start), clamp(end - start),
                    kMinusInfinity)
        .store(at);
  }
}

template <class V, class Element, int kVectors>
inline void score(const AttentionVectors& vectors, const AttentionSpan& span, const float* q,
                  float* scores) {
  std::size_t group = span.group_begin;
  if constexpr (2 * kVectors <= kMostScored<V>) {
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

// e^x for x <= 0, and an exact zero below -87, where the true one is under 2e-38.
template <class V>
inline typename V::F32 weight_of(typename V::F32 x) {
  const typename V::F32 least = V::F32::all(-87.0f);
  return exp_lanes<V>(V::max(x, least)) - exp_lanes<V>(least);
}

// Scores to weights, relative to the largest.
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

// What some vectors have gathered, one a lane.
template <class V>
struct Gathered {
  using F32 = typename V::F32;

  F32 largest = F32::all(kLeastScore);
  F32 sum = F32::zero();

  // Takes in a chunk; gives the factors of what was there and of what comes.
  void join(F32 chunk_largest, F32 chunk_sum, F32& old_share, F32& new_share) {
    const F32 most = V::max(largest, chunk_largest);
    old_share = weight_of<V>(largest - most);
    new_share = weight_of<V>(chunk_largest - most);
    largest = most;
    sum = V::fma(chunk_sum, new_share, sum * old_share);
  }
};

// Weighted values of a chunk, kLanes * 16 dims from d; `take(vector, lane, sum)` gets them. Asks
// for the next chunk's keys meanwhile, those before `ahead_end`; 0: none.
template <class V, class Element, int kVectors, int kLanes, class Take>
inline void mix(const AttentionTask& task, const AttentionSpan& span, const float* weights,
                std::size_t d, std::size_t ahead_end, const Take& take) {
  using F32 = typename V::F32;
  F32 sums[kVectors][kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) {
#pragma GCC unroll 4
    for (int t = 0; t < kLanes; ++t) sums[i][t] = F32::zero();
  }
  for (std::size_t group = span.group_begin; group < span.group_end; ++group) {
    const Element* values = values_of<Element>(task, group) + d;
    const std::size_t next = group + kAttentionChunk / kTile;
    const Element* ahead = next < ahead_end ? keys_of<Element>(task, next) + d * kTile : nullptr;
    const auto start = static_cast<std::int64_t>(group * kTile);
    const auto begin = static_cast<std::size_t>(span.begin > start ? span.begin - start : 0);
    const auto end = static_cast<std::size_t>(span.end < start + 16 ? span.end - start : 16);
    const float* weight = weights + span.place(group);
    for (std::size_t key = begin; key < end; ++key) {
      const Element* value = values + key * task.head_stride;
      F32 lanes[kLanes];
#pragma GCC unroll 4
      for (int t = 0; t < kLanes; ++t) lanes[t] = load_cached<V>(value + 16 * t);
      if (ahead != nullptr) {
        constexpr std::size_t kBytes = kLanes * 16 * sizeof(Element);
        const auto* line = reinterpret_cast<const std::uint8_t*>(ahead) + key * kBytes;
#pragma GCC unroll 4
        for (std::size_t at = 0; at < kBytes; at += 64) V::prefetch(line + at);
      }
#pragma GCC unroll 16
      for (int i = 0; i < kVectors; ++i) {
        const F32 share = F32::all(weight[static_cast<std::size_t>(i) * kAttentionChunk + key]);
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
inline void mix_all(const AttentionTask& task, const AttentionSpan& span, const float* weights,
                    std::size_t ahead_end, const Take& take) {
  std::size_t d = 0;
  for (; d + 64 <= task.head_stride; d += 64) {
    mix<V, Element, kVectors, 4>(task, span, weights, d, ahead_end, take);
  }
  for (; d < task.head_stride; d += 16) {
    mix<V, Element, kVectors, 1>(task, span, weights, d, ahead_end, take);
  }
}

// Calls f.operator()<kBegin, N>() for pieces [kBegin, kBegin + N) of [0, kCount), N <= kMost.
template <int kCount, int kMost, int kBegin = 0, class F>
inline void in_pieces(const F& f) {
  if constexpr (kBegin < kCount) {
    constexpr int kSize = kCount - kBegin < kMost ? kCount - kBegin : kMost;
    f.template operator()<kBegin, kSize>();
    in_pieces<kCount, kMost, kBegin + kSize>(f);
  }
}

// Calls f.operator()<N>() for N = count <= kMost.
template <int kMost, class F>
inline void with_count(std::size_t count, const F& f) {
  if (count == kMost) {
    f.template operator()<kMost>();
  } else if constexpr (kMost > 1) {
    with_count<kMost - 1>(count, f);
  }
}

template <class V, class Element, int kVectors>
inline void attend_vectors(const AttentionVectors& vectors) {
  using F32 = typename V::F32;
  constexpr std::size_t kPadded = (kVectors + 15) / 16 * 16;
  const AttentionTask& task = vectors.task;
  float* const scores = task.scratch;
  float* const packed = scores + kVectors * kAttentionChunk;
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
  for (std::size_t chunk = task.chunk_begin; chunk < task.chunk_end; ++chunk) {
    const AttentionSpan span(vectors, chunk);
    score<V, Element, kVectors>(vectors, span, packed, scores);
    for (std::size_t i = 0; i < kVectors; ++i) {
      exponentiate<V>(span, scores + i * kAttentionChunk, largest[i], sum[i]);
    }
    for (std::size_t i = 0; i < kPadded; i += 16) {
      F32 shares[2];
      gathered[i / 16].join(F32::load(largest + i), F32::load(sum + i), shares[0], shares[1]);
      shares[0].store(old_share + i);
      shares[1].store(new_share + i);
    }
    in_pieces<kVectors, kMostMixed<V>>([&]<int kBegin, int kCount>() {
      const std::size_t last_group = (static_cast<std::size_t>(vectors.end) + kTile - 1) / kTile;
      const std::size_t ahead_end = kBegin > 0 || chunk + 1 == task.chunk_end ? 0 : last_group;
      float* to[kCount];
      for (int i = 0; i < kCount; ++i) {
        to[i] = task.parts != nullptr ? vectors.part(kBegin + i, chunk) : vectors.out(kBegin + i);
      }
      mix_all<V, Element, kCount>(task, span, scores + kBegin * kAttentionChunk, ahead_end,
                                  [&](int i, std::size_t d, F32 mixed) {
                                    if (task.parts == nullptr) {
                                      const F32 old =
                                          F32::load(to[i] + d) * F32::all(old_share[kBegin + i]);
                                      mixed = V::fma(mixed, F32::all(new_share[kBegin + i]), old);
                                    }
                                    mixed.store(to[i] + d);
                                  });
    });
    if (task.parts == nullptr) continue;
    for (int i = 0; i < kVectors; ++i) {
      float* const end = vectors.part(i, chunk) + task.head_stride;
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
  const std::size_t num_vectors = task.num_rows * task.num_queries;
  for (std::size_t first = 0; first < num_vectors;) {
    const std::size_t rest = num_vectors - first;
    const std::size_t count = rest < kMostScored<V> ? rest : kMostScored<V>;
    with_count<kMostScored<V>>(count, [&]<int kVectors>() {
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
  const std::size_t num_vectors = task.num_rows * task.num_queries;
  const AttentionVectors vectors(task, 0, num_vectors);
  for (int i = 0; static_cast<std::size_t>(i) < num_vectors; ++i) {
    float* const out = vectors.out(i);
    for (std::size_t d = 0; d < task.head_stride; d += 16) F32::zero().store(out + d);
    Gathered<V> gathered;
    for (std::size_t chunk = task.chunk_begin; chunk < task.chunk_end; ++chunk) {
      const float* part = vectors.part(i, chunk);
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
