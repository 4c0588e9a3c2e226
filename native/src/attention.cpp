#include "nestling/attention.h"

#include <algorithm>
#include <vector>

#include "kernel_table.h"

namespace nestling {

void attention(const AttentionInput& input, float* out, ThreadPool& pool, Variant variant) {
  const KernelTable& table = kernels(variant);
  std::size_t num_keys = 0;
  std::size_t most_keys = 0;
  for (std::size_t row = 0; row < input.num_rows; ++row) {
    const auto row_keys = static_cast<std::size_t>(input.row_end[row] - input.row_begin[row]);
    num_keys += row_keys;
    most_keys = std::max(most_keys, row_keys);
  }
  if (num_keys == 0) return;
  const std::size_t num_scores = most_keys * (input.num_heads / input.num_kv_heads);
  const std::size_t num_pairs = input.num_rows * input.num_kv_heads;
  const std::size_t products = 2 * num_keys * input.num_heads * input.head_dim;
  const std::size_t grain = kGrainProducts / (products / num_pairs + 1) + 1;
  pool.parallel_for(num_pairs, grain, [&](std::size_t begin, std::size_t end) {
    thread_local std::vector<float> scores;
    if (scores.size() < num_scores) scores.resize(num_scores);
    table.attention(input, out, scores.data(), begin, end);
  });
}

}  // namespace nestling
