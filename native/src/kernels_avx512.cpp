// The sampler's kernels with AVX-512; this file alone is built for it (see CMakeLists.txt).

#include "kernel_table.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include <immintrin.h>

#include "sampling_loops.h"

namespace nestling {

namespace {

__m512i keys_of(__m512 logits) {
  const __m512i bits = _mm512_castps_si512(_mm512_add_ps(logits, _mm512_setzero_ps()));
  const __m512i is_negative = _mm512_srai_epi32(bits, 31);
  return _mm512_xor_si512(bits, _mm512_and_si512(is_negative, _mm512_set1_epi32(0x7fffffff)));
}

// exp_nonpositive (exp.h), operation by operation.
__m512 exp_of(__m512 x) {
  const auto all = [](float value) { return _mm512_set1_ps(value); };
  const __m512 clamped = _mm512_max_ps(all(kExpUnderflow), x);  // the second if it is NaN
  const __m512 shifted = _mm512_add_ps(_mm512_mul_ps(clamped, all(kLog2E)), all(kExpRound));
  const __m512 n = _mm512_sub_ps(shifted, all(kExpRound));
  const __m512 r = _mm512_sub_ps(_mm512_sub_ps(clamped, _mm512_mul_ps(n, all(kLn2High))),
                                 _mm512_mul_ps(n, all(kLn2Low)));
  __m512 series = all(kExpSeries[0]);
  for (std::size_t i = 1; i < sizeof(kExpSeries) / sizeof(float); ++i) {
    series = _mm512_add_ps(_mm512_mul_ps(series, r), all(kExpSeries[i]));
  }
  const __m512i exponent =
      _mm512_slli_epi32(_mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127)), 23);
  const __mmask16 has_weight = _mm512_cmp_ps_mask(x, all(kExpUnderflow), _CMP_NLT_UQ);
  return _mm512_maskz_mul_ps(has_weight, series, _mm512_castsi512_ps(exponent));
}

__m512d low_doubles(__m512 x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
__m512d high_doubles(__m512 x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }

// Sums while it computes, since the additions of one lane wait for each other.
double summed_weights_of(const float* logits, std::size_t count, float max_logit, float divisor,
                         float* weights) {
  const __m512 best = _mm512_set1_ps(max_logit);
  const __m512 divisors = _mm512_set1_ps(divisor);
  __m512d sums = _mm512_setzero_pd();
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m512 x = _mm512_sub_ps(_mm512_loadu_ps(logits + i), best);
    const __m512 w = exp_of(_mm512_div_ps(x, divisors));
    _mm512_storeu_ps(weights + i, w);
    sums = _mm512_add_pd(_mm512_add_pd(sums, low_doubles(w)), high_doubles(w));
  }
  double lanes[8];
  _mm512_storeu_pd(lanes, sums);
  for (; i < count; ++i) {
    weights[i] = exp_nonpositive((logits[i] - max_logit) / divisor);
    lanes[i % 8] += static_cast<double>(weights[i]);
  }
  return sum_of_lanes(lanes);
}

RangeMass masked_mass_of_range(const float* logits, const float* weights, std::size_t count,
                               std::int32_t lowest, std::int32_t highest) {
  if (weights == nullptr) return mass_of_range(logits, weights, count, lowest, highest);
  const __m512i lowest_key = _mm512_set1_epi32(lowest);
  const __m512i highest_key = _mm512_set1_epi32(highest);
  __m512d with[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
  __m512d above[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
  const auto add = [&](__m512 x, __m512 w) {
    const __m512i keys = keys_of(x);
    const __m512 in_or_above = _mm512_maskz_mov_ps(_mm512_cmpge_epi32_mask(keys, lowest_key), w);
    const __m512 only_above = _mm512_maskz_mov_ps(_mm512_cmpgt_epi32_mask(keys, highest_key), w);
    with[0] = _mm512_add_pd(with[0], low_doubles(in_or_above));
    with[1] = _mm512_add_pd(with[1], high_doubles(in_or_above));
    above[0] = _mm512_add_pd(above[0], low_doubles(only_above));
    above[1] = _mm512_add_pd(above[1], high_doubles(only_above));
  };
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) add(_mm512_loadu_ps(logits + i), _mm512_loadu_ps(weights + i));
  const auto rest = static_cast<__mmask16>((1u << (count - i)) - 1u);
  add(_mm512_maskz_loadu_ps(rest, logits + i), _mm512_maskz_loadu_ps(rest, weights + i));
  const auto sum = [](const __m512d* sums) {
    double lanes[16];
    _mm512_storeu_pd(lanes, sums[0]);
    _mm512_storeu_pd(lanes + 8, sums[1]);
    return sum_of_lanes(lanes) + sum_of_lanes(lanes + 8);
  };
  return {sum(with), sum(above)};
}

// Compressed in a register: compressing into memory takes a hundred cycles on Zen 4.
std::size_t compressed_ids_between(const float* logits, std::size_t begin, std::size_t end,
                                   std::int32_t lowest, std::int32_t highest, std::uint32_t* ids,
                                   float* values) {
  const __m512i lowest_key = _mm512_set1_epi32(lowest);
  const __m512i highest_key = _mm512_set1_epi32(highest);
  const __m512i step = _mm512_set1_epi32(16);
  __m512i indices =
      _mm512_add_epi32(_mm512_set1_epi32(static_cast<std::int32_t>(begin)),
                       _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  std::size_t num_ids = 0;
  std::size_t i = begin;
  for (; i + 16 <= end; i += 16) {
    const __m512 x = _mm512_loadu_ps(logits + i);
    const __m512i keys = keys_of(x);
    const __mmask16 inside =
        _mm512_mask_cmple_epi32_mask(_mm512_cmpge_epi32_mask(keys, lowest_key), keys, highest_key);
    if (inside != 0) {
      _mm512_storeu_si512(ids + num_ids, _mm512_maskz_compress_epi32(inside, indices));
      if (values != nullptr) {
        _mm512_storeu_ps(values + num_ids, _mm512_maskz_compress_ps(inside, x));
      }
      num_ids += static_cast<std::size_t>(__builtin_popcount(inside));
    }
    indices = _mm512_add_epi32(indices, step);
  }
  return num_ids + ids_between(logits, i, end, lowest, highest, ids + num_ids,
                               values == nullptr ? nullptr : values + num_ids);
}

}  // namespace

constinit const KernelTable kAvx512Kernels{
    key_extent,           summed_weights_of,     buckets_of, keep, sum_of,
    masked_mass_of_range, compressed_ids_between};

}  // namespace nestling

#else

namespace nestling {

constinit const KernelTable kAvx512Kernels{};

}  // namespace nestling

#endif
