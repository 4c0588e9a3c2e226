// 16 lanes in one AVX-512 register; dot products of bytes by VNNI. See lanes_portable.h for what
// each operation means.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/lanes_x86.h"

namespace nestling {

namespace {

struct Avx512 {
  static constexpr int kMaxTokens = 12;     // more are slower (docs/speed.md)
  static constexpr int kInt8Tokens = 8;     // 2,048 bytes of each leave room in the first cache
  static constexpr int kInt16Tokens = 4;    // the same
  static constexpr int kSixBitTokens = 16;  // unpacked once for all of a step of 16
  static constexpr bool kScalesByExponent = true;

  struct F32 {
    __m512 v;

    static F32 zero() { return {_mm512_setzero_ps()}; }
    static F32 all(float x) { return {_mm512_set1_ps(x)}; }
    static F32 load(const float* from) { return {_mm512_loadu_ps(from)}; }
    static F32 load_float16(const std::uint16_t* from) {
      return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
    }
    static F32 load_bfloat16(const std::uint16_t* from) {
      const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
      return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
    }
    void store(float* to) const { _mm512_storeu_ps(to, v); }
    void store_float16(std::uint16_t* to) const {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                          _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    float total() const {
      const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
      const __m128 four =
          _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
      const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
      return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    float largest() const { return _mm512_reduce_max_ps(v); }
    friend F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
    friend F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
    friend F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
    friend F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
  };

  static F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
  static F32 abs(F32 a) { return {_mm512_abs_ps(a.v)}; }
  static F32 keep_below(F32 a, int count) {
    return {_mm512_maskz_mov_ps(static_cast<__mmask16>((1u << count) - 1u), a.v)};
  }
  static F32 select_range(F32 a, int begin, int end, float otherwise) {
    const auto mask = static_cast<__mmask16>(((1u << end) - 1u) & ~((1u << begin) - 1u));
    return {_mm512_mask_mov_ps(_mm512_set1_ps(otherwise), mask, a.v)};
  }
  // a * 2^exponent; on Zen 4 on ports that do not multiply.
  static F32 scaled_by_exponent(F32 a, float exponent) {
    return {_mm512_scalef_ps(a.v, _mm512_set1_ps(exponent))};
  }
  static F32 times_power_of_two(F32 a, F32 shifted) {
    const __m512i exponent = _mm512_slli_epi32(
        _mm512_add_epi32(_mm512_castps_si512(shifted.v), _mm512_set1_epi32(127)), 23);
    return {_mm512_mul_ps(a.v, _mm512_castsi512_ps(exponent))};
  }

  struct I32 {
    __m512i v;

    static I32 zero() { return {_mm512_setzero_si512()}; }
    static I32 all(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
    F32 to_float() const { return {_mm512_cvtepi32_ps(v)}; }
    friend I32 operator+(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
    I32 times(std::int32_t factor) const {
      return {_mm512_mullo_epi32(v, _mm512_set1_epi32(factor))};
    }
    static I32 widen_bytes(const std::uint8_t* from) {
      return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
    }
    static I32 widen_signed_bytes(const std::int8_t* from) {
      return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
    }
    I32 high_nibbles() const { return {_mm512_srli_epi32(v, 4)}; }
    I32 low_nibbles() const { return {_mm512_and_si512(v, _mm512_set1_epi32(15))}; }
  };

  // A table in place of a mask, a subtraction and a conversion.
  template <int kBias>
  static F32 low_nibble_less(I32 a) {
    constexpr auto at = [](int code) { return static_cast<float>(code - kBias); };
    const __m512 table =
        _mm512_setr_ps(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10),
                       at(11), at(12), at(13), at(14), at(15));
    return {_mm512_permutexvar_ps(a.v, table)};
  }

  struct Bytes {
    __m512i v;

    static Bytes load(const std::uint8_t* from) { return {_mm512_loadu_si512(from)}; }
    // w + 128, as vpdpbusd wants its first bytes unsigned.
    static Bytes load_signed(const std::int8_t* from) {
      return {_mm512_xor_si512(_mm512_loadu_si512(from), _mm512_set1_epi8(-128))};
    }
    Bytes low_nibbles() const { return {_mm512_and_si512(v, _mm512_set1_epi8(15))}; }
    Bytes high_nibbles() const {
      return {_mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15))};
    }
  };

  static I32 add_dot(I32 sum, Bytes w, const std::int8_t* x4) {
    // By hand, as compilers load the four bytes into a register of their own first.
    using Four = const std::int32_t __attribute__((may_alias));
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"
            : "+v"(sum.v)
            : "v"(w.v), "m"(*reinterpret_cast<Four*>(x4)));
    return sum;
  }
  static I32 signed_start(std::int32_t nibble_bias) {
    return {_mm512_slli_epi32(_mm512_set1_epi32(nibble_bias), 4)};
  }
  static I32 add_dot_signed(I32 sum, Bytes w, const std::int8_t* x4) { return add_dot(sum, w, x4); }
  static I32 add_dot_vector(I32 sum, Bytes w, const std::int8_t* x64) {
    return {_mm512_dpbusd_epi32(sum.v, w.v, _mm512_loadu_si512(x64))};
  }
  // Without the bias of the weights, which here would cost more to take back later.
  static I32 add_dot_vector_signed(I32 sum, Bytes w, const std::int8_t* x64) {
    const __m512i x = _mm512_loadu_si512(x64);
    const __m512i shift = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(-128), x);
    return {_mm512_sub_epi32(_mm512_dpbusd_epi32(sum.v, w.v, x), shift)};
  }

  // Shifts are of words: what crosses a byte's border is masked.
  static void join_six_bits(const Bytes (&nibbles)[2], const Bytes& upper, Bytes (&codes)[4]) {
    const __m512i pairs = _mm512_set1_epi8(0x33);
    const __m512i even = _mm512_and_si512(upper.v, pairs);  // of steps 0 and 2
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(upper.v, 2), pairs);
    codes[0].v = low_nibble_of(nibbles[0].v, _mm512_slli_epi16(even, 4));
    codes[1].v = low_nibble_of(_mm512_srli_epi16(nibbles[0].v, 4), _mm512_slli_epi16(odd, 4));
    codes[2].v = low_nibble_of(nibbles[1].v, even);
    codes[3].v = low_nibble_of(_mm512_srli_epi16(nibbles[1].v, 4), odd);
  }

  // Rounds to nearest even; values must be within -127..127.
  static void store_int8(F32 values, std::int8_t* to) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(values.v)));
  }

  static std::int32_t sum_of_int8(const std::int8_t* from) { return sum_of_16_int8(from); }

  // Of the numbers that are above the bound, in order: the numbers, and their lanes counted from
  // `first`; returns how many. Writes 16 of each. Variants without it go number by number.
  static std::size_t store_above(F32 numbers, float bound, std::uint32_t first,
                                 std::uint32_t* indices, float* values) {
    const __mmask16 mask = _mm512_cmp_ps_mask(numbers.v, _mm512_set1_ps(bound), _CMP_GT_OQ);
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i numbered = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(first)));
    // Compressed in registers: stores that do so themselves are slow on some processors.
    _mm512_storeu_si512(indices, _mm512_maskz_compress_epi32(mask, numbered));
    _mm512_storeu_ps(values, _mm512_maskz_compress_ps(mask, numbers.v));
    return static_cast<std::size_t>(__builtin_popcount(mask));
  }

  static void prefetch(const void* address) {
    _mm_prefetch(static_cast<const char*>(address), _MM_HINT_T0);
  }
  static void prefetch_far(const void* address) {
    _mm_prefetch(static_cast<const char*>(address), _MM_HINT_T1);
  }

 private:
  // Each byte's low nibble from `low`, its high one from `rest`.
  static __m512i low_nibble_of(__m512i low, __m512i rest) {
    return _mm512_ternarylogic_epi32(low, rest, _mm512_set1_epi8(15), 0xe4);
  }
};

}  // namespace

}  // namespace nestling
