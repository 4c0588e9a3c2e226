#include <algorithm>
#include <cstring>

#include "nestling/matrix.h"
#include "weights/pack_source.h"

namespace nestling {

namespace {

constexpr std::size_t kQuantizedMultiple = kRowBlock;
constexpr std::size_t kFloatMultiple = 16;

// A group's codes, to its place among the 16 groups of a block.
void store_q4(const Group& group, std::size_t place, std::uint8_t* block) {
  for (std::size_t line = 0; line < 4; ++line) {
    const std::uint64_t codes = group.codes[line];
    const auto both = static_cast<std::uint32_t>(codes) | static_cast<std::uint32_t>(codes >> 32)
                                                              << 4;
    std::memcpy(block + line * 64 + place * 4, &both, sizeof(both));
  }
}

void store_q8(const Group& group, std::size_t place, std::uint8_t* block) {
  for (std::size_t line = 0; line < 8; ++line) {
    std::memcpy(block + line * 64 + place * 4,
                reinterpret_cast<const std::byte*>(group.codes) + line * 4, 4);
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
    constexpr std::size_t kGroups = kRowBlock / kGroup;
    for (std::size_t g = 0; g < count; ++g) {
      const std::size_t block = (begin + g) / kGroups;
      const std::size_t place = (begin + g) % kGroups;
      if (format == Format::kQ4) {
        store_q4(groups[g], place, to.values + block * kRowBlock / 2);
      } else {
        store_q8(groups[g], place, to.values + block * kRowBlock);
      }
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

RowMatrix::RowMatrix(Format format, std::size_t num_rows, std::size_t in_features)
    : PackedWeights(format), num_rows_(num_rows), in_features_(in_features) {
  check_not_tiled(format);
  check_shape(num_rows, in_features);
  padded_in_ = round_up(in_features, is_quantized(format) ? kQuantizedMultiple : kFloatMultiple);
}

RowMatrix::PlaneBytes RowMatrix::plane_bytes() const {
  const std::size_t num_elements = num_rows_ * padded_in_;
  if (!is_quantized(format())) return {num_elements * element_bytes(format()), 0};
  return {format() == Format::kQ4 ? num_elements / 2 : num_elements, num_elements / kGroup * 2};
}

RowMatrix RowMatrix::map(const std::shared_ptr<const MappedFile>& file, Format format,
                         std::size_t num_rows, std::size_t in_features,
                         const PlaneOffsets& offsets) {
  RowMatrix packed(format, num_rows, in_features);
  packed.PackedWeights::map(file, offsets, packed.plane_bytes());
  return packed;
}

RowMatrix RowMatrix::pack(const StoredMatrix& stored, Format format, ThreadPool& pool) {
  check_stored(stored);
  RowMatrix packed(format, stored.num_rows, stored.row_size);
  const PlaneBytes bytes = packed.plane_bytes();
  Buffer values(bytes.values);
  Buffer scales(bytes.scales);
  Buffer mins(groups_have_min(stored.type, format) ? bytes.scales : 0);
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
    auto* const to_mins = mins.as<std::uint16_t>();
    const ReadGroups read = group_reader(stored.type, format);
    each_row([&](std::size_t row) {
      pack_row(stored, read, format, row,
               {values.as<std::uint8_t>() + row * row_bytes,
                scales.as<std::uint16_t>() + row * row_groups,
                to_mins != nullptr ? to_mins + row * row_groups : nullptr});
    });
  } else {
    each_row([&](std::size_t row) {
      if (format == Format::kFloat32) {
        pack_row(stored, row, values.as<float>() + row * padded);
      } else if (format == Format::kFloat16) {
        pack_row(stored, row, values.as<Half>() + row * padded);
      } else {
        pack_row(stored, row, values.as<Bfloat16>() + row * padded);
      }
    });
  }
  packed.keep(std::move(values), std::move(scales), std::move(mins));
  return packed;
}

}  // namespace nestling
