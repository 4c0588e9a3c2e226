// Partial selection over a vocabulary: where the best tokens end whose mass reaches a target.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "sampling/logit_keys.h"
#include "sampling/sampling_kernels.h"

namespace nestling {

// Where a selection ends: better tokens than this stay, worse ones go. At first all stay.
struct Cut {
  std::int32_t key = key_of(-kInfinity);
  std::size_t last_index = std::numeric_limits<std::size_t>::max();
  double mass = 0.0;  // of what stays
};

template <class T>
void grow(std::vector<T>& buffer, std::size_t size) {
  if (buffer.size() < size) buffer.resize(size);
}

// Mass by bucket. Four interleaved copies, because a flat distribution adds to one bucket again and
// again, and each addition would wait for the last.
class Histogram {
 public:
  void clear() { sums_.fill(0.0); }
  void add(std::size_t bucket, std::size_t index, double mass) {
    sums_[bucket * 4 + index % 4] += mass;
  }
  double operator[](std::size_t bucket) const {
    const double* sums = &sums_[bucket * 4];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

 private:
  std::array<double, (kNumBuckets + 1) * 4> sums_;  // the last is for keys below the range
};

// Finds the worst token of the smallest best set whose mass reaches a target; if rounding leaves
// the whole mass below it, the worst of all.
//
// A sample of the tokens says between which two keys the target is almost surely crossed; one pass
// over all proves it right or wrong, and only the members of that range are looked at again. A
// radix selection finishes: it sums the mass by bucket of the key, walks down from the best bucket
// to the one in which the target is crossed, and goes on with the members of that one. Each round
// spans exactly the keys that are left, so nearly equal logits spread out too. If some samples,
// each of other tokens, were wrong or said too little, the radix selection starts from all tokens:
// still linear in the vocabulary; at most three rounds, since each settles 11 of 32 bits.
class Selection {
 public:
  static constexpr std::size_t kSampleSize = 2048;

  struct Sampled {
    std::uint32_t order;  // of the key, as an unsigned number
    float mass;
  };

  // Memory to be kept between selections.
  struct Scratch {
    Histogram histogram;
    std::vector<std::uint32_t> members;  // at least vocab_size long
    std::vector<float> maxima;
    std::array<Sampled, kSampleSize> sample;
    std::array<Sampled, kSampleSize> sorting;
  };

  // A token's mass is weights[i], or 1 if weights is null. Tokens of keys below `lowest` must have
  // no mass, or be worse than what can be selected.
  Selection(std::span<const float> logits, const float* weights, std::int32_t lowest,
            std::int32_t highest, const SamplingKernels& passes, Scratch& scratch);

  // `total` is the mass of all tokens.
  Cut find(double target, double total);

  // Where the k best end, given the largest logit of each block, at least k of them. No sample: the
  // k-th largest of those is a bound, and fewer than k blocks hold better tokens.
  Cut find_few(std::size_t k, std::span<const float> maxima);

 private:
  struct Range {
    std::int32_t lowest;
    std::int32_t highest;
  };

  double mass_of(std::size_t i) const {
    return weights_ == nullptr ? 1.0 : static_cast<double>(weights_[i]);
  }
  std::size_t bucket_at(std::size_t i) const { return bucket_of(logits_[i], lowest_, shift_); }

  Cut finish();
  void take_sample(std::uint32_t seed);
  Range likely_range(double total) const;
  bool narrow_by_sample(double total, std::uint32_t seed);
  double take_equals(std::int32_t key);
  std::size_t append_ids(std::size_t block, Range range, std::size_t num_ids);
  void narrow_all();
  bool narrow_members();
  bool range_members();
  void set_range(Range range);
  std::size_t crossing_bucket();
  void raise_lowest(std::size_t bucket);

  const std::span<const float> logits_;
  const float* const weights_;
  const SamplingKernels& passes_;
  Scratch& scratch_;
  const Range all_;                   // keys that can be selected
  Range open_;                        // those that no sample has ruled out
  std::span<std::uint32_t> members_;  // what is left, at the start of the buffer; ids ascending
  std::int32_t lowest_ = 0;
  int shift_ = 0;
  double mass_above_ = 0.0;
  double target_ = 0.0;
};

}  // namespace nestling
