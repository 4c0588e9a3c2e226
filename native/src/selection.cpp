#include "selection.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace nestling {

namespace {

constexpr std::size_t kTile = 2048;  // tokens whose buckets fit the first-level cache

constexpr std::size_t kLeastSampled = 8 * Selection::kSampleSize;  // smaller vocabularies are not

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
                     std::int32_t highest, const KernelTable& passes, Scratch& scratch)
    : logits_(logits),
      weights_(weights),
      passes_(passes),
      scratch_(scratch),
      all_{lowest, highest} {
  grow(scratch_.members, logits.size());
}

Cut Selection::find(double target, double total) {
  // So that an empty bucket never reaches it.
  target_ = std::max(target, std::numeric_limits<double>::min());
  if (!narrow_by_sample(total)) narrow_all();
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

// Every so many tokens one, by an odd step, which is no multiple of a pattern's likely length.
void Selection::take_sample() {
  const std::size_t step = (logits_.size() / kSampleSize - 1) | 1;
  for (std::size_t i = 0; i < kSampleSize; ++i) {
    scratch_.sample[i] = {order_of(key_of(logits_[i * step])),
                          static_cast<float>(mass_of(i * step))};
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
    return std::clamp(key_of_order(order), all_.lowest, all_.highest);
  };
  return {clamped(std::min(lowest, highest)), clamped(std::max(lowest, highest))};
}

// Leaves the members of a range that the sample proposes; false, and nothing done, if the target is
// not crossed there or there would be too many.
bool Selection::narrow_by_sample(double total) {
  if (logits_.size() < kLeastSampled) return false;
  take_sample();
  const Range range = likely_range(total);
  const auto num_sampled = std::ranges::count_if(scratch_.sample, [&](const Sampled& token) {
    const std::int32_t key = key_of_order(token.order);
    return key >= range.lowest && key <= range.highest;
  });
  const bool are_equal = range.lowest == range.highest;
  if (!are_equal && num_sampled > static_cast<std::ptrdiff_t>(kSampleSize / 4)) return false;
  const RangeMass mass =
      passes_.mass_of_range(logits_.data(), weights_, logits_.size(), range.lowest, range.highest);
  const bool reaches = mass.with_range >= target_ || range.lowest == all_.lowest;
  if (mass.above_range >= target_ || !reaches) return false;

  std::uint32_t* const members = scratch_.members.data();
  const std::size_t num_members = passes_.ids_between(
      logits_.data(), 0, logits_.size(), range.lowest, range.highest, members, nullptr);
  members_ = {members, num_members};
  mass_above_ = mass.above_range;
  set_range(range);
  if (!are_equal) narrow_members();
  return true;
}

void Selection::narrow_all() {
  set_range(all_);
  std::array<std::uint16_t, kTile> buckets;
  const auto for_tiles = [&](const auto& visit) {
    for (std::size_t begin = 0; begin < logits_.size(); begin += kTile) {
      const std::size_t count = std::min(kTile, logits_.size() - begin);
      passes_.buckets_of(&logits_[begin], count, lowest_, shift_, buckets.data());
      visit(begin, count);
    }
  };
  scratch_.histogram.clear();
  for_tiles([&](std::size_t begin, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      scratch_.histogram.add(buckets[i], i, mass_of(begin + i));
    }
  });
  const std::size_t bucket = crossing_bucket();
  std::uint32_t* const members = scratch_.members.data();
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

void Selection::narrow_members() {
  scratch_.histogram.clear();
  for (const std::uint32_t i : members_) scratch_.histogram.add(bucket_at(i), i, mass_of(i));
  const std::size_t bucket = crossing_bucket();
  std::size_t num_members = 0;
  for (const std::uint32_t i : members_) {
    members_[num_members] = i;  // stays if it is inside
    num_members += bucket_at(i) == bucket ? 1 : 0;
  }
  members_ = members_.first(num_members);
  raise_lowest(bucket);
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
