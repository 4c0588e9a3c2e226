// e^x for x <= 0 in float32, with the same bits on every machine.
//
// Branch-free, so that compilers vectorise loops over it; built without contraction to FMA (see
// CMakeLists.txt), so that vector body and scalar tail of such a loop agree.
#pragma once

#include <bit>
#include <cstdint>

namespace nestling {

// Below this e^x would leave float32's normal range, and the result is 0.
inline constexpr float kExpUnderflow = -87.0f;

inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2High = 0.693359375f;  // few bits, so that n * kLn2High is exact
inline constexpr float kLn2Low = -2.12194440e-4f;
inline constexpr float kExpRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
// Taylor's, from r^7 down; the next term is below 6e-9 for |r| <= ln(2) / 2.
inline constexpr float kExpSeries[] = {1.0f / 5040.0f, 1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f,
                                       1.0f / 6.0f,    0.5f,          1.0f,          1.0f};

// Relative error below 2e-7. NaN stays NaN; x > 0 is not supported.
static inline float exp_nonpositive(float x) {
  const float clamped = x < kExpUnderflow ? kExpUnderflow : x;
  const float shifted = clamped * kLog2E + kExpRound;
  const float n = shifted - kExpRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float series = kExpSeries[0];
  series = series * r + kExpSeries[1];
  series = series * r + kExpSeries[2];
  series = series * r + kExpSeries[3];
  series = series * r + kExpSeries[4];
  series = series * r + kExpSeries[5];
  series = series * r + kExpSeries[6];
  series = series * r + kExpSeries[7];
  const std::uint32_t exponent = (std::bit_cast<std::uint32_t>(shifted) + 127u) << 23;
  const float result = series * std::bit_cast<float>(exponent);
  return x < kExpUnderflow ? 0.0f : result;
}

}  // namespace nestling
