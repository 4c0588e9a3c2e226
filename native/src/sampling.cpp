#include "nestling/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "exp.h"
#include "kernel_table.h"
#include "logit_keys.h"
#include "selection.h"

namespace nestling {

namespace {

// Memory that a thread keeps between calls, so that none is allocated for a token.
struct Scratch {
  Selection::Scratch selection;
  std::vector<std::uint32_t> kept_ids;  // these three at least vocab_size long
  std::vector<float> kept_logits;
  std::vector<float> weights;
  std::vector<double> block_sums;
};

Scratch& scratch_of_thread() {
  thread_local Scratch scratch;
  return scratch;
}

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

// Ids of the k best, ascending, in the scratch, as are their logits; k >= 1. -inf is never among
// them.
std::span<const std::uint32_t> select_top_k(std::span<const float> logits, const KeyExtent& extent,
                                            std::size_t k, const KernelTable& passes,
                                            Scratch& scratch) {
  Selection selection(logits, nullptr, extent.lowest_finite, extent.highest, passes,
                      scratch.selection);
  const Cut cut = selection.find(static_cast<double>(k), static_cast<double>(logits.size()));
  grow(scratch.kept_ids, logits.size());
  grow(scratch.kept_logits, logits.size());
  std::uint32_t* const ids = scratch.kept_ids.data();
  float* const values = scratch.kept_logits.data();
  const std::size_t ties_end = std::min(cut.last_index + 1, logits.size());
  std::size_t num_kept =
      passes.ids_between(logits.data(), 0, ties_end, cut.key, extent.highest, ids, values);
  if (cut.key < extent.highest) {
    num_kept += passes.ids_between(logits.data(), ties_end, logits.size(), cut.key + 1,
                                   extent.highest, ids + num_kept, values + num_kept);
  }
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
std::size_t draw(double uniform, std::span<const float> weights,
                 std::span<const double> block_sums) {
  double total = 0.0;
  for (const double block_sum : block_sums) total += block_sum;
  const double target = uniform * total;
  double mass = 0.0;
  double mass_before_block = 0.0;
  std::size_t chosen_block = 0;
  for (std::size_t block = 0; block < block_sums.size(); ++block) {
    if (block_sums[block] == 0.0) continue;
    chosen_block = block;
    mass_before_block = mass;
    mass += block_sums[block];
    if (mass > target) break;
  }
  mass = mass_before_block;
  std::size_t chosen = chosen_block * kDrawBlock;
  const std::size_t end = std::min(chosen + kDrawBlock, weights.size());
  for (std::size_t i = chosen; i < end; ++i) {
    if (weights[i] == 0.0f) continue;
    chosen = i;
    mass += static_cast<double>(weights[i]);
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
  grow(scratch.weights, logits.size());
  Cut cut;
  cut.mass =
      passes.weights_of(logits.data(), logits.size(), max_logit, divisor, scratch.weights.data());
  if (settings.top_p < 1.0) {
    // Logits this low have no weight; leaving them out narrows the range.
    const std::int32_t weightless = key_of(max_logit + 1.01f * kExpUnderflow * divisor);
    Selection selection(logits, scratch.weights.data(), std::max(extent.lowest_finite, weightless),
                        extent.highest, passes, scratch.selection);
    cut = selection.find(settings.top_p * cut.mass, cut.mass);
  }
  // Weights are relative to the best. So p < min_p * p_max is weight < min_p, and
  // p < top_a * p_max^2 is weight < top_a / (mass left); neither bound exceeds 1, the best's
  // weight.
  const double least_weight = std::max(settings.top_a / cut.mass, settings.min_p);
  keep_and_sum(logits, cut, round_up(least_weight), passes, scratch);
  return draw(uniform, {scratch.weights.data(), logits.size()}, scratch.block_sums);
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
  const std::span<const float> kept_logits(scratch.kept_logits.data(), ids.size());
  return static_cast<std::int32_t>(
      ids[draw_filtered(kept_logits, extent, settings, uniform, passes, scratch)]);
}

TopLogprobs top_logprobs(std::span<const float> logits, std::int64_t count) {
  if (count < 0) {
    throw std::invalid_argument("count: expected >= 0, got " + std::to_string(count));
  }
  const KernelTable& passes = kernels(best_variant());
  const KeyExtent extent = checked_extent(logits, passes);
  const float max_logit = logit_of(extent.highest);
  Scratch& scratch = scratch_of_thread();
  grow(scratch.weights, logits.size());
  const double mass =
      passes.weights_of(logits.data(), logits.size(), max_logit, 1.0f, scratch.weights.data());

  TopLogprobs result;
  result.logsumexp = static_cast<double>(max_logit) + std::log(mass);
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
