// The sampler's kernels for any processor.

#include "sampling/sampling_loops.h"

namespace nestling {

constinit const SamplingKernels kPortableSampling{block_maxima, weights_of, buckets_of,
                                                  sum_kept,     split,      ids_between};

}  // namespace nestling
