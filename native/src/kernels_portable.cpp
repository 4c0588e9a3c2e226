// The sampler's kernels for any processor.

#include "sampling_loops.h"

namespace nestling {

constinit const KernelTable kPortableKernels{key_extent, weights_of,    buckets_of, keep,
                                             sum_of,     mass_of_range, ids_between};

}  // namespace nestling
