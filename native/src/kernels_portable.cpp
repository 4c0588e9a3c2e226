// The kernels in plain C++, for any processor: the reference of the faster variants.

#include <bit>
#include <cmath>

#include "attention_loops.h"
#include "linear_loops.h"
#include "sampling_loops.h"

namespace nestling {

namespace {

// One rounding where the target has fused multiply-add, two where it would be a library call.
inline float multiply_add(float a, float b, float sum) {
#ifdef __FP_FAST_FMAF
  return std::fma(a, b, sum);
#else
  return sum + a * b;
#endif
}

struct PortableLanes {
  float lanes[16] = {};

  static PortableLanes load(const float* from) {
    PortableLanes result;
    for (int i = 0; i < 16; ++i) result.lanes[i] = from[i];
    return result;
  }
  static PortableLanes load(const std::uint16_t* bfloat16) {
    PortableLanes result;
    for (int i = 0; i < 16; ++i) {
      result.lanes[i] = std::bit_cast<float>(static_cast<std::uint32_t>(bfloat16[i]) << 16);
    }
    return result;
  }
  void add_product(float x, const PortableLanes& y) {
    for (int i = 0; i < 16; ++i) lanes[i] = multiply_add(x, y.lanes[i], lanes[i]);
  }
  void add_product(const PortableLanes& x, const PortableLanes& y) {
    for (int i = 0; i < 16; ++i) lanes[i] = multiply_add(x.lanes[i], y.lanes[i], lanes[i]);
  }
  void store(float* to) const {
    for (int i = 0; i < 16; ++i) to[i] = lanes[i];
  }
  float total() const {
    float sums[16];
    store(sums);
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
    }
    return sums[0];
  }
};

}  // namespace

const KernelTable kPortableKernels{linear_task<PortableLanes, float>,
                                   linear_task<PortableLanes, std::uint16_t>,
                                   attention_task<PortableLanes>,
                                   key_extent,
                                   weights_of,
                                   buckets_of,
                                   keep,
                                   sum_of};

}  // namespace nestling
