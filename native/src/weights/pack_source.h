// What packing reads: rows of a stored matrix as groups of codes, or as elements of a float format.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nestling/matrix.h"

namespace nestling {

// A group of 32 inputs of one output, a code a byte in the order of the inputs: nibbles for kQ4,
// signed bytes for kQ8.
struct Group {
  std::uint64_t codes[4];
  std::uint16_t scale;
  std::uint16_t min;
};

// Packing goes in pieces of this many groups: those of the largest stored block, and what 16 rows
// of them take stays in the first-level cache.
inline constexpr std::size_t kPieceGroups = 8;
inline constexpr std::size_t kPieceElements = kPieceGroups * kGroup;

// A share of a thread is at least this many elements, so that small matrices stay on one.
inline constexpr std::size_t kGrainElements = std::size_t{1} << 18;

// Groups [begin, begin + count) of the row; begin is a multiple of kPieceGroups and count at most
// that. Inputs beyond the row's end count as 0.
using ReadGroups = void (*)(const StoredMatrix& stored, std::size_t row, std::size_t begin,
                            std::size_t count, Group* groups);

// How `type` becomes `format`, which is quantised: its codes moved if that is its natural format,
// else its values quantised anew.
ReadGroups group_reader(StoredType type, Format format);

// Whether those groups have minima.
bool groups_have_min(StoredType type, Format format);

// Elements [begin, begin + count) of the row in the format of Element: float, Half or Bfloat16;
// begin is a multiple of kPieceElements and count at most that.
struct Half {
  std::uint16_t bits;
};
struct Bfloat16 {
  std::uint16_t bits;
};
template <class Element>
void read_elements(const StoredMatrix& stored, std::size_t row, std::size_t begin,
                   std::size_t count, Element* elements);

// Throw std::invalid_argument if the matrix is empty or absurd, or rows are not whole blocks.
void check_shape(std::size_t num_rows, std::size_t row_size);
void check_stored(const StoredMatrix& stored);

// Throws std::invalid_argument if only Matrix has the format.
void check_not_tiled(Format format);

constexpr std::size_t round_up(std::size_t count, std::size_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

// Bytes of one element of a float format.
constexpr std::size_t element_bytes(Format format) { return format == Format::kFloat32 ? 4 : 2; }

}  // namespace nestling
