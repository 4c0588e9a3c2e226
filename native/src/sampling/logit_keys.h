// Logits as integers: the sampler selects by comparing and splitting these.
//
// Static and free of library calls, as sampling_loops.h explains.
#pragma once

#include <bit>
#include <cstdint>

namespace nestling {

constexpr float kInfinity = __builtin_inff();

static inline std::int32_t smaller(std::int32_t a, std::int32_t b) { return a < b ? a : b; }
static inline std::int32_t larger(std::int32_t a, std::int32_t b) { return a > b ? a : b; }

// Ordered as the floats are. Adding zero turns -0 into +0, which must compare equal. NaN falls
// below key_of(-inf) or above key_of(+inf), by its sign.
static constexpr std::int32_t key_of(float x) {
  const auto bits = std::bit_cast<std::int32_t>(x + 0.0f);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

static constexpr float logit_of(std::int32_t key) {
  return std::bit_cast<float>(key ^ ((key >> 31) & 0x7fffffff));
}

// A digit of the keys in radix selection.
constexpr int kDigitBits = 11;
constexpr std::uint32_t kNumBuckets = 1u << kDigitBits;

// The digit of (key - lowest) above its `shift` low bits; kNumBuckets for keys below `lowest`. The
// remainder changes nothing for keys in range: it keeps every index inside a histogram.
static inline std::uint16_t bucket_of(float logit, std::int32_t lowest, int shift) {
  const std::int32_t key = key_of(logit);
  const std::uint32_t offset = static_cast<std::uint32_t>(key) - static_cast<std::uint32_t>(lowest);
  const std::uint32_t bucket = (offset >> shift) % kNumBuckets;
  return static_cast<std::uint16_t>(key < lowest ? kNumBuckets : bucket);
}

}  // namespace nestling
