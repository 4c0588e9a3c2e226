// Portable's lanes with fused multiply-add: slow on any machine, and what the fast variants must
// equal to the bit. kBias is the variant's kByteBias.
#pragma once

#include <cmath>

#include "lanes_portable.h"

namespace nestling {

namespace {

template <int kBias>
struct Fused : Portable {
  static constexpr std::int32_t kByteBias = kBias;

  static F32 fma(const F32& a, const F32& b, const F32& c) {
    F32 result;
    for (int i = 0; i < 16; ++i) {
      result.v[i / 4][i % 4] = std::fma(a.v[i / 4][i % 4], b.v[i / 4][i % 4], c.v[i / 4][i % 4]);
    }
    return result;
  }
  static I32 add_dot_signed(I32 sum, const Bytes& w, const std::int8_t* x4) {
    for (int i = 0; i < 64; ++i) sum.v[i / 4] += biased(w.v[i]) * x4[i % 4];
    return sum;
  }

 private:
  static std::int32_t biased(std::uint8_t w) { return static_cast<std::int8_t>(w) + kBias; }
};

}  // namespace

}  // namespace nestling
