// Portable's lanes with fused multiply-add: slow on any machine, and what the fast variants must
// equal to the bit.
#pragma once

#include <cmath>

#include "kernels/lanes_portable.h"

namespace nestling {

namespace {

struct Fused : Portable {
  static F32 fma(const F32& a, const F32& b, const F32& c) {
    F32 result;
    for (int i = 0; i < 16; ++i) {
      result.v[i / 4][i % 4] = std::fma(a.v[i / 4][i % 4], b.v[i / 4][i % 4], c.v[i / 4][i % 4]);
    }
    return result;
  }
};

}  // namespace

}  // namespace nestling
