#include "nestling/bandwidth.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "nestling/buffer.h"

namespace nestling {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kLineWords = 8;  // 64-bit words of one cache line
constexpr int kNumPasses = 6;

// Eight sums that do not wait for each other. Plain loads reach what AVX-512 ones do; reading from
// several places at once is slower.
std::uint64_t sum_lines(const std::uint64_t* words, std::size_t num_lines) {
  std::uint64_t sums[kLineWords] = {};
  for (std::size_t line = 0; line < num_lines; ++line) {
    for (std::size_t i = 0; i < kLineWords; ++i) sums[i] += words[line * kLineWords + i];
  }
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

double read_bandwidth(std::size_t num_bytes, ThreadPool& pool) {
  const std::size_t num_lines = num_bytes / (kLineWords * sizeof(std::uint64_t));
  const auto num_threads = static_cast<std::size_t>(pool.num_threads());
  if (num_lines < num_threads) {
    throw std::invalid_argument("num_bytes: expected at least 64 a thread, got " +
                                std::to_string(num_bytes));
  }
  Buffer buffer(num_bytes);
  auto* const words = buffer.as<std::uint64_t>();
  const std::size_t grain = (num_lines + num_threads - 1) / num_threads;
  pool.parallel_for(num_lines, grain, [words](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin * kLineWords; i < end * kLineWords; ++i) words[i] = 1;
  });

  std::atomic<std::uint64_t> total = 0;
  const auto read_all = [&] {
    pool.parallel_for(num_lines, grain, [words, &total](std::size_t begin, std::size_t end) {
      total += sum_lines(words + begin * kLineWords, end - begin);
    });
  };
  read_all();
  const Clock::time_point start = Clock::now();
  for (int pass = 0; pass < kNumPasses; ++pass) read_all();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (total != (kNumPasses + 1) * num_lines * kLineWords) {
    throw std::runtime_error("memory did not read back what was written");
  }
  return static_cast<double>(num_lines * kLineWords * sizeof(std::uint64_t)) * kNumPasses / seconds;
}

}  // namespace nestling
