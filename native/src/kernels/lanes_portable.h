// 16 lanes for any processor: the reference of the faster variants, and where their operations are
// described. Compilers lower the loops and vectors to whatever the target has.
//
// Products are rounded before they are added, on every machine.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace nestling {

namespace {

struct Portable {
  static constexpr int kMaxTokens = 4;     // tokens that a linear kernel takes at once, as floats,
  static constexpr int kInt8Tokens = 4;    // as int8 values,
  static constexpr int kInt16Tokens = 4;   // as kInt16
  static constexpr int kSixBitTokens = 4;  // as int8 values, with weights of six bits
  static constexpr bool kScalesByExponent = false;  // whether it has `scaled_by_exponent`

  struct F32 {
    using Four = float __attribute__((vector_size(16)));
    Four v[4];

    static F32 zero() { return all(0.0f); }
    static F32 all(float x) {
      const Four four = {x, x, x, x};
      return {{four, four, four, four}};
    }
    static F32 load(const float* from) {
      F32 result;
      std::memcpy(&result.v, from, sizeof(result.v));
      return result;
    }
    static F32 load_float16(const std::uint16_t* from) {
      float values[16];
      for (int i = 0; i < 16; ++i) values[i] = from_float16(from[i]);
      return load(values);
    }
    static F32 load_bfloat16(const std::uint16_t* from) {
      float values[16];
      for (int i = 0; i < 16; ++i) {
        values[i] = std::bit_cast<float>(static_cast<std::uint32_t>(from[i]) << 16);
      }
      return load(values);
    }
    void store(float* to) const { std::memcpy(to, &v, sizeof(v)); }
    // Rounds to nearest even.
    void store_float16(std::uint16_t* to) const {
      float values[16];
      store(values);
      for (int i = 0; i < 16; ++i) to[i] = to_float16(values[i]);
    }
    // The sum over the lanes, in an order of its own but always the same.
    float total() const {
      const Four sums = (v[0] + v[2]) + (v[1] + v[3]);
      return (sums[0] + sums[2]) + (sums[1] + sums[3]);
    }
    float largest() const {
      float values[16];
      store(values);
      float result = values[0];
      for (int i = 1; i < 16; ++i) result = values[i] > result ? values[i] : result;
      return result;
    }
    friend F32 operator+(F32 a, const F32& b) {
      for (int i = 0; i < 4; ++i) a.v[i] += b.v[i];
      return a;
    }
    friend F32 operator-(F32 a, const F32& b) {
      for (int i = 0; i < 4; ++i) a.v[i] -= b.v[i];
      return a;
    }
    friend F32 operator*(F32 a, const F32& b) {
      for (int i = 0; i < 4; ++i) a.v[i] *= b.v[i];
      return a;
    }
    friend F32 operator/(F32 a, const F32& b) {
      for (int i = 0; i < 4; ++i) a.v[i] /= b.v[i];
      return a;
    }
  };

  // a * b + c; fused where the variant's processor has that.
  static F32 fma(const F32& a, const F32& b, const F32& c) { return a * b + c; }
  static F32 max(const F32& a, const F32& b) {
    F32 result;
    for (int i = 0; i < 4; ++i) result.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return result;
  }
  static F32 abs(const F32& a) { return max(a, F32::zero() - a); }
  // Lanes from `count` on become zero.
  static F32 keep_below(const F32& a, int count) { return select_range(a, 0, count, 0.0f); }
  // Lanes outside [begin, end) become `otherwise`.
  static F32 select_range(const F32& a, int begin, int end, float otherwise) {
    float values[16];
    a.store(values);
    for (int i = 0; i < 16; ++i) {
      if (i < begin || i >= end) values[i] = otherwise;
    }
    return F32::load(values);
  }
  // a * 2^n, where shifted = n + 1.5 * 2^23 as exp leaves it.
  static F32 times_power_of_two(const F32& a, const F32& shifted) {
    float values[16];
    shifted.store(values);
    for (int i = 0; i < 16; ++i) {
      values[i] = std::bit_cast<float>((std::bit_cast<std::uint32_t>(values[i]) + 127u) << 23);
    }
    return a * F32::load(values);
  }

  struct I32 {
    std::int32_t v[16];

    static I32 zero() { return all(0); }
    static I32 all(std::int32_t x) {
      I32 result;
      for (std::int32_t& lane : result.v) lane = x;
      return result;
    }
    F32 to_float() const {
      float values[16];
      for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(v[i]);
      return F32::load(values);
    }
    friend I32 operator+(I32 a, const I32& b) {
      for (int i = 0; i < 16; ++i) a.v[i] += b.v[i];
      return a;
    }
    I32 times(std::int32_t factor) const {
      I32 result;
      for (int i = 0; i < 16; ++i) result.v[i] = v[i] * factor;
      return result;
    }
    static I32 widen_bytes(const std::uint8_t* from) {
      I32 result;
      for (int i = 0; i < 16; ++i) result.v[i] = from[i];
      return result;
    }
    static I32 widen_signed_bytes(const std::int8_t* from) {
      I32 result;
      for (int i = 0; i < 16; ++i) result.v[i] = from[i];
      return result;
    }
    I32 high_nibbles() const {
      I32 result;
      for (int i = 0; i < 16; ++i) result.v[i] = v[i] >> 4;
      return result;
    }
    I32 low_nibbles() const {
      I32 result;
      for (int i = 0; i < 16; ++i) result.v[i] = v[i] & 15;
      return result;
    }
  };

  // The low four bits of each lane, less kBias.
  template <int kBias>
  static F32 low_nibble_less(const I32& a) {
    return (a.low_nibbles() + I32::all(-kBias)).to_float();
  }

  // 64 weight bytes.
  struct Bytes {
    std::uint8_t v[64];

    static Bytes load(const std::uint8_t* from) {
      Bytes result;
      std::memcpy(result.v, from, 64);
      return result;
    }
    static Bytes load_signed(const std::int8_t* from) {
      Bytes result;
      std::memcpy(result.v, from, 64);
      return result;
    }
    Bytes low_nibbles() const {
      Bytes result;
      for (int i = 0; i < 64; ++i) result.v[i] = v[i] & 15;
      return result;
    }
    Bytes high_nibbles() const {
      Bytes result;
      for (int i = 0; i < 64; ++i) result.v[i] = static_cast<std::uint8_t>(v[i] >> 4);
      return result;
    }
  };

  // Lane i gains w[4i .. 4i + 4) times the four bytes at x4; w are unsigned, at most 63.
  static I32 add_dot(I32 sum, const Bytes& w, const std::int8_t* x4) {
    for (int i = 0; i < 64; ++i) sum.v[i / 4] += w.v[i] * x4[i % 4];
    return sum;
  }
  // The same for signed bytes from `load_signed`. Some variants hold those biased: the sum starts
  // where `signed_start` says, from -8 times the sum of the x that will be added.
  static I32 signed_start(std::int32_t) { return I32::zero(); }
  static I32 add_dot_signed(I32 sum, const Bytes& w, const std::int8_t* x4) {
    for (int i = 0; i < 64; ++i) sum.v[i / 4] += static_cast<std::int8_t>(w.v[i]) * x4[i % 4];
    return sum;
  }
  // Lane i gains w[4i .. 4i + 4) times x64[4i .. 4i + 4).
  static I32 add_dot_vector(I32 sum, const Bytes& w, const std::int8_t* x64) {
    for (int i = 0; i < 64; ++i) sum.v[i / 4] += w.v[i] * x64[i];
    return sum;
  }
  static I32 add_dot_vector_signed(I32 sum, const Bytes& w, const std::int8_t* x64) {
    for (int i = 0; i < 64; ++i) sum.v[i / 4] += static_cast<std::int8_t>(w.v[i]) * x64[i];
    return sum;
  }

  // Codes of 6 bits for four steps s of inputs: the low (s even) or high nibbles of line s / 2, and
  // above them the bits 2 * s of `upper`.
  static void join_six_bits(const Bytes (&nibbles)[2], const Bytes& upper, Bytes (&codes)[4]) {
    for (int s = 0; s < 4; ++s) {
      const Bytes low = s % 2 == 0 ? nibbles[s / 2].low_nibbles() : nibbles[s / 2].high_nibbles();
      for (int i = 0; i < 64; ++i) {
        codes[s].v[i] = static_cast<std::uint8_t>(low.v[i] | (upper.v[i] >> (2 * s) & 3) << 4);
      }
    }
  }

  // 16 values, rounded to the nearest integer, ties to even. They should lie in -127..127; what
  // does not, such as NaN, gives any byte.
  static void store_int8(const F32& values, std::int8_t* to) {
    float rounded[16];
    const F32 magic = F32::all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    ((values + magic) - magic).store(rounded);
    for (int i = 0; i < 16; ++i) {
      const bool fits = rounded[i] >= -128.0f && rounded[i] <= 127.0f;
      to[i] = fits ? static_cast<std::int8_t>(rounded[i]) : std::int8_t{-128};
    }
  }

  // Returns the sum of 16 int8 values.
  static std::int32_t sum_of_int8(const std::int8_t* from) {
    std::int32_t sum = 0;
    for (int i = 0; i < 16; ++i) sum += from[i];
    return sum;
  }

  static void prefetch(const void* address) { __builtin_prefetch(address); }
  // To the second cache.
  static void prefetch_far(const void* address) { __builtin_prefetch(address, 0, 2); }

  static float from_float16(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t rest = half & 0x7fffu;
    if (rest >= 0x7c00u) {
      return std::bit_cast<float>(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
    }
    // Multiplying by 2^112 moves the exponent's bias, and makes subnormal numbers normal.
    const float magnitude = std::bit_cast<float>(rest << 13) * 0x1p112f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  static std::uint16_t to_float16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
    if (magnitude >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // >= 65536
    if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 rounds at the subnormals' last bit
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) & 0xffffu));
    }
    const std::uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<std::uint16_t>(sign | (rounded >> 13));
  }
};

}  // namespace

}  // namespace nestling
