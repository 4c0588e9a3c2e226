// The sampler's kernels with AVX-512; this file alone is built for it (see CMakeLists.txt).

#include "sampling/sampling_kernels.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include <immintrin.h>

#include "sampling/sampling_loops.h"

namespace nestling {

namespace {

// exp2_nonpositive (exp.h), operation by operation.
__m512 exp2_of(__m512 x) {
  const auto all = [](float value) { return _mm512_set1_ps(value); };
  const __m512 shifted = _mm512_add_ps(x, all(kExp2Round));
  const __m512 r = _mm512_sub_ps(x, _mm512_sub_ps(shifted, all(kExp2Round)));
  __m512 series = all(kExp2Series[0]);
  for (std::size_t i = 1; i < sizeof(kExp2Series) / sizeof(float); ++i) {
    series = _mm512_add_ps(_mm512_mul_ps(series, r), all(kExp2Series[i]));
  }
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(series), exponent));
}

// Sixteen lanes.
struct Sums {
  __m512d low = _mm512_setzero_pd();
  __m512d high = _mm512_setzero_pd();

  void add(__m512 x) {
    low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(x)));
    high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
  }
  double total() const {
    double lanes[kLanes];
    _mm512_storeu_pd(lanes, low);
    _mm512_storeu_pd(lanes + 8, high);
    return sum_of_lanes(lanes);
  }
};

// Calls visit(i, lanes) for all multiples i of sixteen below count, with a mask of those below it.
template <class Visit>
void for_vectors(std::size_t count, const Visit& visit) {
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) visit(i, static_cast<__mmask16>(0xffff));
  if (i < count) visit(i, static_cast<__mmask16>((1u << (count - i)) - 1u));
}

// Sums while it computes, since the additions of one lane wait for each other.
double summed_weights_of(const float* logits, std::size_t count, const Weighing& weighing,
                         float* weights) {
  const __m512 best = _mm512_set1_ps(weighing.max_logit);
  const __m512 factor = _mm512_set1_ps(weighing.factor);
  const __m512 least = _mm512_set1_ps(weighing.least_logit);
  Sums sums;
  for_vectors(count, [&](std::size_t i, __mmask16 lanes) {
    const __m512 x = _mm512_maskz_loadu_ps(lanes, logits + i);
    const __m512 weight = exp2_of(_mm512_mul_ps(_mm512_sub_ps(x, best), factor));
    const __mmask16 is_kept = _mm512_mask_cmp_ps_mask(lanes, x, least, _CMP_GE_OQ);
    const __m512 kept = _mm512_maskz_mov_ps(is_kept, weight);
    _mm512_mask_storeu_ps(weights + i, lanes, kept);
    sums.add(kept);
  });
  return sums.total();
}

double masked_sum_kept(const float* logits, const float* weights, std::size_t count,
                       float least_logit, float least_weight) {
  const __m512 least = _mm512_set1_ps(least_logit);
  const __m512 lightest = _mm512_set1_ps(least_weight);
  Sums sums;
  for_vectors(count, [&](std::size_t i, __mmask16 lanes) {
    const __m512 weight = _mm512_maskz_loadu_ps(lanes, weights + i);
    const __mmask16 is_heavy = _mm512_cmp_ps_mask(weight, lightest, _CMP_GE_OQ);
    const __mmask16 is_kept = _mm512_mask_cmp_ps_mask(
        is_heavy, _mm512_maskz_loadu_ps(lanes, logits + i), least, _CMP_GE_OQ);
    sums.add(_mm512_maskz_mov_ps(is_kept, weight));
  });
  return sums.total();
}

// Writes the lanes' ids, those inside first, and returns how many these are. Compressed in a
// register: compressing into memory takes a hundred cycles on Zen 4.
std::size_t write_ids(__mmask16 inside, std::size_t first, std::uint32_t* ids) {
  const __m512i indices =
      _mm512_add_epi32(_mm512_set1_epi32(static_cast<std::int32_t>(first)),
                       _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  _mm512_storeu_si512(ids, _mm512_maskz_compress_epi32(inside, indices));
  return static_cast<std::size_t>(__builtin_popcount(inside));
}

std::size_t compressed_ids_between(const float* logits, std::size_t begin, std::size_t end,
                                   float lowest, float highest, std::uint32_t* ids, float* values) {
  const __m512 low = _mm512_set1_ps(lowest);
  const __m512 high = _mm512_set1_ps(highest);
  std::size_t num_ids = 0;
  std::size_t i = begin;
  for (; i + 16 <= end; i += 16) {
    const __m512 x = _mm512_loadu_ps(logits + i);
    const __mmask16 inside =
        _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(x, low, _CMP_GE_OQ), x, high, _CMP_LE_OQ);
    if (inside == 0) continue;
    if (values != nullptr) {
      _mm512_storeu_ps(values + num_ids, _mm512_maskz_compress_ps(inside, x));
    }
    num_ids += write_ids(inside, i, ids + num_ids);
  }
  return num_ids + ids_between(logits, i, end, lowest, highest, ids + num_ids,
                               values == nullptr ? nullptr : values + num_ids);
}

template <bool kHasWeights>
Split compressed_split(const float* logits, const float* weights, std::size_t count, float lowest,
                       float highest, std::uint32_t* ids) {
  const __m512 low = _mm512_set1_ps(lowest);
  const __m512 high = _mm512_set1_ps(highest);
  Sums sums;
  std::size_t num_from_highest = 0;
  std::size_t num_ids = 0;
  for_vectors(count, [&](std::size_t i, __mmask16 lanes) {
    const __m512 x = _mm512_maskz_loadu_ps(lanes, logits + i);
    const __mmask16 from_highest = _mm512_mask_cmp_ps_mask(lanes, x, high, _CMP_GE_OQ);
    const __mmask16 from_lowest = _mm512_mask_cmp_ps_mask(lanes, x, low, _CMP_GT_OQ);
    const auto inside = static_cast<__mmask16>(from_lowest & ~from_highest);
    if constexpr (kHasWeights) {
      sums.add(_mm512_maskz_loadu_ps(from_highest, weights + i));
    } else {
      num_from_highest += static_cast<std::size_t>(__builtin_popcount(from_highest));
    }
    if (inside == 0) return;
    if (lanes == 0xffff) {
      num_ids += write_ids(inside, i, ids + num_ids);
      return;
    }
    for (std::size_t lane = 0; lane < 16; ++lane) {
      if ((inside >> lane & 1) != 0) ids[num_ids++] = static_cast<std::uint32_t>(i + lane);
    }
  });
  return {kHasWeights ? sums.total() : static_cast<double>(num_from_highest), num_ids};
}

Split split_of(const float* logits, const float* weights, std::size_t count, float lowest,
               float highest, std::uint32_t* ids) {
  return weights == nullptr ? compressed_split<false>(logits, weights, count, lowest, highest, ids)
                            : compressed_split<true>(logits, weights, count, lowest, highest, ids);
}

}  // namespace

constinit const SamplingKernels kAvx512Sampling{
    block_maxima, summed_weights_of, buckets_of, masked_sum_kept, split_of, compressed_ids_between};

}  // namespace nestling

#else

namespace nestling {

constinit const SamplingKernels kAvx512Sampling{};

}  // namespace nestling

#endif
