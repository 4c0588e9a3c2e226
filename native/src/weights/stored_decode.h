// Part of a stored row as float32.
#pragma once

#include "nestling/stored.h"

namespace nestling {

// out [count] = elements [begin, begin + count) of the row; both are multiples of a block's
// elements.
void decode_elements(const StoredMatrix& stored, std::size_t row, std::size_t begin,
                     std::size_t count, float* out);

}  // namespace nestling
