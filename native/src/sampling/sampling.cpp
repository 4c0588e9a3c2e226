#include "nestling/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <string>
#include <vector>

#include "sampling/logit_keys.h"
#include "sampling/sampling_kernels.h"
#include "sampling/selection.h"

namespace nestling {

namespace {

// Memory that a thread keeps between calls, so that none is allocated for a token.
struct Scratch {
  Selection::Scratch selection;
  std::vector<float> maxima;            // of the logits' blocks
  std::vector<std::uint32_t> kept_ids;  // these three at least vocab_size long
  std::vector<float> kept_logits;
  std::vector<float> weights;
  std::vector<double> block_sums;
};

Scratch& scratch_of_thread() {
  thread_local Scratch scratch;
  return scratch;
}

// Logits with the largest of each block; `maxima` is empty if they are not known.
struct Field {
  std::span<const float> logits;
  std::span<const float> maxima;
  float max_logit;
};

// Throws if a logit is NaN or +inf, or none is finite.
Field checked_field(std::span<const float> logits, const SamplingKernels& passes,
                    Scratch& scratch) {
  if (logits.empty()) throw std::invalid_argument("logits: expected at least one, got none");
  const std::size_t num_blocks = (logits.size() + kBlock - 1) / kBlock;
  grow(scratch.maxima, num_blocks);
  const bool are_numbers = passes.block_maxima(logits.data(), logits.size(), scratch.maxima.data());
  const std::span<const float> maxima(scratch.maxima.data(), num_blocks);
  const float max_logit = std::ranges::max(maxima);
  if (!are_numbers || max_logit == kInfinity) {
    const auto bad = std::ranges::find_if(logits, [](float x) { return !(x < kInfinity); });
    throw std::invalid_argument(
        "logits: expected finite numbers or -inf, got NaN or +inf at token " +
        std::to_string(bad - logits.begin()));
  }
  if (max_logit == -kInfinity) {
    throw std::invalid_argument("logits: all are -inf, nothing can be drawn");
  }
  return {logits, maxima, max_logit};
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

// Where the k best end; k >= 1. -inf is never among them.
Cut cut_of_top_k(const Field& field, std::size_t k, const SamplingKernels& passes,
                 Scratch& scratch) {
  Selection selection(field.logits, nullptr, key_of(-kInfinity) + 1, key_of(field.max_logit),
                      passes, scratch.selection);
  if (k <= field.maxima.size() / 4) return selection.find_few(k, field.maxima);
  return selection.find(static_cast<double>(k), static_cast<double>(field.logits.size()));
}

// Calls visit(begin, end, least_logit) for the blocks with logits that a cut leaves: the tokens
// from `least_logit` on in [begin, end). A block has two such pieces where the cut's equals end.
template <class Visit>
void for_kept_blocks(const Field& field, const Cut& cut, const Visit& visit) {
  const float equal = logit_of(cut.key);
  const float better = logit_of(cut.key + 1);
  const std::size_t size = field.logits.size();
  const std::size_t ties_end = std::min(cut.last_index, size - 1) + 1;
  for (std::size_t begin = 0; begin < size; begin += kBlock) {
    if (!field.maxima.empty() && field.maxima[begin / kBlock] < equal) continue;
    const std::size_t end = std::min(begin + kBlock, size);
    const std::size_t split = std::clamp(ties_end, begin, end);
    if (split > begin) visit(begin, split, equal);
    if (end > split) visit(split, end, better);
  }
}

// Ids of what a cut leaves, ascending, in the scratch, as are their logits.
std::span<const std::uint32_t> gather(const Field& field, const Cut& cut,
                                      const SamplingKernels& passes, Scratch& scratch) {
  grow(scratch.kept_ids, field.logits.size());
  grow(scratch.kept_logits, field.logits.size());
  std::uint32_t* const ids = scratch.kept_ids.data();
  float* const values = scratch.kept_logits.data();
  std::size_t num_kept = 0;
  for_kept_blocks(field, cut, [&](std::size_t begin, std::size_t end, float least_logit) {
    num_kept += passes.ids_between(field.logits.data(), begin, end, least_logit, field.max_logit,
                                   ids + num_kept, values + num_kept);
  });
  return {ids, num_kept};
}

// The smallest float32 that is >= x, so that comparing weights with it is comparing them with x.
float round_up(double x) {
  const auto rounded = static_cast<float>(x);
  return static_cast<double>(rounded) < x ? std::nextafter(rounded, kInfinity) : rounded;
}

// How logits are weighed at a temperature. Those below e^-87 of the best have no weight.
Weighing weighing_at(double temperature, float max_logit) {
  using Float = std::numeric_limits<float>;
  const double divisor = std::clamp<double>(temperature, Float::min(), Float::max());
  const double reach = std::min<double>(87.0 * divisor, Float::max());
  const double least = std::max<double>(static_cast<double>(max_logit) - reach, Float::lowest());
  return {max_logit, static_cast<float>(std::numbers::log2e / divisor), round_up(least)};
}

// The index where the running sum of the weights first exceeds uniform * total: blocks first, then
// inside one block. Always an index whose weight is positive; there must be one.
template <class WeightAt>
std::size_t draw(double uniform, std::size_t num_weights, const WeightAt& weight_at,
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
  std::size_t chosen = chosen_block * kBlock;
  const std::size_t end = std::min(chosen + kBlock, num_weights);
  for (std::size_t i = chosen; i < end; ++i) {
    const float weight = weight_at(i);
    if (weight == 0.0f) continue;
    chosen = i;
    mass += static_cast<double>(weight);
    if (mass > target) break;
  }
  return chosen;
}

std::int32_t first_best(const Field& field) {
  const auto block = std::ranges::find(field.maxima, field.max_logit) - field.maxima.begin();
  const auto best = std::find(field.logits.begin() + block * static_cast<std::ptrdiff_t>(kBlock),
                              field.logits.end(), field.max_logit);
  return static_cast<std::int32_t>(best - field.logits.begin());
}

// Weighs what a cut leaves, in the scratch; the sum.
double weigh(const Field& field, const Cut& cut, const Weighing& weighing,
             const SamplingKernels& passes, Scratch& scratch) {
  const std::span<const float> logits = field.logits;
  grow(scratch.weights, logits.size());
  float* const weights = scratch.weights.data();
  const auto weigh_from = [&](std::size_t begin, std::size_t end, float least_logit) {
    Weighing piece = weighing;
    piece.least_logit = std::max(weighing.least_logit, least_logit);
    return passes.weights_of(logits.data() + begin, end - begin, piece, weights + begin);
  };
  const std::size_t ties_end = std::min(cut.last_index, logits.size() - 1) + 1;
  return weigh_from(0, ties_end, logit_of(cut.key)) +
         weigh_from(ties_end, logits.size(), logit_of(cut.key + 1));
}

// Draws among what a cut leaves, after the temperature; its index.
std::size_t draw_filtered(const Field& field, Cut cut, const SamplingSettings& settings,
                          double uniform, const SamplingKernels& passes, Scratch& scratch) {
  const Weighing weighing = weighing_at(settings.temperature, field.max_logit);
  cut.mass = weigh(field, cut, weighing, passes, scratch);
  float* const weights = scratch.weights.data();
  if (settings.top_p < 1.0) {
    Selection selection(field.logits, weights, larger(cut.key, key_of(weighing.least_logit)),
                        key_of(field.max_logit), passes, scratch.selection);
    cut = selection.find(settings.top_p * cut.mass, cut.mass);
  }
  // Weights are relative to the best. So p < min_p * p_max is weight < min_p, and
  // p < top_a * p_max^2 is weight < top_a / (mass left); neither bound exceeds 1, the best's
  // weight.
  const float least_weight = round_up(std::max(settings.top_a / cut.mass, settings.min_p));
  scratch.block_sums.assign((field.logits.size() + kBlock - 1) / kBlock, 0.0);
  for_kept_blocks(field, cut, [&](std::size_t begin, std::size_t end, float least_logit) {
    scratch.block_sums[begin / kBlock] += passes.sum_kept(
        field.logits.data() + begin, weights + begin, end - begin, least_logit, least_weight);
  });
  const auto weight_at = [&](std::size_t i) {
    const std::int32_t key = key_of(field.logits[i]);
    const bool is_kept = key > cut.key || (key == cut.key && i <= cut.last_index);
    return is_kept && weights[i] >= least_weight ? weights[i] : 0.0f;
  };
  return draw(uniform, field.logits.size(), weight_at, scratch.block_sums);
}

}  // namespace

std::int32_t sample(std::span<const float> logits, const SamplingSettings& settings,
                    double uniform) {
  check_settings(settings, uniform);
  const SamplingKernels& passes = sampling_kernels(best_variant());
  Scratch& scratch = scratch_of_thread();
  const Field field = checked_field(logits, passes, scratch);
  if (settings.temperature == 0.0) return first_best(field);

  const auto top_k = static_cast<std::size_t>(settings.top_k);
  Cut cut;
  if (top_k > 0 && top_k < logits.size()) cut = cut_of_top_k(field, top_k, passes, scratch);
  // Weighing all is faster than gathering most.
  if (cut.key == key_of(-kInfinity) || top_k > logits.size() / 2) {
    return static_cast<std::int32_t>(draw_filtered(field, cut, settings, uniform, passes, scratch));
  }
  const auto ids = gather(field, cut, passes, scratch);
  const Field gathered{{scratch.kept_logits.data(), ids.size()}, {}, field.max_logit};
  return static_cast<std::int32_t>(
      ids[draw_filtered(gathered, Cut{}, settings, uniform, passes, scratch)]);
}

TopLogprobs top_logprobs(std::span<const float> logits, std::int64_t count) {
  if (count < 0) {
    throw std::invalid_argument("count: expected >= 0, got " + std::to_string(count));
  }
  const SamplingKernels& passes = sampling_kernels(best_variant());
  Scratch& scratch = scratch_of_thread();
  const Field field = checked_field(logits, passes, scratch);
  const double mass = weigh(field, Cut{}, weighing_at(1.0, field.max_logit), passes, scratch);

  TopLogprobs result;
  result.logsumexp = static_cast<double>(field.max_logit) + std::log(mass);
  if (count == 0) return result;
  const auto k = std::min(static_cast<std::size_t>(count), logits.size());
  const auto ids = gather(field, cut_of_top_k(field, k, passes, scratch), passes, scratch);
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
