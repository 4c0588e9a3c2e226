// The step kernels for any processor.

#include "kernels/lanes_portable.h"
#include "kernels/step_kernels.h"
#include "kernels/step_table.h"

namespace nestling {

constinit const StepKernels kPortableStep = step_table<Portable>();

}  // namespace nestling
