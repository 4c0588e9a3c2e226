// The lanes of AVX-512, for test_lanes; built with the flags of step_avx512.cpp.

#include "lane_results.h"

#if defined(__AVX512F__) && defined(__AVX512VNNI__)

#include "kernels/lanes_avx512.h"

namespace nestling {

void avx512_lanes(const LaneInputs& in, LaneResults& out) { lane_results<Avx512>(in, out); }

}  // namespace nestling

#else

namespace nestling {

void avx512_lanes(const LaneInputs&, LaneResults&) {}  // not called: the variant is not supported

}  // namespace nestling

#endif
