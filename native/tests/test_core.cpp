// The thread pool, the sampler and the bandwidth meter under the sanitizers. What the sampler gives
// is tested from Python; here it is memory, arithmetic and threads that are watched, and the
// kernels of every variant compared with the portable ones.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "nestling/bandwidth.h"
#include "nestling/sampling.h"
#include "nestling/thread_pool.h"
#include "nestling/variant.h"
#include "sampling/logit_keys.h"
#include "sampling/sampling_kernels.h"

namespace nestling {

namespace {

using testing::throws;

std::vector<float> random_floats(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

void test_pool_covers_every_item_once() {
  for (const int num_threads : {1, 2, 5}) {
    ThreadPool pool(num_threads);
    for (const std::size_t count : {0u, 1u, 4u, 5u, 6u, 1000u}) {
      for (const std::size_t grain : {0u, 1u, 3u, 2000u}) {
        std::vector<int> visits(count, 0);
        pool.parallel_for(count, grain, [&](std::size_t begin, std::size_t end) {
          for (std::size_t i = begin; i < end; ++i) ++visits[i];
        });
        for (const int num_visits : visits) CHECK(num_visits == 1);
      }
    }
  }
}

void test_pool_passes_exceptions_on_and_goes_on_working() {
  ThreadPool pool(4);
  for (int round = 0; round < 50; ++round) {
    CHECK(throws<std::runtime_error>([&] {
      pool.parallel_for(100, 1, [](std::size_t begin, std::size_t) {
        if (begin > 0) throw std::runtime_error("a share failed");
      });
    }));
    std::atomic<std::size_t> sum = 0;
    pool.parallel_for(100, 1, [&](std::size_t begin, std::size_t end) { sum += end - begin; });
    CHECK(sum == 100);
  }
}

void test_pool_serves_several_callers() {
  ThreadPool pool(3);
  std::vector<std::thread> callers;
  std::atomic<std::size_t> sum = 0;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        pool.parallel_for(30, 1, [&](std::size_t begin, std::size_t end) { sum += end - begin; });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(sum == 4u * 200u * 30u);
}

void test_pool_takes_smaller_pieces_at_the_end() {
  ThreadPool pool(2);
  std::vector<std::size_t> sizes(100, 0);  // by where a piece begins
  pool.parallel_for(sizes.size(), 8,
                    [&](std::size_t begin, std::size_t end) { sizes[begin] = end - begin; });
  std::vector<std::size_t> pieces;
  std::copy_if(sizes.begin(), sizes.end(), std::back_inserter(pieces),
               [](auto n) { return n > 0; });
  CHECK(std::is_sorted(pieces.rbegin(), pieces.rend()));
  CHECK(pieces.front() == 8 && pieces.back() == 1);
}

void test_pool_runs_many_small_loops() {
  for (const int num_threads : {2, 3, 7}) {
    ThreadPool pool(num_threads);
    std::vector<std::uint64_t> cells(64, 0);
    for (std::uint64_t loop = 0; loop < 5000; ++loop) {
      // Each loop reads what the one before wrote, in another order and from other threads.
      pool.parallel_for(cells.size(), 1 + loop % 9, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) cells[i] += loop + 1;
      });
      if (loop % 1000 == 0)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));  // they sleep
    }
    for (const std::uint64_t cell : cells) CHECK(cell == 5000ull * 5001 / 2);
  }
}

void test_pool_names_its_threads() {
  ThreadPool pool(3);
  std::array<std::atomic<int>, 3> num_inside{};
  for (int round = 0; round < 300; ++round) {
    pool.parallel_for(50, 1, [&](std::size_t, std::size_t, std::size_t thread) {
      // A number belongs to one thread at a time, so its scratch does too.
      CHECK(thread < 3);
      CHECK(num_inside[thread].fetch_add(1) == 0);
      num_inside[thread].fetch_sub(1);
    });
  }
}

void test_pool_does_not_wait_for_late_threads() {
  ThreadPool pool(4);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // past their spinning
    std::atomic<std::size_t> sum = 0;
    // Over before a sleeper can come: it must neither be waited for nor see the next loop half
    // made.
    pool.parallel_for(2, 1, [&](std::size_t begin, std::size_t end) { sum += end - begin; });
    pool.parallel_for(3, 1, [&](std::size_t begin, std::size_t end) { sum += 10 * (end - begin); });
    CHECK(sum == 32);
  }
}

void test_pool_rethrows_the_first_of_several() {
  ThreadPool pool(4);
  for (int round = 0; round < 100; ++round) {
    std::string what;
    try {
      pool.parallel_for(64, 1, [](std::size_t begin, std::size_t) {
        if (begin % 2 == 1) throw std::runtime_error(std::to_string(begin));
      });
    } catch (const std::runtime_error& error) {
      what = error.what();
    }
    CHECK(what == "1");
  }
}

void test_pools_come_and_go() {
  for (int round = 0; round < 50; ++round) ThreadPool pool(1 + round % 6);
  CHECK(throws<std::invalid_argument>([] { ThreadPool pool(0); }));
  CHECK(throws<std::invalid_argument>([] { ThreadPool pool(ThreadPool::kMaxThreads + 1); }));
}

void test_sampling_of_odd_sizes_and_extreme_numbers() {
  for (const std::size_t size : {1u, 2u, 7u, 511u, 512u, 513u, 2047u, 2049u, 5000u}) {
    std::vector<float> logits = random_floats(size, 6);
    const float extremes[] = {-std::numeric_limits<float>::infinity(),
                              -0.0f,
                              3.4e38f,
                              -3.4e38f,
                              1e-45f,
                              -1e-45f,
                              0.0f,
                              5.0f};
    for (std::size_t i = 0; i < size / 2; ++i) logits[i * 2 + 1] = extremes[i % 8];
    for (const std::int64_t top_k : {0, 1, 40, 4999}) {
      for (const double top_p : {0.0, 0.5, 0.99, 1.0}) {
        for (const double temperature : {0.0, 1e-320, 1e-3, 1.0, 1e300}) {
          const SamplingSettings settings{temperature, top_k, top_p, 0.1, 0.01};
          for (const double uniform : {0.0, 0.5, 1.0 - 0x1p-53}) {
            const std::int32_t token = sample(logits, settings, uniform);
            CHECK(token >= 0 && static_cast<std::size_t>(token) < size);
            CHECK(std::isfinite(logits[static_cast<std::size_t>(token)]));
          }
        }
      }
    }
    CHECK(top_logprobs(logits, 20).ids.size() <= std::min<std::size_t>(size, 20));
  }
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// Random, tied, all equal, banned by bias, an outlier over a flat field, and extreme numbers.
std::vector<std::vector<float>> sampler_fields(std::size_t size) {
  const std::vector<float> random = random_floats(size, 8);
  std::vector<std::vector<float>> fields(6, random);
  for (float& x : fields[1]) x = std::round(x * 2.0f) / 2.0f;
  for (float& x : fields[2]) x = -1.25f;
  const float infinity = std::numeric_limits<float>::infinity();
  for (std::size_t i = 1; i < size; i += 3) fields[3][i] = -infinity;
  for (std::size_t i = 0; i < size; ++i) fields[4][i] = 5.0f + 1e-3f * random[i];
  fields[4][size / 2] = -20.0f;
  const float extremes[] = {3.4e38f, -infinity, -3.4e38f, 1e-45f, -1e-45f, 0.0f, -0.0f, 87.0f};
  for (std::size_t i = 0; i < size; ++i) fields[5][i] = extremes[i % 8];
  return fields;
}

float largest_of(const std::vector<float>& logits) { return *std::ranges::max_element(logits); }

void compare_maxima(const SamplingKernels& tested, const std::vector<float>& logits) {
  const std::size_t num_blocks = (logits.size() + kBlock - 1) / kBlock;
  std::vector<float> maxima(num_blocks), expected(num_blocks);
  CHECK(tested.block_maxima(logits.data(), logits.size(), maxima.data()));
  CHECK(sampling_kernels(Variant::kPortable)
            .block_maxima(logits.data(), logits.size(), expected.data()));
  CHECK(same_bits(maxima, expected));
  for (std::size_t block = 0; block < num_blocks; ++block) {
    const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(block * kBlock);
    const std::size_t size = std::min(kBlock, logits.size() - block * kBlock);
    CHECK(maxima[block] == *std::max_element(begin, begin + static_cast<std::ptrdiff_t>(size)));
    CHECK(maxima[block] != 0.0f || !std::signbit(maxima[block]));
  }
}

void compare_weights(const SamplingKernels& tested, const std::vector<float>& logits) {
  const SamplingKernels& exact = sampling_kernels(Variant::kPortable);
  const std::size_t size = logits.size();
  std::vector<float> weights(size), expected(size);
  for (const float factor : {1.44269504f, 2.1f, 1e38f, 4e-39f}) {
    const float best = largest_of(logits);
    const double reach = std::min<double>(125.0 / static_cast<double>(factor), 3.4e38);
    const auto weightless = static_cast<float>(std::max(best - reach, -3.4e38));
    for (const float least : {std::max(weightless, logits[size / 3]), weightless}) {
      const Weighing weighing{best, factor, least};
      const double sum = exact.weights_of(logits.data(), size, weighing, expected.data());
      CHECK(tested.weights_of(logits.data(), size, weighing, weights.data()) == sum);
      CHECK(same_bits(weights, expected));
      CHECK(largest_of(weights) == 1.0f);
      for (std::size_t i = 0; i < size; ++i) CHECK(logits[i] >= least || weights[i] == 0.0f);
      const float all = -kInfinity;
      CHECK(tested.sum_kept(logits.data(), weights.data(), size, all, 0.0f) == sum);
      CHECK(exact.sum_kept(logits.data(), weights.data(), size, all, 0.0f) == sum);
    }
  }
}

// Every kernel's results on one field, to the bit those of the portable variant.
void compare_with_portable(const SamplingKernels& tested, const std::vector<float>& logits) {
  compare_maxima(tested, logits);
  compare_weights(tested, logits);
  const SamplingKernels& exact = sampling_kernels(Variant::kPortable);
  const std::size_t size = logits.size();
  const float best = largest_of(logits);
  const float worst = *std::ranges::min_element(logits);
  std::vector<float> weights(size);
  const Weighing weighing{best, 1.44269504f, best - 87.0f};
  exact.weights_of(logits.data(), size, weighing, weights.data());

  const float middle = logits[size / 3];
  const float ranges[][2] = {{worst, best}, {middle, middle}, {middle, best},
                             {-0.5f, 0.5f}, {best, best},     {-0.0f, 0.0f}};
  for (const auto& [lowest, highest] : ranges) {
    for (const float* const masses :
         {static_cast<const float*>(nullptr), static_cast<const float*>(weights.data())}) {
      std::vector<std::uint32_t> ids(size), expected_ids;
      double mass = 0.0;
      for (std::size_t i = 0; i < size; ++i) {
        if (logits[i] >= highest) mass += masses == nullptr ? 1.0 : static_cast<double>(weights[i]);
        if (logits[i] > lowest && logits[i] < highest) {
          expected_ids.push_back(static_cast<std::uint32_t>(i));
        }
      }
      const Split expected = exact.split(logits.data(), masses, size, lowest, highest, ids.data());
      const Split found = tested.split(logits.data(), masses, size, lowest, highest, ids.data());
      CHECK(found.mass == expected.mass);
      CHECK(std::abs(found.mass - mass) <= 1e-12 * mass);
      CHECK(found.num_inside == expected_ids.size());
      CHECK(expected.num_inside == expected_ids.size());
      CHECK(std::equal(expected_ids.begin(), expected_ids.end(), ids.begin()));
    }
    for (const std::size_t begin : {std::size_t{0}, size / 5}) {
      std::vector<std::uint32_t> ids(size - begin), expected_ids;
      std::vector<float> values(size - begin), expected_values;
      for (std::size_t i = begin; i < size; ++i) {
        if (logits[i] < lowest || logits[i] > highest) continue;
        expected_ids.push_back(static_cast<std::uint32_t>(i));
        expected_values.push_back(logits[i]);
      }
      for (float* const kept : {static_cast<float*>(nullptr), values.data()}) {
        const std::size_t num_ids =
            tested.ids_between(logits.data(), begin, size, lowest, highest, ids.data(), kept);
        CHECK(num_ids == expected_ids.size());
        CHECK(std::equal(expected_ids.begin(), expected_ids.end(), ids.begin()));
      }
      values.resize(expected_values.size());
      CHECK(same_bits(values, expected_values));
    }
    std::vector<std::uint16_t> buckets(size), expected_buckets(size);
    for (const int shift : {0, 9, 21}) {
      const std::int32_t key = key_of(lowest);
      exact.buckets_of(logits.data(), size, key, shift, expected_buckets.data());
      tested.buckets_of(logits.data(), size, key, shift, buckets.data());
      CHECK(same_bits(buckets, expected_buckets));
    }
    for (const float least_weight : {0.0f, 0.01f}) {
      const double kept = exact.sum_kept(logits.data(), weights.data(), size, lowest, least_weight);
      CHECK(tested.sum_kept(logits.data(), weights.data(), size, lowest, least_weight) == kept);
      double expected = 0.0;
      for (std::size_t i = 0; i < size; ++i) {
        if (logits[i] < lowest || weights[i] < least_weight) continue;
        expected += static_cast<double>(weights[i]);
      }
      CHECK(std::abs(kept - expected) <= 1e-12 * expected);
    }
  }
}

// A NaN anywhere, also among numbers that are larger.
void check_poison(const SamplingKernels& tested) {
  for (const std::size_t size : {1u, 40u, 512u, 1300u}) {
    for (const std::size_t place : {std::size_t{0}, size / 2, size - 1}) {
      std::vector<float> logits(size, 1.0f);
      std::vector<float> maxima(size / kBlock + 1);
      CHECK(tested.block_maxima(logits.data(), size, maxima.data()));
      for (const float sign : {1.0f, -1.0f}) {
        logits[place] = std::copysign(std::numeric_limits<float>::quiet_NaN(), sign);
        CHECK(!tested.block_maxima(logits.data(), size, maxima.data()));
      }
    }
  }
}

void test_sampler_kernels_of_every_variant() {
  int num_tested = 0;
  for (const Variant variant : kVariants) {
    if (!is_supported(variant)) continue;
    ++num_tested;
    for (const std::size_t size : {1u, 7u, 15u, 16u, 17u, 31u, 33u, 64u, 513u, 2049u, 5000u}) {
      for (const auto& field : sampler_fields(size))
        compare_with_portable(sampling_kernels(variant), field);
    }
    check_poison(sampling_kernels(variant));
  }
  CHECK(num_tested > 0);
}

// Large enough for the sample, also where the sample sees nothing of what is selected.
void test_sampling_of_large_vocabularies() {
  constexpr std::size_t kSize = 40'000;
  std::vector<std::vector<float>> fields = sampler_fields(kSize);
  fields.emplace_back(kSize, 0.0f);
  for (std::size_t i = 0; i < kSize; ++i) fields.back()[i] = i % 19 == 0 ? -3.0f : 2.0f;
  for (const std::vector<float>& logits : fields) {
    for (const std::int64_t top_k : {0, 1, 40, 20'000, 39'999}) {
      for (const double top_p : {0.0, 0.5, 0.99, 1.0}) {
        const SamplingSettings settings{1.0, top_k, top_p, 0.1, 0.01};
        for (const double uniform : {0.0, 0.5, 1.0 - 0x1p-53}) {
          const std::int32_t token = sample(logits, settings, uniform);
          CHECK(std::isfinite(logits.at(static_cast<std::size_t>(token))));
        }
      }
    }
  }
}

void test_samplers_in_several_threads() {
  const std::vector<float> logits = random_floats(20'000, 7);
  const SamplingSettings settings{1.0, 0, 0.9, 0.0, 0.0};
  const std::int32_t expected = sample(logits, settings, 0.3);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) CHECK(sample(logits, settings, 0.3) == expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void test_bandwidth_of_odd_sizes() {
  for (const int num_threads : {1, 3}) {
    ThreadPool pool(num_threads);
    for (const std::size_t size : {64 * 3, 1000, 4'000'001}) {
      CHECK(read_bandwidth(size, pool) > 0);
    }
    CHECK(throws<std::invalid_argument>([&] { read_bandwidth(63, pool); }));
    CHECK(throws<std::bad_alloc>([&] { read_bandwidth(~std::size_t{0}, pool); }));
  }
}

}  // namespace

void run_all() {
  test_pool_covers_every_item_once();
  test_pool_passes_exceptions_on_and_goes_on_working();
  test_pool_serves_several_callers();
  test_pool_takes_smaller_pieces_at_the_end();
  test_pool_runs_many_small_loops();
  test_pool_names_its_threads();
  test_pool_does_not_wait_for_late_threads();
  test_pool_rethrows_the_first_of_several();
  test_pools_come_and_go();
  test_sampling_of_odd_sizes_and_extreme_numbers();
  test_sampler_kernels_of_every_variant();
  test_sampling_of_large_vocabularies();
  test_samplers_in_several_threads();
  test_bandwidth_of_odd_sizes();
}

}  // namespace nestling

int main() {
  nestling::run_all();
  return nestling::testing::num_failures == 0 ? 0 : 1;
}
