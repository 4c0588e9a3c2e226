#include "nestling/sampling.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "exp.h"
#include "kernel_table.h"
#include "logit_keys.h"

namespace nestling {

namespace {

// Throws if a logit is NaN or +inf, or none is finite.
KeyExtent checked_extent(std::span<const float> logits, const KernelTable& passes) {
  if (logits.empty()) throw std::invalid_argument("logits: expected at least one, got none");
  const KeyExtent extent = passes.key_extent(logits.data(), logits.size());
  if (extent.lowest < key_of(-kInfinity) || extent.highest >= key_of(kInfinity)) {
    const auto bad = std::ranges::find_if(logits, [](float x) { return !(x < kInfinity); });
    throw std::invalid_argument(
        "logits: expected finite numbers or -inf, got NaN or +inf at token " +
        std::to_string(bad - logits.begin()));
  }
  if (extent.highest == key_of(-kInfinity)) {
    throw std::invalid_argument("logits: all are -inf, nothing can be drawn");
  }
  return extent;
}

// Refuses NaN too.
void check_in(const char* name, double value, double low, double high) {
  if (value >= low && value <= high) return;
  throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(low) + " to " +
                              std::to_string(high) + ", got " + std::to_string(value));
}

void check_settings(const SamplingSettings& settings, double uniform) {
  if (!(settings.temperature >= 0.0 &&
        settings.temperature <= std::numeric_limits<double>::max())) {
    throw std::invalid_argument("temperature: expected a finite number >= 0, got " +
                                std::to_string(settings.temperature));
  }
  if (settings.top_k < 0) {
    throw std::invalid_argument("top_k: expected >= 0, got " + std::to_string(settings.top_k));
  }
  check_in("top_p", settings.top_p, 0.0, 1.0);
  check_in("top_a", settings.top_a, 0.0, 1.0);
  check_in("min_p", settings.min_p, 0.0, 1.0);
  if (!(uniform >= 0.0 && uniform < 1.0)) {
    throw std::invalid_argument("uniform: expected [0, 1), got " + std::to_string(uniform));
  }
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

// Where a selection ends: better tokens than this stay, worse ones go.
struct Cut {
  std::int32_t key = std::numeric_limits<std::int32_t>::min();
  std::size_t last_index = 0;
  double mass = 0.0;  // of what stays
};

constexpr std::size_t kTile = 2048;  // tokens whose buckets fit the first-level cache

// Memory that a thread keeps between calls, so that none is allocated for a token.
struct Scratch {
  Histogram histogram;
  std::vector<std::uint32_t> members;  // at least vocab_size long, as are kept_ids
  std::vector<std::int32_t> kept_ids;
  std::vector<float> kept_logits;
  std::vector<float> weights;
  std::vector<double> block_sums;
};

template <class T>
void grow(std::vector<T>& buffer, std::size_t size) {
  if (buffer.size() < size) buffer.resize(size);
}

Scratch& scratch_of_thread() {
  thread_local Scratch scratch;
  return scratch;
}

// Finds the worst token of the smallest best set whose mass reaches a target; if rounding leaves
// the whole mass below it, the worst of all.
//
// A radix selection on the keys: sums the mass by bucket, walks down from the best bucket to the
// one in which the target is crossed, and goes on with the members of that one. Each round spans
// exactly the keys that are left, so nearly equal logits spread out too. Linear in the vocabulary;
// at most three rounds, since each settles 11 of 32 bits.
class Selection {
 public:
  // A token's mass is weights[i], or 1 if weights is null. Keys below `lowest` must have no mass,
  // or be worse than what can be selected.
  Selection(std::span<const float> logits, const float* weights, std::int32_t lowest,
            std::int32_t highest, const KernelTable& passes, Scratch& scratch)
      : logits_(logits),
        weights_(weights),
        passes_(passes),
        histogram_(scratch.histogram),
        buffer_(scratch.members) {
    grow(buffer_, logits.size());
    set_range(lowest, highest);
  }

  Cut find(double target) {
    target_ = std::max(
        target, std::numeric_limits<double>::min());  // so that an empty bucket never reaches it
    narrow_all();
    while (shift_ > 0 && range_members()) narrow_members();
    Cut cut{lowest_, logits_.size(), mass_above_};
    if (members_.empty()) return cut;
    // All that are left have equal logits, so they go by their ids.
    const double mass = mass_of(members_.front());
    const double num_wanted = std::ceil((target_ - mass_above_) / mass);
    const auto num_kept = std::clamp(num_wanted, 1.0, static_cast<double>(members_.size()));
    cut.last_index = members_[static_cast<std::size_t>(num_kept) - 1];
    cut.mass += num_kept * mass;
    return cut;
  }

 private:
  double mass_of(std::size_t i) const {
    return weights_ == nullptr ? 1.0 : static_cast<double>(weights_[i]);
  }

  void set_range(std::int32_t lowest, std::int32_t highest) {
    const std::uint32_t width =
        static_cast<std::uint32_t>(highest) - static_cast<std::uint32_t>(lowest);
    lowest_ = lowest;
    shift_ = std::max(0, static_cast<int>(std::bit_width(width)) - kDigitBits);
  }

  // Spans the members' keys; false if they are all equal.
  bool range_members() {
    std::int32_t lowest = std::numeric_limits<std::int32_t>::max();
    std::int32_t highest = lowest_;
    for (const std::uint32_t i : members_) {
      const std::int32_t key = key_of(logits_[i]);
      lowest = smaller(lowest, key);
      highest = larger(highest, key);
    }
    if (members_.empty()) return false;
    set_range(lowest, highest);
    return lowest < highest;
  }

  std::size_t crossing_bucket() {
    std::size_t bucket = kNumBuckets - 1;
    while (bucket > 0 && mass_above_ + histogram_[bucket] < target_) {
      mass_above_ += histogram_[bucket];
      --bucket;
    }
    return bucket;
  }

  void narrow_all() {
    std::array<std::uint16_t, kTile> buckets;
    const auto for_tiles = [&](const auto& visit) {
      for (std::size_t begin = 0; begin < logits_.size(); begin += kTile) {
        const std::size_t count = std::min(kTile, logits_.size() - begin);
        passes_.buckets_of(&logits_[begin], count, lowest_, shift_, buckets.data());
        visit(begin, count);
      }
    };
    histogram_.clear();
    for_tiles([&](std::size_t begin, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) histogram_.add(buckets[i], i, mass_of(begin + i));
    });
    const std::size_t bucket = crossing_bucket();
    std::uint32_t* const members = buffer_.data();
    std::size_t num_members = 0;
    for_tiles([&](std::size_t begin, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) {
        members[num_members] = static_cast<std::uint32_t>(begin + i);  // stays if it is inside
        num_members += buckets[i] == bucket ? 1 : 0;
      }
    });
    members_ = {members, num_members};
    raise_lowest(bucket);
  }

  void narrow_members() {
    histogram_.clear();
    for (const std::uint32_t i : members_) {
      histogram_.add(bucket_of(logits_[i], lowest_, shift_), i, mass_of(i));
    }
    const std::size_t bucket = crossing_bucket();
    const auto outside = std::ranges::remove_if(members_, [&](std::uint32_t i) {
      return bucket_of(logits_[i], lowest_, shift_) != bucket;
    });
    members_ = members_.first(members_.size() - outside.size());
    raise_lowest(bucket);
  }

  void raise_lowest(std::size_t bucket) {
    lowest_ = static_cast<std::int32_t>(static_cast<std::uint32_t>(lowest_) +
                                        (static_cast<std::uint32_t>(bucket) << shift_));
  }

  const std::span<const float> logits_;
  const float* const weights_;
  const KernelTable& passes_;
  Histogram& histogram_;
  std::vector<std::uint32_t>& buffer_;
  std::span<std::uint32_t> members_;  // what is left, at the start of the buffer; ids ascending
  std::int32_t lowest_ = 0;
  int shift_ = 0;
  double mass_above_ = 0.0;
  double target_ = 0.0;
};

// Ids of the k best, ascending, in the scratch; k >= 1. -inf is never among them.
std::span<const std::int32_t> select_top_k(std::span<const float> logits, const KeyExtent& extent,
                                           std::size_t k, const KernelTable& passes,
                                           Scratch& scratch) {
  Selection selection(logits, nullptr, extent.lowest_finite, extent.highest, passes, scratch);
  const Cut cut = selection.find(static_cast<double>(k));
  grow(scratch.kept_ids, logits.size());
  std::int32_t* const ids = scratch.kept_ids.data();
  std::size_t num_kept = 0;
  const auto gather = [&](std::size_t begin, std::size_t end, std::int32_t least_key) {
    for (std::size_t i = begin; i < end; ++i) {
      ids[num_kept] = static_cast<std::int32_t>(i);  // stays if the token does
      num_kept += key_of(logits[i]) >= least_key ? 1 : 0;
    }
  };
  const std::size_t ties_end = std::min(cut.last_index + 1, logits.size());
  gather(0, ties_end, cut.key);
  gather(ties_end, logits.size(), cut.key + 1);
  return {ids, num_kept};
}

// The smallest float32 that is >= x, so that comparing weights with it is comparing them with x.
float round_up(double x) {
  const auto rounded = static_cast<float>(x);
  return static_cast<double>(rounded) < x ? std::nextafter(rounded, kInfinity) : rounded;
}

constexpr std::size_t kDrawBlock = 512;

// Drops what the cut and `least_weight` exclude; writes the sum of what is left by block.
void keep_and_sum(std::span<const float> logits, const Cut& cut, float least_weight,
                  const KernelTable& passes, Scratch& scratch) {
  scratch.block_sums.clear();
  const std::size_t ties_end = std::min(cut.last_index + 1, logits.size());
  for (std::size_t begin = 0; begin < logits.size(); begin += kDrawBlock) {
    const std::size_t end = std::min(begin + kDrawBlock, logits.size());
    const std::size_t split = std::clamp(ties_end, begin, end);
    float* const weights = scratch.weights.data();
    passes.keep(logits.data() + begin, split - begin, cut.key, least_weight, weights + begin);
    passes.keep(logits.data() + split, end - split, cut.key + 1, least_weight, weights + split);
    scratch.block_sums.push_back(passes.sum_of(weights + begin, end - begin));
  }
}

// The index where the running sum of the weights first exceeds uniform * total: blocks first, then
// inside one block. Always an index whose weight is positive; there must be one.
std::size_t draw(double uniform, const Scratch& scratch) {
  double total = 0.0;
  for (const double block_sum : scratch.block_sums) total += block_sum;
  const double target = uniform * total;
  double mass = 0.0;
  double mass_before_block = 0.0;
  std::size_t chosen_block = 0;
  for (std::size_t block = 0; block < scratch.block_sums.size(); ++block) {
    if (scratch.block_sums[block] == 0.0) continue;
    chosen_block = block;
    mass_before_block = mass;
    mass += scratch.block_sums[block];
    if (mass > target) break;
  }
  mass = mass_before_block;
  std::size_t chosen = chosen_block * kDrawBlock;
  const std::size_t end = std::min(chosen + kDrawBlock, scratch.weights.size());
  for (std::size_t i = chosen; i < end; ++i) {
    if (scratch.weights[i] == 0.0f) continue;
    chosen = i;
    mass += static_cast<double>(scratch.weights[i]);
    if (mass > target) break;
  }
  return chosen;
}

std::int32_t first_best(std::span<const float> logits, float max_logit) {
  const auto best = std::ranges::find(logits, max_logit);
  return static_cast<std::int32_t>(best - logits.begin());
}

// Draws among all the logits given, after the temperature; their index.
std::size_t draw_filtered(std::span<const float> logits, const KeyExtent& extent,
                          const SamplingSettings& settings, double uniform,
                          const KernelTable& passes, Scratch& scratch) {
  const float max_logit = logit_of(extent.highest);
  using Float = std::numeric_limits<float>;
  const auto divisor =
      static_cast<float>(std::clamp<double>(settings.temperature, Float::min(), Float::max()));
  scratch.weights.resize(logits.size());
  passes.weights_of(logits.data(), logits.size(), max_logit, divisor, scratch.weights.data());
  Cut cut;
  cut.mass = passes.sum_of(scratch.weights.data(), logits.size());
  if (settings.top_p < 1.0) {
    // Logits this low have no weight; leaving them out narrows the range.
    const std::int32_t weightless = key_of(max_logit + 1.01f * kExpUnderflow * divisor);
    Selection selection(logits, scratch.weights.data(), std::max(extent.lowest_finite, weightless),
                        extent.highest, passes, scratch);
    cut = selection.find(settings.top_p * cut.mass);
  }
  // Weights are relative to the best. So p < min_p * p_max is weight < min_p, and
  // p < top_a * p_max^2 is weight < top_a / (mass left); neither bound exceeds 1, the best's
  // weight.
  const double least_weight = std::max(settings.top_a / cut.mass, settings.min_p);
  keep_and_sum(logits, cut, round_up(least_weight), passes, scratch);
  return draw(uniform, scratch);
}

}  // namespace

std::int32_t sample(std::span<const float> logits, const SamplingSettings& settings,
                    double uniform) {
  check_settings(settings, uniform);
  const KernelTable& passes = kernels(best_variant());
  const KeyExtent extent = checked_extent(logits, passes);
  if (settings.temperature == 0.0) return first_best(logits, logit_of(extent.highest));

  Scratch& scratch = scratch_of_thread();
  const auto top_k = static_cast<std::size_t>(settings.top_k);
  if (top_k == 0 || top_k >= logits.size()) {
    return static_cast<std::int32_t>(
        draw_filtered(logits, extent, settings, uniform, passes, scratch));
  }
  const auto ids = select_top_k(logits, extent, top_k, passes, scratch);
  scratch.kept_logits.resize(ids.size());
  std::ranges::transform(ids, scratch.kept_logits.begin(),
                         [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; });
  return ids[draw_filtered(scratch.kept_logits, extent, settings, uniform, passes, scratch)];
}

TopLogprobs top_logprobs(std::span<const float> logits, std::int64_t count) {
  if (count < 0) {
    throw std::invalid_argument("count: expected >= 0, got " + std::to_string(count));
  }
  const KernelTable& passes = kernels(best_variant());
  const KeyExtent extent = checked_extent(logits, passes);
  const float max_logit = logit_of(extent.highest);
  Scratch& scratch = scratch_of_thread();
  scratch.weights.resize(logits.size());
  passes.weights_of(logits.data(), logits.size(), max_logit, 1.0f, scratch.weights.data());

  TopLogprobs result;
  result.logsumexp = static_cast<double>(max_logit) +
                     std::log(passes.sum_of(scratch.weights.data(), scratch.weights.size()));
  if (count == 0) return result;
  const auto k = std::min(static_cast<std::size_t>(count), logits.size());
  const auto ids = select_top_k(logits, extent, k, passes, scratch);
  result.ids.assign(ids.begin(), ids.end());
  const auto logit_at = [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; };
  std::ranges::stable_sort(result.ids, std::ranges::greater{}, logit_at);
  for (const std::int32_t id : result.ids) {
    const double logprob = static_cast<double>(logit_at(id)) - result.logsumexp;
    result.logprobs.push_back(static_cast<float>(logprob));
  }
  return result;
}

}  // namespace nestling
