// The step kernels with AVX-512 and VNNI; this file alone is built for those (see CMakeLists.txt).

#include "kernels/step_kernels.h"

#if defined(__AVX512F__) && defined(__AVX512VNNI__)

#include "kernels/lanes_avx512.h"
#include "kernels/step_table.h"

namespace nestling {

constinit const StepKernels kAvx512Step = step_table<Avx512>();

}  // namespace nestling

#else

namespace nestling {

constinit const StepKernels kAvx512Step{};

}  // namespace nestling

#endif
