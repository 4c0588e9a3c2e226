// The values that packed weights stand for: what kernels compute with, and tests compare.

#include <cstdint>

#include "nestling/matrix.h"
#include "weights/half.h"

namespace nestling {

namespace {

float value_of(Format format, const void* values, std::size_t index) {
  switch (format) {
    case Format::kFloat32:
      return static_cast<const float*>(values)[index];
    case Format::kFloat16:
      return float_of_half(static_cast<const std::uint16_t*>(values)[index]);
    default:
      return float_of_bfloat16(static_cast<const std::uint16_t*>(values)[index]);
  }
}

struct Place {
  std::size_t byte;  // of the code
  bool is_high;      // which nibble, if kQ4
  std::size_t group;
};

template <class Packed>
float value_of(const Packed& packed, const Place& place) {
  const float scale = float_of_half(packed.scales()[place.group]);
  const auto byte = packed.template values<std::uint8_t>()[place.byte];
  int code = static_cast<std::int8_t>(byte);
  if (packed.format() == Format::kQ4) {
    code = place.is_high ? byte >> 4 : byte & 15;
    if (!packed.has_min()) code -= 8;
  }
  const float product = scale * static_cast<float>(code);
  return packed.has_min() ? product + float_of_half(packed.mins()[place.group]) : product;
}

// Input k of an output of kQ6.
float six_bit_value(const Matrix& packed, std::size_t row, std::size_t k) {
  const std::size_t lane = row % kTile;
  const std::size_t num_blocks = packed.in_features() / kSixBitBlock;
  const std::size_t block = row / kTile * num_blocks + k / kSixBitBlock;
  const std::size_t part = k % kSixBitBlock / 16;
  const std::uint8_t* factors = packed.values<std::uint8_t>() + block * kSixBitBlockBytes;
  const std::uint8_t* lines = factors + kSixBitFactorBytes + part * 3 * 64;
  const std::size_t step = k % 16 / 4;
  const std::size_t byte = 4 * lane + k % 4;
  const int low = lines[step / 2 * 64 + byte] >> (4 * (step % 2)) & 15;
  const int high = lines[128 + byte] >> (2 * step) & 3;
  const auto factor = static_cast<std::int8_t>(factors[part * kTile + lane]);
  const float scale = float_of_half(packed.scales()[block * kTile + lane]);
  return scale * static_cast<float>(factor) * static_cast<float>((low | high << 4) - 32);
}

}  // namespace

void unpack(const Matrix& packed, float* out) {
  const std::size_t in = packed.in_features();
  for (std::size_t row = 0; row < packed.out_features(); ++row) {
    const std::size_t tile = row / kTile;
    const std::size_t lane = row % kTile;
    for (std::size_t k = 0; k < in; ++k) {
      float& value = out[row * in + k];
      if (!is_quantized(packed.format())) {
        value =
            value_of(packed.format(), packed.values<std::byte>(), (tile * in + k) * kTile + lane);
        continue;
      }
      if (packed.format() == Format::kQ6) {
        value = six_bit_value(packed, row, k);
        continue;
      }
      const std::size_t group = tile * packed.num_groups() + k / kGroup;
      const std::size_t i = k % kGroup;
      const bool is_q4 = packed.format() == Format::kQ4;
      const std::size_t line = is_q4 ? group * 4 + i / 8 : group * 8 + i / 4;
      value =
          value_of(packed, {line * 64 + 4 * lane + i % 4, i / 4 % 2 == 1, group * kTile + lane});
    }
  }
}

void unpack(const RowMatrix& packed, float* out) {
  const std::size_t in = packed.in_features();
  const std::size_t padded = packed.padded_in();
  for (std::size_t row = 0; row < packed.num_rows(); ++row) {
    for (std::size_t k = 0; k < in; ++k) {
      float& value = out[row * in + k];
      if (!is_quantized(packed.format())) {
        value = value_of(packed.format(), packed.values<std::byte>(), row * padded + k);
        continue;
      }
      const bool is_q4 = packed.format() == Format::kQ4;
      const std::size_t four = k % kGroup / 4;
      const std::size_t place = k % kRowBlock / kGroup * 4 + k % 4;
      const std::size_t first = row * padded + k / kRowBlock * kRowBlock;
      const std::size_t byte =
          is_q4 ? first / 2 + four / 2 * 64 + place : first + four * 64 + place;
      value = value_of(packed, {byte, four % 2 == 1, (row * padded + k) / kGroup});
    }
  }
}

void unpack(const ColumnMatrix& packed, float* out) {
  const std::size_t num_columns = packed.num_columns();
  const std::size_t padded = packed.padded_out();
  for (std::size_t row = 0; row < packed.out_features(); ++row) {
    for (std::size_t column = 0; column < num_columns; ++column) {
      float& value = out[row * num_columns + column];
      if (!is_quantized(packed.format())) {
        value = value_of(packed.format(), packed.values<std::byte>(), column * padded + row);
        continue;
      }
      const bool is_q4 = packed.format() == Format::kQ4;
      const std::size_t byte =
          is_q4 ? column * padded / 2 + row / 32 * 16 + row % 16 : column * padded + row;
      value = value_of(packed, {byte, row % 32 >= 16, column / kGroup * padded + row});
    }
  }
}

}  // namespace nestling
