// The lanes of AVX2, for test_lanes; built with the flags of step_avx2.cpp.

#include "lane_results.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "kernels/lanes_avx2.h"

namespace nestling {

void avx2_lanes(const LaneInputs& in, LaneResults& out) { lane_results<Avx2>(in, out); }

}  // namespace nestling

#else

namespace nestling {

void avx2_lanes(const LaneInputs&, LaneResults&) {}  // not called: the variant is not supported

}  // namespace nestling

#endif
