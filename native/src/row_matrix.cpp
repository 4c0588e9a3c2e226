#include <algorithm>
#include <cstring>

#include "nestling/matrix.h"
#include "pack_source.h"

namespace nestling {

namespace {

constexpr std::size_t kGrainElements = std::size_t{1} << 18;
constexpr std::size_t kQuantizedMultiple = 128;  // inputs that share a line of nibbles
constexpr std::size_t kFloatMultiple = 16;

// Inputs 0..63 of a line of 128 in the low nibbles, 64..127 in the high ones.
void store_q4(const Group* groups, std::size_t num_lines, std::uint8_t* values) {
  for (std::size_t line = 0; line < num_lines; ++line, groups += 4, values += 64) {
    std::uint64_t bytes[8];
    for (std::size_t k = 0; k < 4; ++k) {
      bytes[k] = groups[0].codes[k] | groups[2].codes[k] << 4;
      bytes[4 + k] = groups[1].codes[k] | groups[3].codes[k] << 4;
    }
    std::memcpy(values, bytes, sizeof(bytes));
  }
}

void store_q8(const Group* groups, std::size_t count, std::uint8_t* values) {
  for (std::size_t g = 0; g < count; ++g) {
    std::memcpy(values + g * kGroup, groups[g].codes, kGroup);
  }
}

struct RowPlanes {
  std::uint8_t* values;
  std::uint16_t* scales;
  std::uint16_t* mins;  // null without
};

void pack_row(const StoredMatrix& stored, ReadGroups read, Format format, std::size_t row,
              const RowPlanes& to) {
  const std::size_t num_groups = round_up(stored.row_size, kGroup) / kGroup;
  for (std::size_t begin = 0; begin < num_groups; begin += kPieceGroups) {
    const std::size_t count = std::min(kPieceGroups, num_groups - begin);
    Group groups[kPieceGroups] = {};  // missing inputs stay zero
    read(stored, row, begin, count, groups);
    if (format == Format::kQ4) {
      store_q4(groups, (count + 3) / 4, to.values + begin * kGroup / 2);
    } else {
      store_q8(groups, count, to.values + begin * kGroup);
    }
    for (std::size_t g = 0; g < count; ++g) to.scales[begin + g] = groups[g].scale;
    if (to.mins == nullptr) continue;
    for (std::size_t g = 0; g < count; ++g) to.mins[begin + g] = groups[g].min;
  }
}

template <class Element>
void pack_row(const StoredMatrix& stored, std::size_t row, Element* values) {
  for (std::size_t begin = 0; begin < stored.row_size; begin += kPieceElements) {
    const std::size_t count = std::min(kPieceElements, stored.row_size - begin);
    read_elements(stored, row, begin, count, values + begin);
  }
}

}  // namespace

RowMatrix RowMatrix::pack(const StoredMatrix& stored, Format format, ThreadPool& pool) {
  check_stored(stored);
  RowMatrix packed;
  packed.format_ = format;
  packed.num_rows_ = stored.num_rows;
  packed.in_features_ = stored.row_size;
  packed.padded_in_ =
      round_up(stored.row_size, is_quantized(format) ? kQuantizedMultiple : kFloatMultiple);
  const std::size_t padded = packed.padded_in_;
  const auto each_row = [&](const auto& body) {
    pool.parallel_for(stored.num_rows, kGrainElements / padded + 1,
                      [&](std::size_t begin, std::size_t end) {
                        for (std::size_t row = begin; row < end; ++row) body(row);
                      });
  };
  if (is_quantized(format)) {
    const std::size_t row_bytes = format == Format::kQ4 ? padded / 2 : padded;
    const std::size_t row_groups = padded / kGroup;
    packed.values_ = Buffer(stored.num_rows * row_bytes);
    packed.scales_ = Buffer(stored.num_rows * row_groups * 2);
    const bool has_min = groups_have_min(stored.type, format);
    if (has_min) packed.mins_ = Buffer(stored.num_rows * row_groups * 2);
    auto* const values = packed.values_.as<std::uint8_t>();
    auto* const scales = packed.scales_.as<std::uint16_t>();
    auto* const mins = has_min ? packed.mins_->as<std::uint16_t>() : nullptr;
    const ReadGroups read = group_reader(stored.type, format);
    each_row([&](std::size_t row) {
      pack_row(stored, read, format, row,
               {values + row * row_bytes, scales + row * row_groups,
                has_min ? mins + row * row_groups : nullptr});
    });
    return packed;
  }
  packed.values_ = Buffer(stored.num_rows * padded * element_bytes(format));
  each_row([&](std::size_t row) {
    if (format == Format::kFloat32) {
      pack_row(stored, row, packed.values_.as<float>() + row * padded);
    } else if (format == Format::kFloat16) {
      pack_row(stored, row, packed.values_.as<Half>() + row * padded);
    } else {
      pack_row(stored, row, packed.values_.as<Bfloat16>() + row * padded);
    }
  });
  return packed;
}

std::size_t RowMatrix::num_bytes() const {
  return values_.num_bytes() + scales_.num_bytes() + (mins_ ? mins_->num_bytes() : 0);
}

}  // namespace nestling
