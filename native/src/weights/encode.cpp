#include "nestling/encode.h"

#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "weights/half.h"
#include "weights/quantize.h"

namespace nestling {

namespace {

constexpr std::size_t kElements = 32;

void encode_half(float value, std::uint8_t* out) {
  const std::uint16_t half = half_of_float(value);
  std::memcpy(out, &half, sizeof(half));
}

// Codes are rounded by the scale before its own rounding to f16, halves away from zero.
void encode_q8_0(const float* values, std::uint8_t* out) {
  const float scale = largest_size(values) / 127.0f;
  const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
  encode_half(scale, out);
  for (std::size_t i = 0; i < kElements; ++i) {
    float code = values[i] * inverse;
    code = code < 127.0f ? code : 127.0f;  // what is no number, too
    code = code > -127.0f ? code : -127.0f;
    const int whole = static_cast<int>(code);
    const float rest = code - static_cast<float>(whole);  // exact, unlike code + 0.5
    const int step = rest >= 0.5f ? 1 : rest <= -0.5f ? -1 : 0;
    out[2 + i] = static_cast<std::uint8_t>(whole + step);
  }
}

void encode_q4_0(const float* values, std::uint8_t* out) {
  std::int8_t codes[kElements];
  encode_half(quantize_as_q4_0(values, codes), out);
  for (std::size_t i = 0; i < kElements / 2; ++i) {
    out[2 + i] = static_cast<std::uint8_t>(codes[i] | codes[kElements / 2 + i] << 4);
  }
}

}  // namespace

void encode_row(StoredType type, const float* values, std::size_t count, std::byte* out) {
  auto* const bytes = reinterpret_cast<std::uint8_t*>(out);
  switch (type) {
    case StoredType::kF32:
      std::memcpy(out, values, count * sizeof(float));
      return;
    case StoredType::kF16:
      for (std::size_t i = 0; i < count; ++i) encode_half(values[i], bytes + 2 * i);
      return;
    case StoredType::kQ8_0:
      for (std::size_t b = 0; b < count / kElements; ++b) {
        encode_q8_0(values + b * kElements, bytes + b * block_bytes(type));
      }
      return;
    case StoredType::kQ4_0:
      for (std::size_t b = 0; b < count / kElements; ++b) {
        encode_q4_0(values + b * kElements, bytes + b * block_bytes(type));
      }
      return;
    default:
      throw std::invalid_argument("dtype: expected F32, F16, Q8_0 or Q4_0");
  }
}

}  // namespace nestling
