#include "sampling/selection.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace nestling {

namespace {

constexpr std::size_t kTile = 2048;  // tokens whose buckets fit the first-level cache

constexpr std::size_t kLeastSampled = 8 * Selection::kSampleSize;  // smaller vocabularies are not

constexpr std::uint32_t kNumSamples = 3;  // taken one after the other, until one is right

// Standard errors between an estimate and what is taken for sure: one in 370 is further off.
constexpr double kErrors = 3.0;

// Whether an estimate is too far from a mass for chance.
bool is_far(double estimate, double mass, double variance) {
  return (estimate - mass) * (estimate - mass) >= kErrors * kErrors * variance;
}

// Ascending by order; `spare` is as long and is overwritten.
void radix_sort(std::span<Selection::Sampled> values, std::span<Selection::Sampled> spare) {
  for (int shift = 0; shift < 32; shift += 8) {
    std::array<std::uint32_t, 257> starts{};
    for (const auto& value : values) ++starts[((value.order >> shift) & 0xffu) + 1];
    for (std::size_t digit = 1; digit < starts.size(); ++digit) starts[digit] += starts[digit - 1];
    for (const auto& value : values) spare[starts[(value.order >> shift) & 0xffu]++] = value;
    std::swap(values, spare);  // an even number of times
  }
}

constexpr std::uint32_t kSignBit = 0x80000000u;

std::uint32_t order_of(std::int32_t key) { return static_cast<std::uint32_t>(key) ^ kSignBit; }
std::int32_t key_of_order(std::uint32_t order) {
  return static_cast<std::int32_t>(order ^ kSignBit);
}

}  // namespace

Selection::Selection(std::span<const float> logits, const float* weights, std::int32_t lowest,
                     std::int32_t highest, const SamplingKernels& passes, Scratch& scratch)
    : logits_(logits),
      weights_(weights),
      passes_(passes),
      scratch_(scratch),
      all_{lowest, highest},
      open_(all_) {
  grow(scratch_.members, logits.size());
}

Cut Selection::find(double target, double total) {
  // So that an empty bucket never reaches it.
  target_ = std::max(target, std::numeric_limits<double>::min());
  if (logits_.size() >= kLeastSampled) {
    for (std::uint32_t seed = 0; seed < kNumSamples && open_.lowest <= open_.highest; ++seed) {
      if (narrow_by_sample(total, seed)) return finish();
    }
  }
  mass_above_ = 0.0;
  narrow_all();
  return finish();
}

Cut Selection::finish() {
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

// Adds the ids of a block whose keys are in a range to the first `num_ids` members; how many then.
std::size_t Selection::append_ids(std::size_t block, Range range, std::size_t num_ids) {
  const std::size_t begin = block * kBlock;
  const std::size_t end = std::min(begin + kBlock, logits_.size());
  return num_ids + passes_.ids_between(logits_.data(), begin, end, logit_of(range.lowest),
                                       logit_of(range.highest), scratch_.members.data() + num_ids,
                                       nullptr);
}

Cut Selection::find_few(std::size_t k, std::span<const float> maxima) {
  target_ = static_cast<double>(k);
  scratch_.maxima.assign(maxima.begin(), maxima.end());
  const auto kth = scratch_.maxima.begin() + static_cast<std::ptrdiff_t>(k) - 1;
  std::ranges::nth_element(scratch_.maxima, kth, std::ranges::greater{});
  const float bound = *kth;
  const Range better{key_of(bound) + 1, all_.highest};
  std::size_t num_better = 0;
  for (std::size_t block = 0; block < maxima.size(); ++block) {
    if (maxima[block] > bound) num_better = append_ids(block, better, num_better);
  }
  members_ = {scratch_.members.data(), num_better};
  if (num_better >= k) {
    set_range(better);
    narrow_members();
    return finish();
  }
  if (bound == -kInfinity) {  // which is never selected: all others are
    return {better.lowest, logits_.size(), static_cast<double>(num_better)};
  }
  Cut cut{key_of(bound), logits_.size(), target_};
  const Range equal{cut.key, cut.key};
  std::size_t num_found = num_better;
  for (std::size_t block = 0; num_found < k; ++block) {
    if (maxima[block] < bound) continue;
    const std::size_t num_ids = append_ids(block, equal, num_better) - num_better;
    if (num_found + num_ids >= k) {
      cut.last_index = scratch_.members[num_better + (k - num_found) - 1];
    }
    num_found += num_ids;
  }
  return cut;
}

// One token of each of 2,048 stretches, at a pseudo-random place (Numerical Recipes' generator).
void Selection::take_sample(std::uint32_t seed) {
  const std::size_t stretch = logits_.size() / kSampleSize;
  std::uint32_t random = seed;
  for (std::size_t i = 0; i < kSampleSize; ++i) {
    random = random * 1664525u + 1013904223u;
    const std::size_t token = i * stretch + (std::uint64_t{random} * stretch >> 32);
    scratch_.sample[i] = {order_of(key_of(logits_[token])), static_cast<float>(mass_of(token))};
  }
  radix_sort(scratch_.sample, scratch_.sorting);
}

// Keys between which the target is crossed, judged from both ends of the sorted sample: the mass
// that goes is estimated well although a few heavy tokens may stay unseen, as those are not among
// it; the mass that stays, if it is a small part of nearly equal ones.
Selection::Range Selection::likely_range(double total) const {
  const double scale = static_cast<double>(logits_.size()) / static_cast<double>(kSampleSize);
  const double rest = total - target_;
  std::uint32_t lowest = order_of(all_.lowest);
  std::uint32_t highest = order_of(all_.highest);
  double below = 0.0;  // mass up to and with a token
  double variance = 0.0;
  for (const Sampled& token : scratch_.sample) {
    const double mass = scale * static_cast<double>(token.mass);
    below += mass;
    variance += mass * mass;
    if (!is_far(below, rest, variance)) continue;
    if (below > rest) {
      highest = std::min(highest, token.order);
      break;
    }
    lowest = std::max(lowest, token.order);
  }
  double above = 0.0;  // mass from a token on
  for (std::size_t i = kSampleSize; i-- > 0;) {
    const Sampled& token = scratch_.sample[i];
    above += scale * static_cast<double>(token.mass);
    if (!is_far(above, target_, scale * std::max(above, target_))) continue;  // no mass exceeds 1
    if (above > target_) {
      lowest = std::max(lowest, token.order);
      break;
    }
    highest = std::min(highest, token.order);
  }
  const auto clamped = [&](std::uint32_t order) {
    return std::clamp(key_of_order(order), open_.lowest, open_.highest);
  };
  return {clamped(std::min(lowest, highest)), clamped(std::max(lowest, highest))};
}

// Leaves the members of a range that the sample proposes; false if the target is not crossed there,
// or there would be too many. Tokens at either end of the range are looked at only if need be:
// there may be as many as all.
bool Selection::narrow_by_sample(double total, std::uint32_t seed) {
  take_sample(seed);
  const Range range = likely_range(total);
  const auto num_inside = std::ranges::count_if(scratch_.sample, [&](const Sampled& token) {
    const std::int32_t key = key_of_order(token.order);
    return key > range.lowest && key < range.highest;
  });
  if (num_inside > static_cast<std::ptrdiff_t>(kSampleSize / 4)) return false;
  const Split split =
      passes_.split(logits_.data(), weights_, logits_.size(), logit_of(range.lowest),
                    logit_of(range.highest), scratch_.members.data());
  const bool is_reached = split.mass >= target_;
  if (is_reached || range.lowest == range.highest) {
    mass_above_ = split.mass - take_equals(range.highest);
    if ((is_reached || range.lowest == open_.lowest) && mass_above_ < target_) return true;
    (is_reached ? open_.lowest : open_.highest) = is_reached ? range.highest + 1 : range.lowest - 1;
    return false;
  }
  mass_above_ = split.mass;
  members_ = {scratch_.members.data(), split.num_inside};
  set_range({range.lowest + 1, range.highest - 1});
  if (narrow_members()) return true;
  mass_above_ += scratch_.histogram[0];
  const double mass_of_equals = take_equals(range.lowest);
  if (mass_above_ + mass_of_equals >= target_ || range.lowest == open_.lowest) return true;
  open_.highest = range.lowest - 1;
  return false;
}

// Leaves the tokens of one key that have mass, the first of them if top_k dropped the others; their
// mass.
double Selection::take_equals(std::int32_t key) {
  const float logit = logit_of(key);
  const std::size_t num_equals = passes_.ids_between(logits_.data(), 0, logits_.size(), logit,
                                                     logit, scratch_.members.data(), nullptr);
  members_ = {scratch_.members.data(), num_equals};
  const auto has_mass = [&](std::uint32_t i) { return mass_of(i) > 0.0; };
  const auto end = std::ranges::partition_point(members_, has_mass);
  members_ = members_.first(static_cast<std::size_t>(end - members_.begin()));
  set_range({key, key});
  if (members_.empty()) return 0.0;
  return static_cast<double>(members_.size()) * mass_of(members_.front());
}

void Selection::narrow_all() {
  set_range(all_);
  std::array<std::uint16_t, kTile> buckets;
  scratch_.histogram.clear();
  for (std::size_t begin = 0; begin < logits_.size(); begin += kTile) {
    const std::size_t count = std::min(kTile, logits_.size() - begin);
    passes_.buckets_of(&logits_[begin], count, lowest_, shift_, buckets.data());
    for (std::size_t i = 0; i < count; ++i) {
      scratch_.histogram.add(buckets[i], i, mass_of(begin + i));
    }
  }
  raise_lowest(crossing_bucket());
  const std::int64_t end = std::int64_t{lowest_} + (std::int64_t{1} << shift_);
  const auto highest = static_cast<std::int32_t>(std::min<std::int64_t>(end - 1, all_.highest));
  const std::size_t num_members =
      passes_.ids_between(logits_.data(), 0, logits_.size(), logit_of(lowest_), logit_of(highest),
                          scratch_.members.data(), nullptr);
  members_ = {scratch_.members.data(), num_members};
}

// Leaves the members of one bucket: of the last, though false, if they do not reach the target.
bool Selection::narrow_members() {
  scratch_.histogram.clear();
  for (const std::uint32_t i : members_) scratch_.histogram.add(bucket_at(i), i, mass_of(i));
  const std::size_t bucket = crossing_bucket();
  const bool is_reached = mass_above_ + scratch_.histogram[bucket] >= target_;
  std::size_t num_members = 0;
  for (const std::uint32_t i : members_) {
    members_[num_members] = i;  // stays if it is inside
    num_members += bucket_at(i) == bucket ? 1 : 0;
  }
  members_ = members_.first(num_members);
  raise_lowest(bucket);
  return is_reached;
}

// Spans the members' keys; false if they are all equal.
bool Selection::range_members() {
  Range range{std::numeric_limits<std::int32_t>::max(), lowest_};
  for (const std::uint32_t i : members_) {
    const std::int32_t key = key_of(logits_[i]);
    range.lowest = smaller(range.lowest, key);
    range.highest = larger(range.highest, key);
  }
  if (members_.empty()) return false;
  set_range(range);
  return range.lowest < range.highest;
}

void Selection::set_range(Range range) {
  const std::uint32_t width =
      static_cast<std::uint32_t>(range.highest) - static_cast<std::uint32_t>(range.lowest);
  lowest_ = range.lowest;
  shift_ = std::max(0, static_cast<int>(std::bit_width(width)) - kDigitBits);
}

std::size_t Selection::crossing_bucket() {
  std::size_t bucket = kNumBuckets - 1;
  while (bucket > 0 && mass_above_ + scratch_.histogram[bucket] < target_) {
    mass_above_ += scratch_.histogram[bucket];
    --bucket;
  }
  return bucket;
}

void Selection::raise_lowest(std::size_t bucket) {
  lowest_ = static_cast<std::int32_t>(static_cast<std::uint32_t>(lowest_) +
                                      (static_cast<std::uint32_t>(bucket) << shift_));
}

}  // namespace nestling
