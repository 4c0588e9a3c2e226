// The sampler's kernels with AVX2 and FMA; this file alone is built for those (see CMakeLists.txt).

#include "sampling/sampling_kernels.h"

#if defined(__AVX2__) && defined(__FMA__)

#include <immintrin.h>

#include "sampling/sampling_loops.h"

namespace nestling {

namespace {

// For every mask of eight lanes, the lanes in it from the lowest on, a byte each.
struct LanesOfMasks {
  std::uint64_t lanes[256];
};

constexpr LanesOfMasks lanes_of_masks() {
  LanesOfMasks table{};
  for (std::uint32_t mask = 0; mask < 256; ++mask) {
    int num_lanes = 0;
    for (std::uint64_t lane = 0; lane < 8; ++lane) {
      if ((mask >> lane & 1u) != 0) table.lanes[mask] |= lane << (8 * num_lanes++);
    }
  }
  return table;
}

constexpr LanesOfMasks kLanesOfMasks = lanes_of_masks();

__m256d low_doubles(__m256 x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
__m256d high_doubles(__m256 x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }

// Sixteen lanes.
struct Sums {
  __m256d lanes[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                      _mm256_setzero_pd()};

  void add(__m256 low, __m256 high) {
    lanes[0] = _mm256_add_pd(lanes[0], low_doubles(low));
    lanes[1] = _mm256_add_pd(lanes[1], high_doubles(low));
    lanes[2] = _mm256_add_pd(lanes[2], low_doubles(high));
    lanes[3] = _mm256_add_pd(lanes[3], high_doubles(high));
  }
  // With those of the last few, fewer than sixteen.
  template <class WeightAt>
  double total(std::size_t begin, std::size_t end, const WeightAt& weight_at) const {
    double sums[kLanes];
    for (std::size_t i = 0; i < 4; ++i) _mm256_storeu_pd(sums + 4 * i, lanes[i]);
    for (std::size_t i = begin; i < end; ++i) sums[i - begin] += static_cast<double>(weight_at(i));
    return sum_of_lanes(sums);
  }
};

// exp2_nonpositive (exp.h), operation by operation.
__m256 exp2_of(__m256 x) {
  const auto all = [](float value) { return _mm256_set1_ps(value); };
  const __m256 shifted = _mm256_add_ps(x, all(kExp2Round));
  const __m256 r = _mm256_sub_ps(x, _mm256_sub_ps(shifted, all(kExp2Round)));
  __m256 series = all(kExp2Series[0]);
  for (std::size_t i = 1; i < sizeof(kExp2Series) / sizeof(float); ++i) {
    series = _mm256_add_ps(_mm256_mul_ps(series, r), all(kExp2Series[i]));
  }
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(series), exponent));
}

// Sums while it computes, since the additions of one lane wait for each other.
double summed_weights_of(const float* logits, std::size_t count, const Weighing& weighing,
                         float* weights) {
  const Weighing copy = weighing;
  const __m256 best = _mm256_set1_ps(copy.max_logit);
  const __m256 factor = _mm256_set1_ps(copy.factor);
  const __m256 least = _mm256_set1_ps(copy.least_logit);
  const auto weigh = [&](std::size_t i) {
    const __m256 x = _mm256_loadu_ps(logits + i);
    const __m256 weight = exp2_of(_mm256_mul_ps(_mm256_sub_ps(x, best), factor));
    const __m256 kept = _mm256_and_ps(weight, _mm256_cmp_ps(x, least, _CMP_GE_OQ));
    _mm256_storeu_ps(weights + i, kept);
    return kept;
  };
  Sums sums;
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const __m256 low = weigh(i);
    sums.add(low, weigh(i + 8));
  }
  return sums.total(i, count,
                    [&](std::size_t j) { return weights[j] = weight_of(logits[j], copy); });
}

double masked_sum_kept(const float* logits, const float* weights, std::size_t count,
                       float least_logit, float least_weight) {
  const __m256 least = _mm256_set1_ps(least_logit);
  const __m256 lightest = _mm256_set1_ps(least_weight);
  const auto kept = [&](std::size_t i) {
    const __m256 weight = _mm256_loadu_ps(weights + i);
    const __m256 is_kept =
        _mm256_and_ps(_mm256_cmp_ps(_mm256_loadu_ps(logits + i), least, _CMP_GE_OQ),
                      _mm256_cmp_ps(weight, lightest, _CMP_GE_OQ));
    return _mm256_and_ps(weight, is_kept);
  };
  Sums sums;
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sums.add(kept(i), kept(i + 8));
  return sums.total(i, count, [&](std::size_t j) {
    return logits[j] >= least_logit && weights[j] >= least_weight ? weights[j] : 0.0f;
  });
}

__m256i lanes_inside(int inside) {
  const auto packed = static_cast<long long>(kLanesOfMasks.lanes[inside]);
  return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(packed));
}

std::size_t write_ids(int inside, std::size_t first, std::uint32_t* ids) {
  const __m256i indices =
      _mm256_add_epi32(lanes_inside(inside), _mm256_set1_epi32(static_cast<int>(first)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids), indices);
  return static_cast<std::size_t>(__builtin_popcount(static_cast<unsigned>(inside)));
}

std::size_t compressed_ids_between(const float* logits, std::size_t begin, std::size_t end,
                                   float lowest, float highest, std::uint32_t* ids, float* values) {
  const __m256 low = _mm256_set1_ps(lowest);
  const __m256 high = _mm256_set1_ps(highest);
  std::size_t num_ids = 0;
  std::size_t i = begin;
  for (; i + 8 <= end; i += 8) {
    const __m256 x = _mm256_loadu_ps(logits + i);
    const int inside = _mm256_movemask_ps(
        _mm256_and_ps(_mm256_cmp_ps(x, low, _CMP_GE_OQ), _mm256_cmp_ps(x, high, _CMP_LE_OQ)));
    if (inside == 0) continue;
    if (values != nullptr) {
      _mm256_storeu_ps(values + num_ids, _mm256_permutevar8x32_ps(x, lanes_inside(inside)));
    }
    num_ids += write_ids(inside, i, ids + num_ids);
  }
  return num_ids + ids_between(logits, i, end, lowest, highest, ids + num_ids,
                               values == nullptr ? nullptr : values + num_ids);
}

template <bool kHasWeights>
Split compressed_split(const float* logits, const float* weights, std::size_t count, float lowest,
                       float highest, std::uint32_t* ids) {
  const __m256 low = _mm256_set1_ps(lowest);
  const __m256 high = _mm256_set1_ps(highest);
  Sums sums;
  std::size_t num_from_highest = 0;
  std::size_t num_ids = 0;
  const auto from_highest = [&](std::size_t i) {
    const __m256 x = _mm256_loadu_ps(logits + i);
    const __m256 is_from_highest = _mm256_cmp_ps(x, high, _CMP_GE_OQ);
    const int inside =
        _mm256_movemask_ps(_mm256_andnot_ps(is_from_highest, _mm256_cmp_ps(x, low, _CMP_GT_OQ)));
    if (inside != 0) num_ids += write_ids(inside, i, ids + num_ids);
    return is_from_highest;
  };
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const __m256 first = from_highest(i);
    const __m256 second = from_highest(i + 8);
    if constexpr (kHasWeights) {
      sums.add(_mm256_and_ps(first, _mm256_loadu_ps(weights + i)),
               _mm256_and_ps(second, _mm256_loadu_ps(weights + i + 8)));
    } else {
      const int both = _mm256_movemask_ps(first) | _mm256_movemask_ps(second) << 8;
      num_from_highest += static_cast<std::size_t>(__builtin_popcount(static_cast<unsigned>(both)));
    }
  }
  for (std::size_t j = i; j < count; ++j) {
    const bool is_from_highest = logits[j] >= highest;
    num_from_highest += is_from_highest ? 1 : 0;
    ids[num_ids] = static_cast<std::uint32_t>(j);  // stays if it is inside
    num_ids += logits[j] > lowest && !is_from_highest ? 1 : 0;
  }
  const auto weight_at = [&](std::size_t j) { return logits[j] >= highest ? weights[j] : 0.0f; };
  if constexpr (kHasWeights) return {sums.total(i, count, weight_at), num_ids};
  return {static_cast<double>(num_from_highest), num_ids};
}

Split split_of(const float* logits, const float* weights, std::size_t count, float lowest,
               float highest, std::uint32_t* ids) {
  return weights == nullptr ? compressed_split<false>(logits, weights, count, lowest, highest, ids)
                            : compressed_split<true>(logits, weights, count, lowest, highest, ids);
}

}  // namespace

constinit const SamplingKernels kAvx2Sampling{
    block_maxima, summed_weights_of, buckets_of, masked_sum_kept, split_of, compressed_ids_between};

}  // namespace nestling

#else

namespace nestling {

constinit const SamplingKernels kAvx2Sampling{};

}  // namespace nestling

#endif
