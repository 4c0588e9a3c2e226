// Every operation of the lanes that this processor runs, to the bit against Portable's lanes with
// fused multiply-add; on numbers of all kinds.

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "check.h"
#include "fused_lanes.h"
#include "lane_results.h"
#include "nestling/variant.h"
#include "numbers.h"

namespace nestling {

namespace {

float any_float() {
  static constexpr float kOthers[] = {kInfinity, -kInfinity, kNaN,    kMost,   -kMost, 65504.0f,
                                      65520.0f,  6e-8f,      2.9e-8f, 6.1e-5f, 0.5f};
  const auto which = generator() % 22;
  return which < 11 ? kOthers[which] : extreme_float();
}

LaneInputs lane_inputs(unsigned round) {
  LaneInputs in{};
  for (unsigned i = 0; i < 16; ++i) {
    in.a[i] = any_float();
    in.b[i] = any_float();
    in.c[i] = any_float();
    in.numbers[i] = extreme_float();
    in.powers[i] = static_cast<float>(static_cast<int>(generator() % 254) - 126) + 12582912.0f;
    const float step = static_cast<float>(static_cast<int>(generator() % 509) - 254) / 2.0f;
    in.steps[i] = round % 2 == 0 ? step : std::clamp(random_float() * 60.0f, -127.0f, 127.0f);
    in.halves[i] = static_cast<std::uint16_t>(round * 16 + i);  // every one in 4,096 rounds
  }
  for (std::size_t i = 0; i < 64; ++i) {
    in.w[i] = static_cast<std::uint8_t>(round % 5 == 0 ? 0x80 : generator());
    in.upper[i] = static_cast<std::uint8_t>(round % 3 == 0 ? 0xff : generator());
    in.x[i] = static_cast<std::int8_t>(static_cast<int>(generator() % 255) - 127);
    if (round % 3 == 0) in.x[i] = in.x[i] < 0 ? -127 : 127;
  }
  in.begin = static_cast<int>(generator() % 17);
  in.end = static_cast<int>(generator() % 17);
  return in;
}

void test_lanes(void (*lanes)(const LaneInputs&, LaneResults&)) {
  for (unsigned round = 0; round < 4096; ++round) {
    const LaneInputs in = lane_inputs(round);
    LaneResults got{};
    LaneResults expected{};
    lanes(in, got);
    lane_results<Fused>(in, expected);
    for (int operation = 0; operation < kNumOperations; ++operation) {
      for (int i = 0; i < 16; ++i) {
        const bool is_same = same_bits(got.floats[operation][i], expected.floats[operation][i]);
        CHECK(is_same);
        if (is_same) continue;
        std::fprintf(stderr, "round %u, operation %d, lane %d: %a, expected %a\n", round, operation,
                     i, static_cast<double>(got.floats[operation][i]),
                     static_cast<double>(expected.floats[operation][i]));
      }
    }
    CHECK(same_bits(got.total, expected.total));
    CHECK(got.largest == expected.largest);
    for (int i = 0; i < 16; ++i) {
      const bool is_nan =
          (got.halves[i] & 0x7fff) > 0x7c00 && (expected.halves[i] & 0x7fff) > 0x7c00;
      CHECK(is_nan || got.halves[i] == expected.halves[i]);
    }
    CHECK(std::memcmp(got.bytes, expected.bytes, 16) == 0);
    CHECK(got.byte_sum == expected.byte_sum);
  }
}

}  // namespace

void run_all() {
  if (is_supported(Variant::kAvx2)) test_lanes(avx2_lanes);
  if (is_supported(Variant::kAvx512)) test_lanes(avx512_lanes);
  if (is_supported(Variant::kNeon)) test_lanes(neon_lanes);
}

}  // namespace nestling

int main() {
  nestling::run_all();
  return nestling::testing::num_failures == 0 ? 0 : 1;
}
