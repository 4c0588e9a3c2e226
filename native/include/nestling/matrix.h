// Weights in memory: the three arrangements that the kernels read, in one set of formats.
//
// Matrix is for products with every output; RowMatrix and ColumnMatrix are for the sparse
// feed-forward layers, whose dead neurons are neither read nor computed. Packing copies and
// rearranges what a model file holds; values change only where a format says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "nestling/buffer.h"
#include "nestling/stored.h"
#include "nestling/thread_pool.h"

namespace nestling {

// kQ4: a group of 32 inputs has an f16 scale; w = scale * (q - 8), or scale * q + min with a
// minimum, q in 0..15. kQ8: w = scale * q, or scale * q + min, q a signed byte.
enum class Format { kFloat32, kFloat16, kBfloat16, kQ4, kQ8 };

inline constexpr std::size_t kTile = 16;   // outputs that lie side by side, one a lane
inline constexpr std::size_t kGroup = 32;  // inputs that share a scale

constexpr bool is_quantized(Format format) {
  return format == Format::kQ4 || format == Format::kQ8;
}

// The format that holds a stored type with no change of value (but for scales of K-quants, which
// are products of two numbers and are rounded to f16), or kQ8 for types with groups of 16, which
// are quantised anew.
Format natural_format(StoredType type);

// W [out_features, in_features], in tiles of 16 outputs. Missing outputs and inputs are zero.
//   float formats: values [tile][in][16]
//   kQ4: values [tile][group][4][64]; byte 4 * i + c of line j holds output i: low nibble input
//        8 * j + c, high nibble input 8 * j + 4 + c of the group
//   kQ8: values [tile][group][8][64]; byte 4 * i + c of line j is output i, input 4 * j + c
//   scales, mins: f16 [tile][group][16]
class Matrix {
 public:
  // Throws std::invalid_argument on an empty or absurd shape, std::bad_alloc.
  static Matrix pack(const StoredMatrix& stored, Format format, ThreadPool& pool);

  Format format() const { return format_; }
  bool has_min() const { return mins_.has_value(); }
  std::size_t out_features() const { return out_features_; }
  std::size_t in_features() const { return in_features_; }
  std::size_t num_tiles() const { return (out_features_ + kTile - 1) / kTile; }
  std::size_t num_groups() const { return (in_features_ + kGroup - 1) / kGroup; }
  std::size_t num_bytes() const;

  template <class T>
  const T* values() const {
    return values_.as<T>();
  }
  const std::uint16_t* scales() const { return scales_.as<std::uint16_t>(); }
  const std::uint16_t* mins() const { return mins_ ? mins_->as<std::uint16_t>() : nullptr; }

 private:
  Format format_ = Format::kFloat32;
  std::size_t out_features_ = 0;
  std::size_t in_features_ = 0;
  Buffer values_;
  Buffer scales_;
  std::optional<Buffer> mins_;
};

// W [num_rows, in_features], a row after another: up_proj of a sparse layer, a neuron a row.
//   float formats: values [row][padded_in], padded_in a multiple of 16
//   kQ4: values [row][padded_in / 128][64]; byte b: low nibble input b, high nibble input 64 + b
//   kQ8: values [row][padded_in]
//   scales, mins: f16 [row][padded_in / 32]; padded_in is a multiple of 128 when quantised
class RowMatrix {
 public:
  static RowMatrix pack(const StoredMatrix& stored, Format format, ThreadPool& pool);

  Format format() const { return format_; }
  bool has_min() const { return mins_.has_value(); }
  std::size_t num_rows() const { return num_rows_; }
  std::size_t in_features() const { return in_features_; }
  std::size_t padded_in() const { return padded_in_; }
  std::size_t num_bytes() const;

  template <class T>
  const T* values() const {
    return values_.as<T>();
  }
  const std::uint16_t* scales() const { return scales_.as<std::uint16_t>(); }
  const std::uint16_t* mins() const { return mins_ ? mins_->as<std::uint16_t>() : nullptr; }

 private:
  Format format_ = Format::kFloat32;
  std::size_t num_rows_ = 0;
  std::size_t in_features_ = 0;
  std::size_t padded_in_ = 0;
  Buffer values_;
  Buffer scales_;
  std::optional<Buffer> mins_;
};

// W [out_features, num_columns], a column after another: down_proj of a sparse layer, a neuron a
// column. padded_out is a multiple of 32.
//   float formats: values [column][padded_out]
//   kQ4: values [column][padded_out / 32][16]; byte b: low nibble output b, high nibble 16 + b
//   kQ8: values [column][padded_out]
//   scales, mins: f16 [ceil(num_columns / 32)][padded_out], as groups run along the columns
class ColumnMatrix {
 public:
  static ColumnMatrix pack(const StoredMatrix& stored, Format format, ThreadPool& pool);

  Format format() const { return format_; }
  bool has_min() const { return mins_.has_value(); }
  std::size_t out_features() const { return out_features_; }
  std::size_t num_columns() const { return num_columns_; }
  std::size_t padded_out() const { return padded_out_; }
  std::size_t num_bytes() const;

  template <class T>
  const T* values() const {
    return values_.as<T>();
  }
  const std::uint16_t* scales() const { return scales_.as<std::uint16_t>(); }
  const std::uint16_t* mins() const { return mins_ ? mins_->as<std::uint16_t>() : nullptr; }

 private:
  Format format_ = Format::kFloat32;
  std::size_t out_features_ = 0;
  std::size_t num_columns_ = 0;
  std::size_t padded_out_ = 0;
  Buffer values_;
  Buffer scales_;
  std::optional<Buffer> mins_;
};

// out [out_features, in_features] = the values that the packed weights stand for. Slow: for tests
// and for looking at weights.
void unpack(const Matrix& packed, float* out);
void unpack(const RowMatrix& packed, float* out);
void unpack(const ColumnMatrix& packed, float* out);

}  // namespace nestling
