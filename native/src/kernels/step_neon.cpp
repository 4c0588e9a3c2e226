// The step kernels with NEON and its dot products; this file alone is built for those (see
// CMakeLists.txt).

#include "kernels/step_kernels.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)

#include "kernels/lanes_neon.h"
#include "kernels/step_table.h"

namespace nestling {

constinit const StepKernels kNeonStep = step_table<Neon>();

}  // namespace nestling

#else

namespace nestling {

constinit const StepKernels kNeonStep{};

}  // namespace nestling

#endif
