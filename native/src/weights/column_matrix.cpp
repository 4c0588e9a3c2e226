#include <algorithm>
#include <cstring>

#include "nestling/matrix.h"
#include "weights/pack_source.h"
#include "weights/transpose.h"

namespace nestling {

namespace {

constexpr std::size_t kOutMultiple = 32;

// Outputs that are packed together: of a column they make one cache line of nibbles.
constexpr std::size_t kPanelOutputs = 128;

struct ColumnPlanes {
  std::uint8_t* values;
  std::uint16_t* scales;
  std::uint16_t* mins;  // null without
  std::size_t num_columns;
  std::size_t padded_out;
};

// Bytes of the panel's outputs, one after another in each of 32 columns.
using Panel = std::uint8_t[kGroup][kPanelOutputs];

// Codes of 16 columns, the first or the last of the group.
SixteenBytes codes_of(const Group& group, std::size_t first) {
  return load_bytes(group.codes + first / 8);
}

void store_turned(SixteenBytes (&rows)[16], Panel& panel, std::size_t column, std::size_t at) {
  transpose_bytes(rows);
  for (std::size_t i = 0; i < 16; ++i) std::memcpy(&panel[column + i][at], &rows[i], 16);
}

void fill_q4(const Group (&groups)[kPanelOutputs][kPieceGroups], std::size_t g, Panel& panel) {
  for (std::size_t out = 0; out < kPanelOutputs; out += 32) {
    for (std::size_t column = 0; column < kGroup; column += 16) {
      SixteenBytes rows[16];
      for (std::size_t b = 0; b < 16; ++b) {
        rows[b] = codes_of(groups[out + b][g], column) | codes_of(groups[out + 16 + b][g], column)
                                                             << 4;
      }
      store_turned(rows, panel, column, out / 2);
    }
  }
}

void fill_q8(const Group (&groups)[kPanelOutputs][kPieceGroups], std::size_t g, Panel& panel) {
  for (std::size_t out = 0; out < kPanelOutputs; out += 16) {
    for (std::size_t column = 0; column < kGroup; column += 16) {
      SixteenBytes rows[16];
      for (std::size_t b = 0; b < 16; ++b) rows[b] = codes_of(groups[out + b][g], column);
      store_turned(rows, panel, column, out);
    }
  }
}

// The kPanelOutputs rows from `row` on, as far as there are, of kPieceGroups groups from
// `begin` on.
void pack_panel(const StoredMatrix& stored, ReadGroups read, Format format, std::size_t row,
                std::size_t begin, const ColumnPlanes& to) {
  Group groups[kPanelOutputs][kPieceGroups] = {};  // missing outputs stay zero
  const std::size_t num_groups = round_up(to.num_columns, kGroup) / kGroup;
  const std::size_t count = std::min(kPieceGroups, num_groups - begin);
  const std::size_t num_rows = std::min(kPanelOutputs, stored.num_rows - row);
  const std::size_t num_padded = std::min(kPanelOutputs, to.padded_out - row);
  for (std::size_t i = 0; i < num_rows; ++i) read(stored, row + i, begin, count, groups[i]);
  const std::size_t divisor = format == Format::kQ4 ? 2 : 1;
  for (std::size_t g = 0; g < count; ++g) {
    Panel panel;
    format == Format::kQ4 ? fill_q4(groups, g, panel) : fill_q8(groups, g, panel);
    const std::size_t first = (begin + g) * kGroup;
    const std::size_t num_columns = std::min(kGroup, to.num_columns - first);
    for (std::size_t column = 0; column < num_columns; ++column) {
      std::memcpy(to.values + ((first + column) * to.padded_out + row) / divisor, panel[column],
                  num_padded / divisor);
    }
    const std::size_t at = (begin + g) * to.padded_out + row;
    for (std::size_t i = 0; i < num_rows; ++i) to.scales[at + i] = groups[i][g].scale;
    if (to.mins == nullptr) continue;
    for (std::size_t i = 0; i < num_rows; ++i) to.mins[at + i] = groups[i][g].min;
  }
}

// The same rows of columns [begin, begin + kPieceElements) in a float format.
template <class Element>
void pack_panel(const StoredMatrix& stored, std::size_t row, std::size_t begin,
                std::size_t padded_out, Element* values) {
  constexpr std::size_t kRows = 32;
  for (std::size_t first = row; first < std::min(row + kPanelOutputs, stored.num_rows);
       first += kRows) {
    Element elements[kRows][kPieceElements];
    const std::size_t num_rows = std::min(kRows, stored.num_rows - first);
    const std::size_t count = std::min(kPieceElements, stored.row_size - begin);
    for (std::size_t i = 0; i < num_rows; ++i) {
      read_elements(stored, first + i, begin, count, elements[i]);
    }
    for (std::size_t column = 0; column < count; ++column) {
      Element* out = values + (begin + column) * padded_out + first;
      for (std::size_t i = 0; i < num_rows; ++i) out[i] = elements[i][column];
    }
  }
}

}  // namespace

ColumnMatrix::ColumnMatrix(Format format, std::size_t out_features, std::size_t num_columns)
    : PackedWeights(format), out_features_(out_features), num_columns_(num_columns) {
  check_not_tiled(format);
  check_shape(out_features, num_columns);
  padded_out_ = round_up(out_features, kOutMultiple);
}

ColumnMatrix::PlaneBytes ColumnMatrix::plane_bytes() const {
  const std::size_t num_elements = num_columns_ * padded_out_;
  if (!is_quantized(format())) return {num_elements * element_bytes(format()), 0};
  const std::size_t num_groups = round_up(num_columns_, kGroup) / kGroup;
  return {format() == Format::kQ4 ? num_elements / 2 : num_elements, num_groups * padded_out_ * 2};
}

ColumnMatrix ColumnMatrix::map(const std::shared_ptr<const MappedFile>& file, Format format,
                               std::size_t out_features, std::size_t num_columns,
                               const PlaneOffsets& offsets) {
  ColumnMatrix packed(format, out_features, num_columns);
  packed.PackedWeights::map(file, offsets, packed.plane_bytes());
  return packed;
}

ColumnMatrix ColumnMatrix::pack(const StoredMatrix& stored, Format format, ThreadPool& pool) {
  check_stored(stored);
  ColumnMatrix packed(format, stored.num_rows, stored.row_size);
  const PlaneBytes bytes = packed.plane_bytes();
  Buffer values(bytes.values);
  Buffer scales(bytes.scales);
  Buffer mins(groups_have_min(stored.type, format) ? bytes.scales : 0);
  const std::size_t padded = packed.padded_out_;
  // Threads share pieces of columns, so that each writes lines and pages of its own.
  const std::size_t num_pieces = round_up(stored.row_size, kPieceElements) / kPieceElements;
  const auto each_panel = [&](const auto& body) {
    pool.parallel_for(num_pieces, kGrainElements / (padded * kPieceElements) + 1,
                      [&](std::size_t first, std::size_t last) {
                        for (std::size_t piece = first; piece < last; ++piece) {
                          for (std::size_t row = 0; row < stored.num_rows; row += kPanelOutputs) {
                            body(row, piece);
                          }
                        }
                      });
  };
  if (is_quantized(format)) {
    const ReadGroups read = group_reader(stored.type, format);
    const ColumnPlanes to{values.as<std::uint8_t>(), scales.as<std::uint16_t>(),
                          mins.as<std::uint16_t>(), stored.row_size, padded};
    each_panel([&](std::size_t row, std::size_t piece) {
      pack_panel(stored, read, format, row, piece * kPieceGroups, to);
    });
  } else {
    each_panel([&](std::size_t row, std::size_t piece) {
      const std::size_t begin = piece * kPieceElements;
      if (format == Format::kFloat32) {
        pack_panel(stored, row, begin, padded, values.as<float>());
      } else if (format == Format::kFloat16) {
        pack_panel(stored, row, begin, padded, values.as<Half>());
      } else {
        pack_panel(stored, row, begin, padded, values.as<Bfloat16>());
      }
    });
  }
  packed.keep(std::move(values), std::move(scales), std::move(mins));
  return packed;
}

}  // namespace nestling
