// What one variant of the sampler's kernels offers; each is built from the same loops
// (`sampling_loops.h`). Those of the model step are in step_kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nestling/variant.h"

namespace nestling {

// Extremes of the logits' keys (logit_keys.h).
struct KeyExtent {
  std::int32_t lowest;
  std::int32_t lowest_finite;  // leaving out -inf
  std::int32_t highest;
};

// Sums of weights: of the keys from the lowest of a range, and of those beyond its highest.
struct RangeMass {
  double with_range;
  double above_range;
};

struct KernelTable {
  KeyExtent (*key_extent)(const float* logits, std::size_t count);
  // weights[i] = e^((logits[i] - max_logit) / divisor); their sum_of
  double (*weights_of)(const float* logits, std::size_t count, float max_logit, float divisor,
                       float* weights);
  // buckets[i] = bucket_of(logits[i], lowest, shift)
  void (*buckets_of)(const float* logits, std::size_t count, std::int32_t lowest, int shift,
                     std::uint16_t* buckets);
  // Zeroes the weights below `least_weight` and those whose logit's key is below `least_key`.
  void (*keep)(const float* logits, std::size_t count, std::int32_t least_key, float least_weight,
               float* weights);
  double (*sum_of)(const float* weights, std::size_t count);
  // A weight is 1 if weights is null.
  RangeMass (*mass_of_range)(const float* logits, const float* weights, std::size_t count,
                             std::int32_t lowest, std::int32_t highest);
  // Writes the indices in [begin, end) whose keys are in [lowest, highest], ascending, and their
  // logits unless `values` is null; how many. There must be room for end - begin of both, of which
  // all may be overwritten.
  std::size_t (*ids_between)(const float* logits, std::size_t begin, std::size_t end,
                             std::int32_t lowest, std::int32_t highest, std::uint32_t* ids,
                             float* values);
};

extern const KernelTable kPortableKernels;
extern const KernelTable kAvx2Kernels;    // all null unless built for x86-64
extern const KernelTable kAvx512Kernels;  // all null unless built for x86-64

const KernelTable& kernels(Variant variant);  // throws std::invalid_argument if not supported

}  // namespace nestling
