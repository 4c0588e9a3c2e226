#include "weights/pack_source.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>

#include "weights/half.h"
#include "weights/quantize.h"
#include "weights/stored_blocks.h"
#include "weights/stored_decode.h"

namespace nestling {

namespace {

using Codes = std::int8_t[kGroup];

// Moves codes. Those of kQ8 are signed, those of kQ4 are stored with their offset.
template <class Block, Format format>
void move_groups(const StoredMatrix& stored, std::size_t row, std::size_t begin, std::size_t count,
                 Group* groups) {
  constexpr std::size_t kGroupsPerBlock = Block::kElements / kGroup;
  const auto* blocks = reinterpret_cast<const std::uint8_t*>(stored.row(row)) +
                       begin / kGroupsPerBlock * Block::kBytes;
  for (std::size_t g = 0; g < count; ++g) {
    const std::uint8_t* block = blocks + g / kGroupsPerBlock * Block::kBytes;
    const std::size_t group = g % kGroupsPerBlock;
    alignas(16) Codes codes;
    Block::codes(block, group, codes);
    if constexpr (format == Format::kQ8 && Block::kOffset != 0) {
      for (std::int8_t& code : codes) code = static_cast<std::int8_t>(code - Block::kOffset);
    }
    std::memcpy(groups[g].codes, codes, sizeof(codes));
    if constexpr (kGroupsPerBlock == 1) {  // f16 numbers as they lie
      groups[g].scale = load<std::uint16_t>(block);
      groups[g].min = Block::kHasMin ? load<std::uint16_t>(block + 2) : std::uint16_t{0};
    } else {
      groups[g].scale = half_of_float(Block::scale(block, group));
      groups[g].min = Block::kHasMin ? half_of_float(Block::min(block, group)) : std::uint16_t{0};
    }
  }
}

// The nearest whole number to a value below 2^22, ties to even.
std::int32_t rounded(float value) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: the sum's last bit is worth 1
  return std::bit_cast<std::int32_t>(value + kShift) - std::bit_cast<std::int32_t>(kShift);
}

// Symmetric in -127..127, rounded by the scale that is kept. Not finite: so is every weight.
void quantize_q8(const float* values, Group& group) {
  group.scale = half_of_float(largest_size(values) / 127.0f);
  group.min = 0;
  const float scale = float_of_half(group.scale);
  alignas(16) std::int32_t codes[kGroup] = {};
  if (scale >= 0x1p-14f && scale <= 65504.0f) {  // rounded by 2^-11 at most: no code exceeds 127
    for (std::size_t i = 0; i < kGroup; ++i) codes[i] = rounded(values[i] / scale);
  } else if (scale > 0.0f && scale <= 65504.0f) {
    for (std::size_t i = 0; i < kGroup; ++i) {
      codes[i] = rounded(std::clamp(values[i] / scale, -127.0f, 127.0f));
    }
  } else if (scale > 0.0f) {  // infinite
    std::fill(std::begin(codes), std::end(codes), 127);
  }
  alignas(16) Codes narrow;
  for (std::size_t i = 0; i < kGroup; ++i) narrow[i] = static_cast<std::int8_t>(codes[i]);
  std::memcpy(group.codes, narrow, sizeof(narrow));
}

void quantize_q4(const float* values, Group& group) {
  alignas(16) Codes codes;
  group.scale = half_of_float(quantize_as_q4_0(values, codes));
  group.min = 0;
  std::memcpy(group.codes, codes, sizeof(codes));
}

template <void (*quantize)(const float*, Group&)>
void quantize_groups(const StoredMatrix& stored, std::size_t row, std::size_t begin,
                     std::size_t count, Group* groups) {
  alignas(16) float values[kPieceElements];
  const std::size_t wanted = count * kGroup;
  const std::size_t there = std::min(wanted, stored.row_size - begin * kGroup);
  decode_elements(stored, row, begin * kGroup, there, values);
  std::fill(values + there, values + wanted, 0.0f);
  for (std::size_t g = 0; g < count; ++g) quantize(values + g * kGroup, groups[g]);
}

ReadGroups mover_of(StoredType type) {
  switch (type) {
    case StoredType::kQ4_0:
      return move_groups<Q4_0Block, Format::kQ4>;
    case StoredType::kQ4_1:
      return move_groups<Q4_1Block, Format::kQ4>;
    case StoredType::kQ4_K:
      return move_groups<Q4KBlock, Format::kQ4>;
    case StoredType::kQ8_0:
      return move_groups<Q8_0Block, Format::kQ8>;
    case StoredType::kQ5_0:
      return move_groups<Q5_0Block, Format::kQ8>;
    case StoredType::kQ5_1:
      return move_groups<Q5_1Block, Format::kQ8>;
    case StoredType::kQ5_K:
      return move_groups<Q5KBlock, Format::kQ8>;
    case StoredType::kIQ4_NL:
      return move_groups<Iq4NlBlock, Format::kQ8>;
    case StoredType::kIQ4_XS:
      return move_groups<Iq4XsBlock, Format::kQ8>;
    default:
      return nullptr;
  }
}

std::uint16_t bits_of(float value, Half) { return half_of_float(value); }
std::uint16_t bits_of(float value, Bfloat16) { return bfloat16_of_float(value); }

template <class Element>
constexpr StoredType kSame = StoredType::kF32;
template <>
constexpr StoredType kSame<Half> = StoredType::kF16;
template <>
constexpr StoredType kSame<Bfloat16> = StoredType::kBF16;

}  // namespace

Format natural_format(StoredType type) {
  switch (type) {
    case StoredType::kF32:
      return Format::kFloat32;
    case StoredType::kF16:
      return Format::kFloat16;
    case StoredType::kBF16:
      return Format::kBfloat16;
    case StoredType::kQ4_0:
    case StoredType::kQ4_1:
    case StoredType::kQ4_K:
      return Format::kQ4;
    default:
      return Format::kQ8;
  }
}

ReadGroups group_reader(StoredType type, Format format) {
  const ReadGroups mover = mover_of(type);
  if (mover != nullptr && format == natural_format(type)) return mover;
  return format == Format::kQ4 ? quantize_groups<quantize_q4> : quantize_groups<quantize_q8>;
}

bool groups_have_min(StoredType type, Format format) {
  if (format != natural_format(type)) return false;
  return type == StoredType::kQ4_1 || type == StoredType::kQ4_K || type == StoredType::kQ5_1 ||
         type == StoredType::kQ5_K;
}

template <class Element>
void read_elements(const StoredMatrix& stored, std::size_t row, std::size_t begin,
                   std::size_t count, Element* elements) {
  if (stored.type == kSame<Element>) {
    std::memcpy(elements, stored.row(row) + begin * sizeof(Element), count * sizeof(Element));
  } else if constexpr (sizeof(Element) == sizeof(float)) {
    decode_elements(stored, row, begin, count, elements);
  } else {
    alignas(16) float values[kPieceElements];
    decode_elements(stored, row, begin, count, values);
    for (std::size_t i = 0; i < count; ++i) elements[i].bits = bits_of(values[i], Element{});
  }
}

template void read_elements(const StoredMatrix&, std::size_t, std::size_t, std::size_t, float*);
template void read_elements(const StoredMatrix&, std::size_t, std::size_t, std::size_t, Half*);
template void read_elements(const StoredMatrix&, std::size_t, std::size_t, std::size_t, Bfloat16*);

void check_shape(std::size_t num_rows, std::size_t row_size) {
  constexpr std::size_t kMostElements = std::size_t{1}
                                        << 44;  // paddings and widths cannot overflow
  const bool is_sane = num_rows > 0 && row_size > 0 && num_rows <= kMostElements / row_size &&
                       num_rows <= kMostElements / 256 && row_size <= kMostElements / 256;
  if (!is_sane) {
    throw std::invalid_argument("weight: expected a matrix that is neither empty nor absurd, got " +
                                std::to_string(num_rows) + " x " + std::to_string(row_size));
  }
}

void check_not_tiled(Format format) {
  if (format == Format::kQ6) {
    throw std::invalid_argument("format: expected another than q6 for rows or columns, got q6");
  }
}

void check_stored(const StoredMatrix& stored) {
  check_shape(stored.data == nullptr ? 0 : stored.num_rows, stored.row_size);
  if (stored.row_size % block_elements(stored.type) != 0) {
    throw std::invalid_argument("weight: expected rows of whole blocks of " +
                                std::to_string(block_elements(stored.type)) + " elements, got " +
                                std::to_string(stored.row_size) + " elements");
  }
}

}  // namespace nestling
