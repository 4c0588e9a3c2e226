// What one variant of the sampler's kernels offers; each is built from the same loops
// (`sampling_loops.h`). Those of the model step are in step_kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nestling/variant.h"

namespace nestling {

// Tokens whose largest logit is kept, and whose weights are summed before a draw.
inline constexpr std::size_t kBlock = 512;

// A token weighs 2^((logit - max_logit) * factor), or 0 if its logit is below `least_logit`.
struct Weighing {
  float max_logit;
  float factor;
  float least_logit;  // so high that no exponent is below -126
};

// A split of the logits by a range: the mass from its highest on, how many lie inside.
struct Split {
  double mass;
  std::size_t num_inside;
};

struct SamplingKernels {
  // maxima[i] is the largest of logits[i * kBlock, ...), never -0; whether none is NaN.
  bool (*block_maxima)(const float* logits, std::size_t count, float* maxima);
  // Their sum.
  double (*weights_of)(const float* logits, std::size_t count, const Weighing& weighing,
                       float* weights);
  // buckets[i] = bucket_of(logits[i], lowest, shift)
  void (*buckets_of)(const float* logits, std::size_t count, std::int32_t lowest, int shift,
                     std::uint16_t* buckets);
  // Of the weights of logits >= least_logit those >= least_weight.
  double (*sum_kept)(const float* logits, const float* weights, std::size_t count,
                     float least_logit, float least_weight);
  // Writes the indices of lowest < logit < highest, as `ids_between` does. A weight is 1 if weights
  // is null.
  Split (*split)(const float* logits, const float* weights, std::size_t count, float lowest,
                 float highest, std::uint32_t* ids);
  // Writes the indices in [begin, end) whose logits are in [lowest, highest], ascending, and their
  // logits unless `values` is null; how many. There must be room for end - begin of both, of which
  // all may be overwritten.
  std::size_t (*ids_between)(const float* logits, std::size_t begin, std::size_t end, float lowest,
                             float highest, std::uint32_t* ids, float* values);
};

extern const SamplingKernels kPortableSampling;
extern const SamplingKernels kAvx2Sampling;    // all null unless built for x86-64
extern const SamplingKernels kAvx512Sampling;  // all null unless built for x86-64

const SamplingKernels& sampling_kernels(
    Variant variant);  // throws std::invalid_argument if not supported

}  // namespace nestling
