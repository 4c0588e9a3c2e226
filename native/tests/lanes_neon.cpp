// The lanes of NEON, for test_lanes; built with the flags of step_neon.cpp.

#include "lane_results.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)

#include "kernels/lanes_neon.h"

namespace nestling {

void neon_lanes(const LaneInputs& in, LaneResults& out) { lane_results<Neon>(in, out); }

}  // namespace nestling

#else

namespace nestling {

void neon_lanes(const LaneInputs&, LaneResults&) {}  // not called: the variant is not supported

}  // namespace nestling

#endif
