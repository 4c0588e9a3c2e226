// The step kernels with AVX2, FMA and F16C; this file alone is built for those (see
// CMakeLists.txt).

#include "kernels/step_kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "kernels/lanes_avx2.h"
#include "kernels/step_table.h"

namespace nestling {

constinit const StepKernels kAvx2Step = step_table<Avx2>();

}  // namespace nestling

#else

namespace nestling {

constinit const StepKernels kAvx2Step{};

}  // namespace nestling

#endif
