// What the lanes of AVX2 and AVX-512 have in common.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace nestling {

namespace {

inline std::int32_t sum_of_16_int8(const std::int8_t* from) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  const __m128i raised = _mm_xor_si128(bytes, _mm_set1_epi8(-128));  // by 128 each
  const __m128i sums = _mm_sad_epu8(raised, _mm_setzero_si128());
  return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128;
}

}  // namespace

}  // namespace nestling
