// Tensors as they lie in model files, and one row of them as float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace nestling {

// Element types of safetensors and GGUF files, named as GGML names them.
enum class StoredType {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
};

// Throws std::invalid_argument for a name that is none of the above ("Q4_0", "BF16", ...).
StoredType stored_type_of(const std::string& name);

std::size_t block_elements(StoredType type);  // 1, 32 or 256
std::size_t block_bytes(StoredType type);

struct StoredTypeInfo {
  const char* name;
  int ggml_type;  // its code in GGUF files: ggml.h, enum ggml_type
  std::size_t block_elements;
  std::size_t block_bytes;
};

// All of them, in the order of the enumeration.
std::vector<StoredTypeInfo> stored_types();

// A matrix [num_rows, row_size] in whole blocks, row after row; the memory belongs to a mapped
// file. No alignment is assumed.
struct StoredMatrix {
  StoredType type = StoredType::kF32;
  const std::byte* data = nullptr;
  std::size_t num_rows = 0;
  std::size_t row_size = 0;  // a multiple of block_elements(type)

  std::size_t row_bytes() const { return row_size / block_elements(type) * block_bytes(type); }
  const std::byte* row(std::size_t index) const { return data + index * row_bytes(); }
};

// out [row_size] = row `index` in float32, the values that the gguf library gives.
void decode_row(const StoredMatrix& stored, std::size_t index, float* out);

}  // namespace nestling
