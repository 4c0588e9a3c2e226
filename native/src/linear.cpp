#include "nestling/linear.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>

#include "kernel_table.h"

namespace nestling {

namespace {

constexpr std::align_val_t kAlignment{64};

float packed_as(float value, float*) { return value; }

// Rounds to nearest, ties to even; a NaN stays a NaN.
std::uint16_t packed_as(float value, std::uint16_t*) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

template <class Weight>
void pack(const float* weight, std::size_t out_features, std::size_t in_features, Weight* packed) {
  constexpr std::size_t kBlock = PackedLinear::kBlock;
  for (std::size_t begin = 0; begin < out_features; begin += kBlock) {
    Weight* block = packed + begin * in_features;
    const std::size_t num_outputs = std::min(kBlock, out_features - begin);
    for (std::size_t k = 0; k < in_features; ++k) {
      for (std::size_t i = 0; i < num_outputs; ++i) {
        block[k * kBlock + i] = packed_as(weight[(begin + i) * in_features + k], block);
      }
      std::fill(block + k * kBlock + num_outputs, block + (k + 1) * kBlock, Weight{0});
    }
  }
}

std::size_t packed_bytes(std::size_t out_features, std::size_t in_features, WeightType type) {
  const std::size_t width = type == WeightType::kFloat32 ? sizeof(float) : sizeof(std::uint16_t);
  const std::size_t most = std::numeric_limits<std::ptrdiff_t>::max();
  if (out_features == 0 || in_features == 0 || out_features > most - PackedLinear::kBlock ||
      in_features > most / width / (out_features + PackedLinear::kBlock)) {
    throw std::invalid_argument("weight: expected a matrix that is neither empty nor absurd, got " +
                                std::to_string(out_features) + " x " + std::to_string(in_features));
  }
  const std::size_t num_blocks = (out_features + PackedLinear::kBlock - 1) / PackedLinear::kBlock;
  return num_blocks * PackedLinear::kBlock * in_features * width;
}

template <class Weight>
void run(const float* x, std::size_t num_rows, const PackedLinear& weight, float* out,
         ThreadPool& pool, void (*kernel)(const LinearTask<Weight>&)) {
  const std::size_t products = num_rows * weight.in_features() * PackedLinear::kBlock;
  const std::size_t grain = kGrainProducts / products + 1;
  pool.parallel_for(weight.num_blocks(), grain, [&](std::size_t begin, std::size_t end) {
    kernel({.x = x,
            .weights = reinterpret_cast<const Weight*>(weight.data()),
            .out = out,
            .num_rows = num_rows,
            .in_features = weight.in_features(),
            .out_features = weight.out_features(),
            .block_begin = begin,
            .block_end = end});
  });
}

}  // namespace

void PackedLinear::Free::operator()(std::byte* data) const {
  ::operator delete[](data, kAlignment);
}

PackedLinear::PackedLinear(const float* weight, std::size_t out_features, std::size_t in_features,
                           WeightType type)
    : out_features_(out_features),
      in_features_(in_features),
      type_(type),
      num_bytes_(packed_bytes(out_features, in_features, type)),
      data_(static_cast<std::byte*>(::operator new[](num_bytes_, kAlignment))) {
  if (type == WeightType::kFloat32) {
    pack(weight, out_features, in_features, reinterpret_cast<float*>(data_.get()));
  } else {
    pack(weight, out_features, in_features, reinterpret_cast<std::uint16_t*>(data_.get()));
  }
}

void linear(const float* x, std::size_t num_rows, const PackedLinear& weight, float* out,
            ThreadPool& pool, Variant variant) {
  const KernelTable& table = kernels(variant);
  if (num_rows == 0) return;
  if (weight.type() == WeightType::kFloat32) {
    run(x, num_rows, weight, out, pool, table.linear_float32);
  } else {
    run(x, num_rows, weight, out, pool, table.linear_bfloat16);
  }
}

}  // namespace nestling
