#include "nestling/sampling.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "exp.h"

namespace nestling {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Integers in the order of the floats. Adding zero turns -0 into +0, which must compare equal. NaN
// falls below key(-inf) or above key(+inf), by its sign.
std::int32_t key_of(float x) {
  const auto bits = std::bit_cast<std::int32_t>(x + 0.0f);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

struct KeyRange {
  std::int32_t lowest = 0;
  std::int32_t highest = 0;
};

// The keys of the finite logits; throws if there is none, or a NaN or +inf.
KeyRange checked_range(std::span<const float> logits) {
  const std::int32_t banned = key_of(-kInfinity);
  std::int32_t lowest = std::numeric_limits<std::int32_t>::max();
  std::int32_t highest = std::numeric_limits<std::int32_t>::min();
  std::int32_t lowest_finite = lowest;
  for (const float logit : logits) {
    const std::int32_t key = key_of(logit);
    lowest = std::min(lowest, key);
    highest = std::max(highest, key);
    lowest_finite =
        std::min(lowest_finite, key == banned ? std::numeric_limits<std::int32_t>::max() : key);
  }
  if (logits.empty()) throw std::invalid_argument("logits: expected at least one, got none");
  if (lowest < banned || highest >= key_of(kInfinity)) {
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (logits[i] < kInfinity) continue;
      throw std::invalid_argument("logits: expected finite numbers or -inf, got " +
                                  std::string(std::isnan(logits[i]) ? "NaN" : "+inf") +
                                  " at token " + std::to_string(i));
    }
  }
  if (highest == banned) throw std::invalid_argument("logits: all are -inf, nothing can be drawn");
  return {lowest_finite, highest};
}

// Refuses NaN too.
void check_in(const char* name, double value, double low, double high) {
  if (value >= low && value <= high) return;
  throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(low) + " to " +
                              std::to_string(high) + ", got " + std::to_string(value));
}

void check_settings(const SamplingSettings& settings, double uniform) {
  if (!(settings.temperature >= 0.0 && settings.temperature <= DBL_MAX)) {
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

// Where a filter ends: everything better than this token stays, everything worse goes.
struct Cut {
  std::int32_t key;
  std::size_t last_index;

  bool keeps(float logit, std::size_t index) const {
    const std::int32_t other = key_of(logit);
    return other > key || (other == key && index <= last_index);
  }
};

constexpr int kDigitBits = 11;
constexpr std::size_t kNumBuckets = std::size_t{1} << kDigitBits;

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
  std::array<double, kNumBuckets * 4> sums_;
};

// The worst token of the smallest best set whose mass reaches `target`; if rounding keeps the whole
// mass below it, of the whole set. `mass_of(i) >= 0` must be 0 for keys below range.lowest.
//
// A radix selection on the keys' bits from the top: sum the mass by bucket, walk down from the best
// bucket to the one in which the target is crossed, and go on inside that one. At most three
// rounds; the first spans exactly the range of the keys, so that also nearly equal logits spread
// out.
template <class MassOf>
Cut find_cut(std::span<const float> logits, KeyRange range, double target, const MassOf& mass_of) {
  thread_local Histogram histogram;
  thread_local std::vector<std::uint32_t> members;

  std::int32_t lowest = range.lowest;
  const auto width = static_cast<std::uint32_t>(range.highest) - static_cast<std::uint32_t>(lowest);
  int shift = std::max(0, static_cast<int>(std::bit_width(width)) - kDigitBits);
  double mass_above = 0.0;
  target = std::max(target, DBL_MIN);  // an empty bucket never reaches it

  const auto bucket_of = [&](std::size_t i) {
    const std::int32_t key = std::max(key_of(logits[i]), lowest);
    const std::uint32_t offset =
        static_cast<std::uint32_t>(key) - static_cast<std::uint32_t>(lowest);
    return (offset >> shift) % kNumBuckets;
  };
  // Narrows the members, given as index_of(0 .. count), to the bucket that crosses the target.
  const auto narrow = [&](std::size_t count, const auto& index_of) {
    histogram.clear();
    for (std::size_t n = 0; n < count; ++n) {
      const std::size_t i = index_of(n);
      histogram.add(bucket_of(i), n, mass_of(i));
    }
    std::size_t bucket = kNumBuckets - 1;
    while (bucket > 0 && mass_above + histogram[bucket] < target) {
      mass_above += histogram[bucket];
      --bucket;
    }
    std::size_t num_kept = 0;
    for (std::size_t n = 0; n < count; ++n) {
      const std::size_t i = index_of(n);
      const bool is_inside = bucket_of(i) == bucket;
      members[num_kept] = static_cast<std::uint32_t>(i);  // overwritten unless it is inside
      num_kept += is_inside ? 1 : 0;
    }
    members.resize(num_kept);
    lowest = static_cast<std::int32_t>(static_cast<std::uint32_t>(lowest) +
                                       (static_cast<std::uint32_t>(bucket) << shift));
  };

  members.resize(logits.size());
  narrow(logits.size(), [](std::size_t n) { return n; });
  while (shift > 0) {
    shift = std::max(0, shift - kDigitBits);
    narrow(members.size(), [](std::size_t n) -> std::size_t { return members[n]; });
  }
  Cut cut{lowest, logits.size()};
  for (const std::uint32_t i : members) {  // equal logits, in the order of their ids
    cut.last_index = i;
    mass_above += mass_of(i);
    if (mass_above >= target) break;
  }
  return cut;
}

// Ids of the k best, ascending; k >= 1. -inf is never among them.
void select_top_k(std::span<const float> logits, KeyRange range, std::size_t k,
                  std::vector<std::int32_t>& ids) {
  const Cut cut = find_cut(logits, range, static_cast<double>(k),
                           [&](std::size_t i) { return logits[i] > -kInfinity ? 1.0 : 0.0; });
  ids.resize(logits.size());
  std::size_t num_kept = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    ids[num_kept] = static_cast<std::int32_t>(i);  // overwritten unless it is kept
    num_kept += cut.keeps(logits[i], i) ? 1 : 0;
  }
  ids.resize(num_kept);
}

// Eight lanes, so that compilers can vectorise the sum without reordering it.
double sum(std::span<const float> weights) {
  std::array<double, 8> lanes{};
  std::size_t i = 0;
  for (; i + 8 <= weights.size(); i += 8) {
    for (std::size_t lane = 0; lane < 8; ++lane) {
      lanes[lane] += static_cast<double>(weights[i + lane]);
    }
  }
  for (std::size_t lane = 0; i < weights.size(); ++i, ++lane) {
    lanes[lane] += static_cast<double>(weights[i]);
  }
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
         ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

float divisor_of(double temperature) {
  return static_cast<float>(std::clamp<double>(temperature, FLT_MIN, FLT_MAX));
}

// weights[i] = p_i / p_max after the temperature, so the best weighs exactly 1.
void set_weights(std::span<const float> logits, float max_logit, double temperature,
                 std::vector<float>& weights) {
  const float divisor = divisor_of(temperature);
  weights.resize(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    weights[i] = exp_nonpositive((logits[i] - max_logit) / divisor);
  }
}

void keep_top_p(std::span<const float> logits, KeyRange range, double top_p,
                std::vector<float>& weights) {
  const Cut cut =
      find_cut(logits, range, top_p * sum(weights), [&](std::size_t i) { return weights[i]; });
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = cut.keeps(logits[i], i) ? weights[i] : 0.0f;
  }
}

void keep_at_least(float least, std::vector<float>& weights) {
  for (float& weight : weights) weight = weight >= least ? weight : 0.0f;
}

// The smallest float32 that is >= x, so that comparing weights with it is comparing them with x.
float round_up(double x) {
  const auto rounded = static_cast<float>(x);
  return static_cast<double>(rounded) < x ? std::nextafter(rounded, kInfinity) : rounded;
}

// The index where the running sum of the weights first exceeds uniform * total: blocks first, then
// inside one block. Always an index whose weight is positive; at least one must be.
std::size_t draw(std::span<const float> weights, double uniform) {
  constexpr std::size_t kBlock = 512;
  thread_local std::vector<double> block_sums;
  block_sums.clear();
  double total = 0.0;
  for (std::size_t begin = 0; begin < weights.size(); begin += kBlock) {
    const double block_sum = sum(weights.subspan(begin, std::min(kBlock, weights.size() - begin)));
    block_sums.push_back(block_sum);
    total += block_sum;
  }
  const double target = uniform * total;
  double mass_before = 0.0;
  std::size_t chosen_block = 0;
  double mass_before_chosen = 0.0;
  for (std::size_t block = 0; block < block_sums.size(); ++block) {
    if (block_sums[block] == 0.0) continue;
    chosen_block = block;
    mass_before_chosen = mass_before;
    mass_before += block_sums[block];
    if (mass_before > target) break;
  }
  double mass = mass_before_chosen;
  std::size_t chosen = chosen_block * kBlock;
  const std::size_t end = std::min(chosen + kBlock, weights.size());
  for (std::size_t i = chosen; i < end; ++i) {
    if (weights[i] == 0.0f) continue;
    chosen = i;
    mass += static_cast<double>(weights[i]);
    if (mass > target) break;
  }
  return chosen;
}

std::size_t first_best(std::span<const float> logits, float max_logit) {
  const auto best = std::ranges::find(logits, max_logit);
  return static_cast<std::size_t>(best - logits.begin());
}

float logit_of(std::int32_t key) { return std::bit_cast<float>(key ^ ((key >> 31) & 0x7fffffff)); }

}  // namespace

std::int32_t sample(std::span<const float> logits, const SamplingSettings& settings,
                    double uniform) {
  check_settings(settings, uniform);
  KeyRange range = checked_range(logits);
  const float max_logit = logit_of(range.highest);
  if (settings.temperature == 0.0) {
    return static_cast<std::int32_t>(first_best(logits, max_logit));
  }

  thread_local std::vector<std::int32_t> ids;
  thread_local std::vector<float> kept_logits;
  thread_local std::vector<float> weights;
  const auto top_k = static_cast<std::size_t>(settings.top_k);
  const bool is_top_k = top_k > 0 && top_k < logits.size();
  if (is_top_k) {
    select_top_k(logits, range, top_k, ids);
    kept_logits.clear();
    for (const std::int32_t id : ids) kept_logits.push_back(logits[static_cast<std::size_t>(id)]);
    logits = kept_logits;
  }
  set_weights(logits, max_logit, settings.temperature, weights);
  // Logits this low have no weight, so they need not spread the range.
  const float weightless = max_logit + 1.01f * kExpUnderflow * divisor_of(settings.temperature);
  range.lowest = std::max(range.lowest, key_of(weightless));
  if (settings.top_p < 1.0) keep_top_p(logits, range, settings.top_p, weights);
  // With weights relative to the best, p < min_p * p_max is weight < min_p, and
  // p < top_a * p_max^2 is weight < top_a / (sum of the weights left). Both are at most 1, the
  // best.
  const double least_a = settings.top_a > 0.0 ? settings.top_a / sum(weights) : 0.0;
  const double least = std::max(least_a, settings.min_p);
  if (least > 0.0) keep_at_least(round_up(least), weights);
  const std::size_t drawn = draw(weights, uniform);
  return is_top_k ? ids[drawn] : static_cast<std::int32_t>(drawn);
}

TopLogprobs top_logprobs(std::span<const float> logits, std::int64_t count) {
  if (count < 0) {
    throw std::invalid_argument("count: expected >= 0, got " + std::to_string(count));
  }
  const KeyRange range = checked_range(logits);
  const float max_logit = logit_of(range.highest);
  thread_local std::vector<float> weights;
  set_weights(logits, max_logit, 1.0, weights);

  TopLogprobs result;
  result.logsumexp = static_cast<double>(max_logit) + std::log(sum(weights));
  if (count == 0) return result;
  const auto k = std::min(static_cast<std::size_t>(count), logits.size());
  select_top_k(logits, range, k, result.ids);
  const auto logit_at = [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; };
  std::ranges::stable_sort(result.ids, std::ranges::greater{}, logit_at);
  for (const std::int32_t id : result.ids) {
    const double logprob = static_cast<double>(logit_at(id)) - result.logsumexp;
    result.logprobs.push_back(static_cast<float>(logprob));
  }
  return result;
}

}  // namespace nestling
