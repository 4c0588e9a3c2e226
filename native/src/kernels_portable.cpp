// The kernels for any processor: the reference of the faster variants.
//
// Products are rounded before they are added, on every machine, so results have the same bits on
// all.

#include <cstring>

#include "attention_loops.h"
#include "linear_loops.h"
#include "sampling_loops.h"

namespace nestling {

namespace {

// Compilers lower arithmetic on this type to whatever the target has.
using FourFloats = float __attribute__((vector_size(16)));

struct PortableLanes {
  static constexpr int kMostRows = 2;  // their sums take 8 of the 16 registers of plain x86-64

  FourFloats lanes[4] = {};

  static PortableLanes load(const float* from) {
    PortableLanes result;
    std::memcpy(&result.lanes, from, sizeof(result.lanes));
    return result;
  }
  static PortableLanes load(const std::uint16_t* bfloat16) {
    std::uint32_t bits[16];
    for (int i = 0; i < 16; ++i) bits[i] = static_cast<std::uint32_t>(bfloat16[i]) << 16;
    PortableLanes result;
    std::memcpy(&result.lanes, bits, sizeof(bits));
    return result;
  }
  void add_product(float x, const PortableLanes& y) {
    for (int i = 0; i < 4; ++i) lanes[i] += x * y.lanes[i];
  }
  void add_product(const PortableLanes& x, const PortableLanes& y) {
    for (int i = 0; i < 4; ++i) lanes[i] += x.lanes[i] * y.lanes[i];
  }
  void store(float* to) const { std::memcpy(to, &lanes, sizeof(lanes)); }
  float total() const {
    const FourFloats sums = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
  }
};

}  // namespace

constinit const KernelTable kPortableKernels{linear_task<PortableLanes, float>,
                                             linear_task<PortableLanes, std::uint16_t>,
                                             attention_task<PortableLanes>,
                                             key_extent,
                                             weights_of,
                                             buckets_of,
                                             keep,
                                             sum_of};

}  // namespace nestling
