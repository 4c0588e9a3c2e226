// Random and extreme numbers for tests, the same in every run.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace nestling {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kMost = std::numeric_limits<float>::max();

enum class Numbers { kRandom, kExtreme };

inline std::mt19937 generator(1);

inline float random_float() { return std::normal_distribution<float>()(generator); }

// Zeros, subnormal and large numbers among random ones of all sizes; no NaN.
inline float extreme_float() {
  static constexpr float kExtremes[] = {0.0f,    -0.0f, 1e-45f, -1e-39f, 1.2e-38f,
                                        -1e-30f, 1e-7f, 127.0f, -1e10f,  3e20f};
  const auto which = generator() % 16;
  return which < 10 ? kExtremes[which] : std::ldexp(random_float(), static_cast<int>(which) * 3);
}

inline std::vector<float> floats(std::size_t count, Numbers numbers) {
  std::vector<float> values(count);
  for (float& value : values) {
    value = numbers == Numbers::kRandom ? random_float() : extreme_float();
  }
  return values;
}

inline bool same_bits(float a, float b) {
  return std::memcmp(&a, &b, sizeof(a)) == 0 || (std::isnan(a) && std::isnan(b));
}

}  // namespace nestling
