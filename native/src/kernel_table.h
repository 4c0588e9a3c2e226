// What one variant of the kernels offers; each is built from the same loops over its own lanes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nestling/attention.h"
#include "nestling/variant.h"

namespace nestling {

// The least multiplications that a thread is woken for: doing them takes as long as waking it, 10
// us.
constexpr std::size_t kGrainProducts = 500'000;

// Output blocks [block_begin, block_end) of 16 columns for all rows.
template <class Weight>
struct LinearTask {
  const float* x;         // [num_rows, in_features]
  const Weight* weights;  // [num_blocks][in_features][16]
  float* out;             // [num_rows, out_features]
  std::size_t num_rows;
  std::size_t in_features;
  std::size_t out_features;
  std::size_t block_begin;
  std::size_t block_end;
};

// Extremes of the logits' keys (logit_keys.h).
struct KeyExtent {
  std::int32_t lowest;
  std::int32_t lowest_finite;  // leaving out -inf
  std::int32_t highest;
};

struct KernelTable {
  void (*linear_float32)(const LinearTask<float>&);
  void (*linear_bfloat16)(const LinearTask<std::uint16_t>&);
  // Pairs (row, kv head), numbered row * num_kv_heads + kv_head, in [begin, end). `scores` has room
  // for every slot that any of these rows sees, times the query heads of a kv head.
  void (*attention)(const AttentionInput&, float* out, float* scores, std::size_t begin,
                    std::size_t end);

  KeyExtent (*key_extent)(const float* logits, std::size_t count);
  // weights[i] = e^((logits[i] - max_logit) / divisor)
  void (*weights_of)(const float* logits, std::size_t count, float max_logit, float divisor,
                     float* weights);
  // buckets[i] = bucket_of(logits[i], lowest, shift)
  void (*buckets_of)(const float* logits, std::size_t count, std::int32_t lowest, int shift,
                     std::uint16_t* buckets);
  // Zeroes the weights below `least_weight` and those whose logit's key is below `least_key`.
  void (*keep)(const float* logits, std::size_t count, std::int32_t least_key, float least_weight,
               float* weights);
  double (*sum_of)(const float* weights, std::size_t count);
};

extern const KernelTable kPortableKernels;
extern const KernelTable kAvx2Kernels;  // all null unless built for x86-64

const KernelTable& kernels(Variant variant);  // throws std::invalid_argument if not supported

}  // namespace nestling
