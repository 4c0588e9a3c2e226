// Choosing a token from logits, and the best tokens with their log-probabilities.
//
// Everything is partial selection: time is linear in the vocabulary whatever the distribution, no
// call sorts more than the few tokens it returns and samples of 2,048. Results are deterministic,
// to the bit, and the same on every processor.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nestling {

// Neutral values switch a filter off: top_k 0, top_p 1, top_a 0, min_p 0.
struct SamplingSettings {
  double temperature = 1.0;  // >= 0; 0 is greedy
  std::int64_t top_k = 0;    // >= 0
  double top_p = 1.0;        // [0, 1]
  double top_a = 0.0;        // [0, 1]
  double min_p = 0.0;        // [0, 1]
};

// The id drawn from logits [vocab_size] by `uniform` in [0, 1), the inverse of the cumulative
// distribution over the survivors in ascending order of id. Filters act in this order:
//   temperature 0: the best id, and nothing else counts;
//   top_k: exactly k best; top_p: the fewest best tokens whose mass reaches top_p;
//   top_a: drops p < top_a * p_max^2 of what is left; min_p: drops p < min_p * p_max.
// Among equal logits lower ids are better. A logit of -inf is never drawn. Throws
// std::invalid_argument on NaN, +inf, no finite logit, or a setting out of its range.
std::int32_t sample(std::span<const float> logits, const SamplingSettings& settings,
                    double uniform);

struct TopLogprobs {
  double logsumexp = 0.0;  // logprob of any token: its logit minus this
  std::vector<std::int32_t> ids;
  std::vector<float> logprobs;
};

// The `count` likeliest tokens, best first, lower ids first among equals; fewer if fewer are
// finite. Throws as `sample` does.
TopLogprobs top_logprobs(std::span<const float> logits, std::int64_t count);

}  // namespace nestling
