// y = x W^T over packed weights.
//
// Each output element is accumulated over in_features strictly in ascending order by the same
// instructions, whatever the number of rows, the thread or the place in a register block. So a
// row's result has the same bits in every batch (of one variant on one kind of machine).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "nestling/thread_pool.h"
#include "nestling/variant.h"

namespace nestling {

enum class WeightType { kFloat32, kBfloat16 };

// A matrix [out_features, in_features] stored as [ceil(out / 16)][in][16]; missing outputs are
// zero.
class PackedLinear {
 public:
  static constexpr std::size_t kBlock = 16;

  // Copies weight, row-major [out_features, in_features], neither 0; bfloat16 rounds to nearest
  // even. Throws std::invalid_argument on a zero or absurd size, std::bad_alloc.
  PackedLinear(const float* weight, std::size_t out_features, std::size_t in_features,
               WeightType type);

  std::size_t out_features() const { return out_features_; }
  std::size_t in_features() const { return in_features_; }
  std::size_t num_blocks() const { return (out_features_ + kBlock - 1) / kBlock; }
  std::size_t num_bytes() const { return num_bytes_; }
  WeightType type() const { return type_; }
  const std::byte* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };

  std::size_t out_features_;
  std::size_t in_features_;
  WeightType type_;
  std::size_t num_bytes_;
  std::unique_ptr<std::byte, Free> data_;
};

// out [num_rows, out_features] = x [num_rows, in_features] W^T; both row-major.
void linear(const float* x, std::size_t num_rows, const PackedLinear& weight, float* out,
            ThreadPool& pool, Variant variant = best_variant());

}  // namespace nestling
