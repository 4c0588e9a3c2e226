// The thread pool, the sampler and the bandwidth meter under the sanitizers. What the sampler gives
// is tested from Python; here it is memory, arithmetic and threads that are watched.

#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
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
  test_pool_runs_many_small_loops();
  test_pool_names_its_threads();
  test_pool_does_not_wait_for_late_threads();
  test_pool_rethrows_the_first_of_several();
  test_pools_come_and_go();
  test_sampling_of_odd_sizes_and_extreme_numbers();
  test_samplers_in_several_threads();
  test_bandwidth_of_odd_sizes();
}

}  // namespace nestling

int main() {
  nestling::run_all();
  return nestling::testing::num_failures == 0 ? 0 : 1;
}
