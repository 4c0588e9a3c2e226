// Float32 rows as blocks of a stored type, bit for bit as GGML quantises them.
#pragma once

#include <cstddef>

#include "nestling/stored.h"

namespace nestling {

// out [count / block_elements(type) * block_bytes(type)] = the values [count], whole blocks, as
// kF32, kF16, kQ8_0 or kQ4_0. Throws std::invalid_argument for another type.
void encode_row(StoredType type, const float* values, std::size_t count, std::byte* out);

}  // namespace nestling
