// 16 x 16 bytes turned, in vectors of 16 bytes that compilers lower to what the target has.
#pragma once

#include <cstdint>
#include <cstring>

namespace nestling {

using SixteenBytes = std::uint8_t __attribute__((vector_size(16)));

inline SixteenBytes load_bytes(const void* from) {
  SixteenBytes bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  return bytes;
}

// The first, or the last, eight bytes of a and b, one of a after one of b.
inline SixteenBytes interleave_first(SixteenBytes a, SixteenBytes b) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#else
  return __builtin_shuffle(a, b,
                           SixteenBytes{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
#endif
}
inline SixteenBytes interleave_last(SixteenBytes a, SixteenBytes b) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                 31);
#else
  return __builtin_shuffle(
      a, b, SixteenBytes{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
#endif
}

// rows[i][j] becomes rows[j][i]. Each of four rounds turns the index (row, byte) of 8 bits by one
// bit, so that row and byte have changed places after the fourth.
inline void transpose_bytes(SixteenBytes (&rows)[16]) {
  for (int round = 0; round < 4; ++round) {
    SixteenBytes turned[16];
    for (int i = 0; i < 8; ++i) {
      turned[2 * i] = interleave_first(rows[i], rows[8 + i]);
      turned[2 * i + 1] = interleave_last(rows[i], rows[8 + i]);
    }
    std::memcpy(rows, turned, sizeof(turned));
  }
}

}  // namespace nestling
