// The sampler's kernels with AVX2 and FMA; this file alone is built for those (see CMakeLists.txt).

#include "kernel_table.h"

#if defined(__AVX2__) && defined(__FMA__)

#include "sampling_loops.h"

namespace nestling {

constinit const KernelTable kAvx2Kernels{key_extent, weights_of, buckets_of, keep, sum_of};

}  // namespace nestling

#else

namespace nestling {

constinit const KernelTable kAvx2Kernels{};

}  // namespace nestling

#endif
