// 2^x for x <= 0 in float32, with the same bits on every machine.
//
// Branch-free, so that compilers vectorise loops over it; built without contraction to FMA (see
// CMakeLists.txt), so that vector body and scalar tail of such a loop agree.
#pragma once

#include <bit>
#include <cstdint>

namespace nestling {

inline constexpr float kExp2Round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
// From r^6 down: of the polynomials that are 1 at 0, the one nearest to 2^r for |r| <= 1/2 by
// relative error, 2e-9.
inline constexpr float kExp2Series[] = {1.53533620e-4f,
                                        1.33988739e-3f,
                                        9.61843692e-3f,
                                        5.55033237e-2f,
                                        2.40226477e-1f,
                                        6.93147182e-1f,
                                        1.0f};

// Relative error below 1.2e-7 for -126 <= x <= 0, and 2^0 is 1; any result for other x.
static inline float exp2_nonpositive(float x) {
  const float shifted = x + kExp2Round;
  const float r = x - (shifted - kExp2Round);
  float series = kExp2Series[0];
  series = series * r + kExp2Series[1];
  series = series * r + kExp2Series[2];
  series = series * r + kExp2Series[3];
  series = series * r + kExp2Series[4];
  series = series * r + kExp2Series[5];
  series = series * r + kExp2Series[6];
  // Raises the exponent by the integer in the low bits of `shifted`; its others fall out.
  const std::uint32_t exponent = std::bit_cast<std::uint32_t>(shifted) << 23;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(series) + exponent);
}

}  // namespace nestling
