// 16 lanes in four NEON registers; dot products of bytes by the dot-product extension. See
// lanes_portable.h for what each operation means.
//
// Sums and comparisons run in the order of lanes_avx2.h, so finite results have the same bits.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace nestling {

namespace {

struct Neon {
  static constexpr int kMaxTokens = 4;
  static constexpr int kInt8Tokens = 4;  // their integer sums take 16 of the 32 registers
  static constexpr int kInt16Tokens = 4;
  static constexpr int kSixBitTokens = 4;
  static constexpr bool kScalesByExponent = false;

  struct F32 {
    float32x4_t v[4];

    static F32 zero() { return all(0.0f); }
    static F32 all(float x) {
      const float32x4_t four = vdupq_n_f32(x);
      return {{four, four, four, four}};
    }
    static F32 load(const float* from) {
      return {{vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)}};
    }
    static F32 load_float16(const std::uint16_t* from) {
      const uint16x8_t low = vld1q_u16(from);
      const uint16x8_t high = vld1q_u16(from + 8);
      return {{vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(low))),
               vcvt_high_f32_f16(vreinterpretq_f16_u16(low)),
               vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(high))),
               vcvt_high_f32_f16(vreinterpretq_f16_u16(high))}};
    }
    static F32 load_bfloat16(const std::uint16_t* from) {
      const uint16x8_t low = vld1q_u16(from);
      const uint16x8_t high = vld1q_u16(from + 8);
      return {{vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(low), 16)),
               vreinterpretq_f32_u32(vshll_high_n_u16(low, 16)),
               vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(high), 16)),
               vreinterpretq_f32_u32(vshll_high_n_u16(high, 16))}};
    }
    void store(float* to) const {
      for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, v[i]);
    }
    void store_float16(std::uint16_t* to) const {
      vst1q_u16(to, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(v[0]), v[1])));
      vst1q_u16(to + 8, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(v[2]), v[3])));
    }
    float total() const {
      const float32x4_t four = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
      const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
      return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
    }
    float largest() const {
      const float32x4_t four = larger(larger(v[0], v[2]), larger(v[1], v[3]));
      const float32x4_t two = larger(four, vextq_f32(four, four, 2));
      return vgetq_lane_f32(larger(two, vdupq_laneq_f32(two, 1)), 0);
    }
    friend F32 operator+(F32 a, F32 b) {
      return {{vaddq_f32(a.v[0], b.v[0]), vaddq_f32(a.v[1], b.v[1]), vaddq_f32(a.v[2], b.v[2]),
               vaddq_f32(a.v[3], b.v[3])}};
    }
    friend F32 operator-(F32 a, F32 b) {
      return {{vsubq_f32(a.v[0], b.v[0]), vsubq_f32(a.v[1], b.v[1]), vsubq_f32(a.v[2], b.v[2]),
               vsubq_f32(a.v[3], b.v[3])}};
    }
    friend F32 operator*(F32 a, F32 b) {
      return {{vmulq_f32(a.v[0], b.v[0]), vmulq_f32(a.v[1], b.v[1]), vmulq_f32(a.v[2], b.v[2]),
               vmulq_f32(a.v[3], b.v[3])}};
    }
    friend F32 operator/(F32 a, F32 b) {
      return {{vdivq_f32(a.v[0], b.v[0]), vdivq_f32(a.v[1], b.v[1]), vdivq_f32(a.v[2], b.v[2]),
               vdivq_f32(a.v[3], b.v[3])}};
    }
  };

  static F32 fma(F32 a, F32 b, F32 c) {
    return {{vfmaq_f32(c.v[0], a.v[0], b.v[0]), vfmaq_f32(c.v[1], a.v[1], b.v[1]),
             vfmaq_f32(c.v[2], a.v[2], b.v[2]), vfmaq_f32(c.v[3], a.v[3], b.v[3])}};
  }
  static F32 max(F32 a, F32 b) {
    return {{larger(a.v[0], b.v[0]), larger(a.v[1], b.v[1]), larger(a.v[2], b.v[2]),
             larger(a.v[3], b.v[3])}};
  }
  static F32 abs(F32 a) {
    return {{vabsq_f32(a.v[0]), vabsq_f32(a.v[1]), vabsq_f32(a.v[2]), vabsq_f32(a.v[3])}};
  }
  static F32 keep_below(F32 a, int count) { return select_range(a, 0, count, 0.0f); }
  static F32 select_range(F32 a, int begin, int end, float otherwise) {
    static constexpr std::int32_t kIndices[4] = {0, 1, 2, 3};
    const int32x4_t index = vld1q_s32(kIndices);
    for (int i = 0; i < 4; ++i) {
      const uint32x4_t at_begin = vcgeq_s32(index, vdupq_n_s32(begin - 4 * i));
      const uint32x4_t below_end = vcltq_s32(index, vdupq_n_s32(end - 4 * i));
      a.v[i] = vbslq_f32(vandq_u32(at_begin, below_end), a.v[i], vdupq_n_f32(otherwise));
    }
    return a;
  }
  static F32 times_power_of_two(F32 a, F32 shifted) {
    for (int i = 0; i < 4; ++i) {
      const uint32x4_t bits = vreinterpretq_u32_f32(shifted.v[i]);
      const uint32x4_t exponent = vshlq_n_u32(vaddq_u32(bits, vdupq_n_u32(127)), 23);
      a.v[i] = vmulq_f32(a.v[i], vreinterpretq_f32_u32(exponent));
    }
    return a;
  }

  struct I32 {
    int32x4_t v[4];

    static I32 zero() { return all(0); }
    static I32 all(std::int32_t x) {
      const int32x4_t four = vdupq_n_s32(x);
      return {{four, four, four, four}};
    }
    F32 to_float() const {
      return {{vcvtq_f32_s32(v[0]), vcvtq_f32_s32(v[1]), vcvtq_f32_s32(v[2]), vcvtq_f32_s32(v[3])}};
    }
    friend I32 operator+(I32 a, I32 b) {
      return {{vaddq_s32(a.v[0], b.v[0]), vaddq_s32(a.v[1], b.v[1]), vaddq_s32(a.v[2], b.v[2]),
               vaddq_s32(a.v[3], b.v[3])}};
    }
    I32 times(std::int32_t factor) const {
      return {{vmulq_n_s32(v[0], factor), vmulq_n_s32(v[1], factor), vmulq_n_s32(v[2], factor),
               vmulq_n_s32(v[3], factor)}};
    }
    static I32 widen_bytes(const std::uint8_t* from) {
      const uint8x16_t bytes = vld1q_u8(from);
      return widen(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))),
                   vreinterpretq_s16_u16(vmovl_high_u8(bytes)));
    }
    static I32 widen_signed_bytes(const std::int8_t* from) {
      const int8x16_t bytes = vld1q_s8(from);
      return widen(vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
    }
    I32 high_nibbles() const {
      return {
          {vshrq_n_s32(v[0], 4), vshrq_n_s32(v[1], 4), vshrq_n_s32(v[2], 4), vshrq_n_s32(v[3], 4)}};
    }
    I32 low_nibbles() const {
      const int32x4_t mask = vdupq_n_s32(15);
      return {{vandq_s32(v[0], mask), vandq_s32(v[1], mask), vandq_s32(v[2], mask),
               vandq_s32(v[3], mask)}};
    }

   private:
    static I32 widen(int16x8_t low, int16x8_t high) {
      return {{vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)),
               vmovl_high_s16(high)}};
    }
  };

  template <int kBias>
  static F32 low_nibble_less(const I32& a) {
    return (a.low_nibbles() + I32::all(-kBias)).to_float();
  }

  // Nibbles and codes of 6 bits are held as signed bytes too: 0..63 fits both.
  struct Bytes {
    int8x16_t v[4];

    static Bytes load(const std::uint8_t* from) {
      return {{vreinterpretq_s8_u8(vld1q_u8(from)), vreinterpretq_s8_u8(vld1q_u8(from + 16)),
               vreinterpretq_s8_u8(vld1q_u8(from + 32)), vreinterpretq_s8_u8(vld1q_u8(from + 48))}};
    }
    static Bytes load_signed(const std::int8_t* from) {
      return {{vld1q_s8(from), vld1q_s8(from + 16), vld1q_s8(from + 32), vld1q_s8(from + 48)}};
    }
    Bytes low_nibbles() const {
      const int8x16_t mask = vdupq_n_s8(15);
      return {
          {vandq_s8(v[0], mask), vandq_s8(v[1], mask), vandq_s8(v[2], mask), vandq_s8(v[3], mask)}};
    }
    Bytes high_nibbles() const { return {{upper(v[0]), upper(v[1]), upper(v[2]), upper(v[3])}}; }

   private:
    static int8x16_t upper(int8x16_t bytes) {
      return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(bytes), 4));
    }
  };

  static I32 add_dot(I32 sum, Bytes w, const std::int8_t* x4) {
    std::uint32_t four;
    std::memcpy(&four, x4, sizeof(four));
    const int8x8_t x = vcreate_s8(four);  // the instruction itself repeats its lane 0
    return {{vdotq_lane_s32(sum.v[0], w.v[0], x, 0), vdotq_lane_s32(sum.v[1], w.v[1], x, 0),
             vdotq_lane_s32(sum.v[2], w.v[2], x, 0), vdotq_lane_s32(sum.v[3], w.v[3], x, 0)}};
  }
  static I32 signed_start(std::int32_t) { return I32::zero(); }
  static I32 add_dot_signed(I32 sum, Bytes w, const std::int8_t* x4) { return add_dot(sum, w, x4); }
  static I32 add_dot_vector(I32 sum, Bytes w, const std::int8_t* x64) {
    const Bytes x = Bytes::load_signed(x64);
    return {{vdotq_s32(sum.v[0], w.v[0], x.v[0]), vdotq_s32(sum.v[1], w.v[1], x.v[1]),
             vdotq_s32(sum.v[2], w.v[2], x.v[2]), vdotq_s32(sum.v[3], w.v[3], x.v[3])}};
  }
  static I32 add_dot_vector_signed(I32 sum, Bytes w, const std::int8_t* x64) {
    return add_dot_vector(sum, w, x64);
  }

  static void join_six_bits(const Bytes (&nibbles)[2], const Bytes& upper, Bytes (&codes)[4]) {
    const Bytes steps[4] = {nibbles[0].low_nibbles(), nibbles[0].high_nibbles(),
                            nibbles[1].low_nibbles(), nibbles[1].high_nibbles()};
    const int8x16_t high = vdupq_n_s8(0x30);
    for (int i = 0; i < 4; ++i) {
      const uint8x16_t bits = vreinterpretq_u8_s8(upper.v[i]);
      const uint8x16_t shifted[4] = {vshlq_n_u8(bits, 4), vshlq_n_u8(bits, 2), bits,
                                     vshrq_n_u8(bits, 2)};
      for (int s = 0; s < 4; ++s) {
        const int8x16_t above = vandq_s8(vreinterpretq_s8_u8(shifted[s]), high);
        codes[s].v[i] = vorrq_s8(steps[s].v[i], above);
      }
    }
  }

  static void store_int8(F32 values, std::int8_t* to) {
    const int16x8_t low =
        vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(values.v[0])), vcvtnq_s32_f32(values.v[1]));
    const int16x8_t high =
        vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(values.v[2])), vcvtnq_s32_f32(values.v[3]));
    vst1q_s8(to, vqmovn_high_s16(vqmovn_s16(low), high));
  }

  static std::int32_t sum_of_int8(const std::int8_t* from) { return vaddlvq_s8(vld1q_s8(from)); }

  static void prefetch(const void* address) { __builtin_prefetch(address); }
  static void prefetch_far(const void* address) { __builtin_prefetch(address, 0, 2); }

 private:
  // a > b ? a : b; the second of zeros, and where one is no number: as x86's, unlike FMAX.
  static float32x4_t larger(float32x4_t a, float32x4_t b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
  }
};

}  // namespace

}  // namespace nestling
