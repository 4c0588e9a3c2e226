// The arithmetic that quantising groups of 32 floats shares.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace nestling {

// Orders values by size, NaN above infinity.
inline std::int32_t size_bits(float value) {
  return std::bit_cast<std::int32_t>(value) & 0x7fffffff;
}

// The largest size of 32 values; NaN if one is NaN.
inline float largest_size(const float* values) {
  std::int32_t largest = 0;
  for (std::size_t i = 0; i < 32; ++i) largest = std::max(largest, size_bits(values[i]));
  return std::bit_cast<float>(largest);
}

// Codes 0..15 of 32 values as GGML makes those of Q4_0, and the scale: the value of the largest
// size becomes code 0.
inline float quantize_as_q4_0(const float* values, std::int8_t* codes) {
  float extreme = 0.0f;
  for (std::size_t i = 0; i < 32; ++i) {
    if (size_bits(values[i]) > size_bits(extreme)) extreme = values[i];
  }
  const float scale = extreme / -8.0f;
  const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
  for (std::size_t i = 0; i < 32; ++i) {
    float code = values[i] * inverse + 8.5f;
    code = code > 0.0f ? code : 0.0f;  // what is no number becomes 0
    code = code < 15.0f ? code : 15.0f;
    codes[i] = static_cast<std::int8_t>(code);
  }
  return scale;
}

}  // namespace nestling
