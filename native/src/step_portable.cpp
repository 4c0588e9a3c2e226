// The step kernels for any processor.

#include "lanes_portable.h"
#include "step_kernels.h"
#include "step_table.h"

namespace nestling {

constinit const StepKernels kPortableStep = step_table<Portable>();

}  // namespace nestling
