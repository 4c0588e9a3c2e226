// 16 lanes in two AVX2 registers, with FMA and F16C. See lanes_portable.h for what each operation
// means.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/lanes_x86.h"

namespace nestling {

namespace {

struct Avx2 {
  static constexpr int kMaxTokens = 4;
  static constexpr int kInt8Tokens = 4;  // their integer sums take 8 of the 16 registers
  static constexpr int kInt16Tokens = 4;
  static constexpr int kSixBitTokens = 4;
  static constexpr bool kScalesByExponent = false;

  struct F32 {
    __m256 low;
    __m256 high;

    static F32 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static F32 all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static F32 load(const float* from) {
      return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
    }
    static F32 load_float16(const std::uint16_t* from) {
      return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))),
              _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8)))};
    }
    static F32 load_bfloat16(const std::uint16_t* from) { return {widen(from), widen(from + 8)}; }
    void store(float* to) const {
      _mm256_storeu_ps(to, low);
      _mm256_storeu_ps(to + 8, high);
    }
    void store_float16(std::uint16_t* to) const {
      constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(low, kNearest));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 8), _mm256_cvtps_ph(high, kNearest));
    }
    float total() const {
      const __m256 eight = _mm256_add_ps(low, high);
      const __m128 four =
          _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
      const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
      return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    float largest() const {
      const __m256 eight = _mm256_max_ps(low, high);
      const __m128 four =
          _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
      const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
      return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    }
    friend F32 operator+(F32 a, F32 b) {
      return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
    }
    friend F32 operator-(F32 a, F32 b) {
      return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
    }
    friend F32 operator*(F32 a, F32 b) {
      return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
    }
    friend F32 operator/(F32 a, F32 b) {
      return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
    }

   private:
    static __m256 widen(const std::uint16_t* bfloat16) {
      const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bfloat16));
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
    }
  };

  static F32 fma(F32 a, F32 b, F32 c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static F32 max(F32 a, F32 b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  static F32 abs(F32 a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
  }
  static F32 keep_below(F32 a, int count) { return select_range(a, 0, count, 0.0f); }
  static F32 select_range(F32 a, int begin, int end, float otherwise) {
    const __m256i index = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const __m256 other = _mm256_set1_ps(otherwise);
    const auto half = [&](__m256 value, int offset) {
      const __m256i at_begin = _mm256_cmpgt_epi32(index, _mm256_set1_epi32(begin - offset - 1));
      const __m256i below_end = _mm256_cmpgt_epi32(_mm256_set1_epi32(end - offset), index);
      const __m256i mask = _mm256_and_si256(at_begin, below_end);
      return _mm256_blendv_ps(other, value, _mm256_castsi256_ps(mask));
    };
    return {half(a.low, 0), half(a.high, 8)};
  }
  static F32 times_power_of_two(F32 a, F32 shifted) {
    return {_mm256_mul_ps(a.low, power(shifted.low)), _mm256_mul_ps(a.high, power(shifted.high))};
  }

  struct I32 {
    __m256i low;
    __m256i high;

    static I32 zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static I32 all(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
    F32 to_float() const { return {_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)}; }
    friend I32 operator+(I32 a, I32 b) {
      return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
    }
    I32 times(std::int32_t factor) const {
      const __m256i all = _mm256_set1_epi32(factor);
      return {_mm256_mullo_epi32(low, all), _mm256_mullo_epi32(high, all)};
    }
    static I32 widen_bytes(const std::uint8_t* from) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
      return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
    }
    static I32 widen_signed_bytes(const std::int8_t* from) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
      return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
    }
    I32 high_nibbles() const { return {_mm256_srli_epi32(low, 4), _mm256_srli_epi32(high, 4)}; }
    I32 low_nibbles() const {
      const __m256i mask = _mm256_set1_epi32(15);
      return {_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)};
    }
  };
  template <int kBias>
  static F32 low_nibble_less(const I32& a) {
    return (a.low_nibbles() + I32::all(-kBias)).to_float();
  }

  struct Bytes {
    __m256i low;
    __m256i high;

    static Bytes load(const std::uint8_t* from) {
      return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
              _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32))};
    }
    static Bytes load_signed(const std::int8_t* from) {
      return load(reinterpret_cast<const std::uint8_t*>(from));
    }
    Bytes low_nibbles() const {
      const __m256i mask = _mm256_set1_epi8(15);
      return {_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)};
    }
    Bytes high_nibbles() const {
      const __m256i mask = _mm256_set1_epi8(15);
      return {_mm256_and_si256(_mm256_srli_epi16(low, 4), mask),
              _mm256_and_si256(_mm256_srli_epi16(high, 4), mask)};
    }
  };

  static I32 add_dot(I32 sum, Bytes w, const std::int8_t* x4) {
    const __m256i x =
        _mm256_set1_epi32(*reinterpret_cast<const std::int32_t __attribute__((may_alias))*>(x4));
    return {_mm256_add_epi32(sum.low, dot(w.low, x)), _mm256_add_epi32(sum.high, dot(w.high, x))};
  }
  static I32 signed_start(std::int32_t) { return I32::zero(); }
  static I32 add_dot_signed(I32 sum, Bytes w, const std::int8_t* x4) {
    const __m256i x =
        _mm256_set1_epi32(*reinterpret_cast<const std::int32_t __attribute__((may_alias))*>(x4));
    return {_mm256_add_epi32(sum.low, dot_signed(w.low, x)),
            _mm256_add_epi32(sum.high, dot_signed(w.high, x))};
  }
  static I32 add_dot_vector(I32 sum, Bytes w, const std::int8_t* x64) {
    const Bytes x = Bytes::load_signed(x64);
    return {_mm256_add_epi32(sum.low, dot(w.low, x.low)),
            _mm256_add_epi32(sum.high, dot(w.high, x.high))};
  }
  static I32 add_dot_vector_signed(I32 sum, Bytes w, const std::int8_t* x64) {
    const Bytes x = Bytes::load_signed(x64);
    return {_mm256_add_epi32(sum.low, dot_signed(w.low, x.low)),
            _mm256_add_epi32(sum.high, dot_signed(w.high, x.high))};
  }

  static void join_six_bits(const Bytes (&nibbles)[2], const Bytes& upper, Bytes (&codes)[4]) {
    join_six_bits(nibbles[0].low, nibbles[1].low, upper.low, codes, &Bytes::low);
    join_six_bits(nibbles[0].high, nibbles[1].high, upper.high, codes, &Bytes::high);
  }

  static void store_int8(F32 values, std::int8_t* to) {
    const __m256i words =
        _mm256_packs_epi32(_mm256_cvtps_epi32(values.low), _mm256_cvtps_epi32(values.high));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0b11011000);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
  }

  static std::int32_t sum_of_int8(const std::int8_t* from) { return sum_of_16_int8(from); }

  static void prefetch(const void* address) {
    _mm_prefetch(static_cast<const char*>(address), _MM_HINT_T0);
  }
  static void prefetch_far(const void* address) {
    _mm_prefetch(static_cast<const char*>(address), _MM_HINT_T1);
  }

 private:
  static __m256 power(__m256 shifted) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(
        _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127)), 23));
  }
  // Shifts are of words: what crosses a byte's border is masked.
  static void join_six_bits(__m256i first, __m256i second, __m256i upper, Bytes (&codes)[4],
                            __m256i Bytes::* half) {
    const __m256i low = _mm256_set1_epi8(0x0f);
    const __m256i high = _mm256_set1_epi8(0x30);
    const auto join = [&](__m256i nibbles, __m256i bits) {
      return _mm256_or_si256(_mm256_and_si256(nibbles, low), _mm256_and_si256(bits, high));
    };
    codes[0].*half = join(first, _mm256_slli_epi16(upper, 4));
    codes[1].*half = join(_mm256_srli_epi16(first, 4), _mm256_slli_epi16(upper, 2));
    codes[2].*half = join(second, upper);
    codes[3].*half = join(_mm256_srli_epi16(second, 4), _mm256_srli_epi16(upper, 2));
  }
  // Codes times bytes: pairs sum to at most 2 * 63 * 127, so nothing saturates.
  static __m256i dot(__m256i w, __m256i x) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1));
  }
  // |w| * (x with w's sign): pairs sum to at most 2 * 128 * 127.
  static __m256i dot_signed(__m256i w, __m256i x) {
    return dot(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  }
};

}  // namespace

}  // namespace nestling
