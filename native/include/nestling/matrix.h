// Weights in memory: the three arrangements that the kernels read, in one set of formats.
//
// Matrix is for products with every output; RowMatrix and ColumnMatrix are for the sparse
// feed-forward layers, of which only active neurons are read and computed. Packing copies and
// rearranges what a model file holds; values change only where a format says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "nestling/plane.h"
#include "nestling/stored.h"
#include "nestling/thread_pool.h"

namespace nestling {

// kQ4: a group of 32 inputs has an f16 scale; w = scale * (q - 8), or scale * q + min with a
// minimum, q in 0..15. kQ8: w = scale * q, or scale * q + min, q a signed byte. kQ6, which only
// Matrix has and Q3_K and Q6_K become: w = scale * factor * (q - 32), q in 0..63, with a signed
// byte as the factor of 16 inputs and an f16 scale of 256.
enum class Format { kFloat32, kFloat16, kBfloat16, kQ4, kQ6, kQ8 };

inline constexpr std::size_t kTile = 16;   // outputs that lie side by side, one a lane
inline constexpr std::size_t kGroup = 32;  // inputs that share a scale
inline constexpr std::size_t kRowBlock = kTile * kGroup;  // of a RowMatrix: a group a lane

// Of kQ6: inputs that share an f16 scale, and what they take of the plane of values.
inline constexpr std::size_t kSixBitBlock = 256;
inline constexpr std::size_t kSixBitFactorBytes = kSixBitBlock / 16 * kTile;
inline constexpr std::size_t kSixBitBlockBytes = kSixBitFactorBytes + kSixBitBlock / 16 * 3 * 64;

constexpr bool is_quantized(Format format) {
  return format == Format::kQ4 || format == Format::kQ6 || format == Format::kQ8;
}

// The format that holds a stored type with no change of value (but for scales of K-quants, which
// are products of two numbers and are rounded to f16), or kQ8 for types with groups of 16, which
// are quantised anew. Matrix::natural_format is another one for Q3_K and Q6_K.
Format natural_format(StoredType type);

// Raised whenever packing puts other bytes into memory than before, or other matrices: packed files
// hold those.
inline constexpr int kLayoutVersion = 6;

// Where the planes of packed weights begin in a mapped file.
struct PlaneOffsets {
  std::size_t values = 0;
  std::optional<std::size_t> scales;  // of the quantised formats
  std::optional<std::size_t> mins;    // of those, if they have minima
};

// What the three arrangements have in common: planes of values, scales and minima.
class PackedWeights {
 public:
  Format format() const { return format_; }
  bool has_min() const { return mins_.num_bytes() > 0; }
  std::size_t num_bytes() const {
    return values_.num_bytes() + scales_.num_bytes() + mins_.num_bytes();
  }

  static Format natural_format(StoredType type) { return nestling::natural_format(type); }

  const Plane& values_plane() const { return values_; }
  const Plane& scales_plane() const { return scales_; }  // empty in float formats
  const Plane& mins_plane() const { return mins_; }      // empty without minima

  template <class T>
  const T* values() const {
    return values_.as<T>();
  }
  const std::uint16_t* scales() const { return scales_.as<std::uint16_t>(); }
  const std::uint16_t* mins() const { return mins_.as<std::uint16_t>(); }

 protected:
  struct PlaneBytes {
    std::size_t values = 0;
    std::size_t scales = 0;  // and as many of minima, if there are any
  };

  explicit PackedWeights(Format format) : format_(format) {}
  void keep(Buffer values, Buffer scales, Buffer mins);
  void map(const std::shared_ptr<const MappedFile>& file, const PlaneOffsets& offsets,
           const PlaneBytes& bytes);

 private:
  Format format_;
  Plane values_;
  Plane scales_;
  Plane mins_;
};

// Each arrangement has
//   pack: rearranges what a model file holds. Throws std::invalid_argument on an empty or absurd
//     shape, or if the type does not become the format; std::bad_alloc.
//   map: what was packed before, as it lies in a file. Throws std::invalid_argument if planes of
//     this shape and format do not lie in the file, or an offset is missing or too many.

// W [out_features, in_features], in tiles of 16 outputs. Missing outputs and inputs are zero.
//   float formats: values [tile][in][16]
//   kQ4: values [tile][group][4][64]; byte 4 * i + c of line j holds output i: low nibble input
//        8 * j + c, high nibble input 8 * j + 4 + c of the group
//   kQ8: values [tile][group][8][64]; byte 4 * i + c of line j is output i, input 4 * j + c
//   scales, mins: f16 [tile][group][16]
//   kQ6: values [tile][block of 256]: factors int8 [16][16], of 16 inputs an output each; then for
//        each 16 inputs two lines of nibbles as those of kQ4 and one of the codes' upper bits, bits
//        2 * s of byte 4 * i + c: output i, input 4 * s + c; scales f16 [tile][block][16]
class Matrix : public PackedWeights {
 public:
  static Format natural_format(StoredType type);  // kQ6 for Q3_K, Q6_K
  static Matrix pack(const StoredMatrix& stored, Format format, ThreadPool& pool);
  static Matrix map(const std::shared_ptr<const MappedFile>& file, Format format,
                    std::size_t out_features, std::size_t in_features, const PlaneOffsets& offsets);

  std::size_t out_features() const { return out_features_; }
  std::size_t in_features() const { return in_features_; }
  std::size_t num_tiles() const { return (out_features_ + kTile - 1) / kTile; }
  std::size_t num_groups() const { return (in_features_ + kGroup - 1) / kGroup; }
  // The values of that tile; null if there is none.
  const std::uint8_t* tile(std::size_t index) const {
    if (index >= num_tiles()) return nullptr;
    return values<std::uint8_t>() + index * (values_plane().num_bytes() / num_tiles());
  }

 private:
  Matrix(Format format, std::size_t out_features, std::size_t in_features);
  PlaneBytes plane_bytes() const;

  std::size_t out_features_;
  std::size_t in_features_;
};

// W [num_rows, in_features], a row after another: up_proj of a sparse layer, a neuron a row.
//   float formats: values [row][padded_in], padded_in a multiple of 16
//   kQ8: values [row][padded_in / 512][8][16][4]: a lane for each group of 32, inputs in fours
//   kQ4: values [row][padded_in / 512][4][16][4]: of two such fours the first in the low nibbles
//   scales, mins: f16 [row][padded_in / 32]; padded_in is a multiple of 512 when quantised
class RowMatrix : public PackedWeights {
 public:
  static RowMatrix pack(const StoredMatrix& stored, Format format, ThreadPool& pool);
  static RowMatrix map(const std::shared_ptr<const MappedFile>& file, Format format,
                       std::size_t num_rows, std::size_t in_features, const PlaneOffsets& offsets);

  std::size_t num_rows() const { return num_rows_; }
  std::size_t in_features() const { return in_features_; }
  std::size_t padded_in() const { return padded_in_; }

 private:
  RowMatrix(Format format, std::size_t num_rows, std::size_t in_features);
  PlaneBytes plane_bytes() const;

  std::size_t num_rows_;
  std::size_t in_features_;
  std::size_t padded_in_;
};

// W [out_features, num_columns], a column after another: down_proj of a sparse layer, a neuron a
// column. padded_out is a multiple of 32.
//   float formats: values [column][padded_out]
//   kQ4: values [column][padded_out / 32][16]; byte b: low nibble output b, high nibble 16 + b
//   kQ8: values [column][padded_out]
//   scales, mins: f16 [ceil(num_columns / 32)][padded_out], as groups run along the columns
class ColumnMatrix : public PackedWeights {
 public:
  static ColumnMatrix pack(const StoredMatrix& stored, Format format, ThreadPool& pool);
  static ColumnMatrix map(const std::shared_ptr<const MappedFile>& file, Format format,
                          std::size_t out_features, std::size_t num_columns,
                          const PlaneOffsets& offsets);

  std::size_t out_features() const { return out_features_; }
  std::size_t num_columns() const { return num_columns_; }
  std::size_t padded_out() const { return padded_out_; }

 private:
  ColumnMatrix(Format format, std::size_t out_features, std::size_t num_columns);
  PlaneBytes plane_bytes() const;

  std::size_t out_features_;
  std::size_t num_columns_;
  std::size_t padded_out_;
};

// out [out_features, in_features] = the values that the packed weights stand for. Slow: for tests
// and for looking at weights.
void unpack(const Matrix& packed, float* out);
void unpack(const RowMatrix& packed, float* out);
void unpack(const ColumnMatrix& packed, float* out);

}  // namespace nestling
