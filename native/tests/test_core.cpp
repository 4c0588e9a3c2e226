// Runs the kernels on small and on odd sizes under the sanitizers. What the numbers should be is
// tested from Python against numpy; here it is memory, arithmetic and threads that are watched.

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "nestling/attention.h"
#include "nestling/bandwidth.h"
#include "nestling/linear.h"
#include "nestling/sampling.h"
#include "nestling/thread_pool.h"
#include "nestling/variant.h"

namespace nestling {

namespace {

using testing::throws;

std::vector<Variant> variants() {
  std::vector<Variant> supported{Variant::kPortable};
  if (is_supported(Variant::kAvx2)) supported.push_back(Variant::kAvx2);
  return supported;
}

std::vector<float> random_floats(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

bool same_bits(const float* a, const float* b, std::size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
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

void test_pools_come_and_go() {
  for (int round = 0; round < 50; ++round) ThreadPool pool(1 + round % 6);
  CHECK(throws<std::invalid_argument>([] { ThreadPool pool(0); }));
  CHECK(throws<std::invalid_argument>([] { ThreadPool pool(ThreadPool::kMaxThreads + 1); }));
}

void test_linear_rows_do_not_depend_on_their_batch() {
  ThreadPool one(1);
  ThreadPool three(3);
  const std::size_t in = 261;  // large enough that three threads share the work
  const std::size_t out = 349;
  const std::size_t num_rows = 55;
  const std::vector<float> weight = random_floats(out * in, 1);
  const std::vector<float> x = random_floats(num_rows * in, 2);
  for (const WeightType type : {WeightType::kFloat32, WeightType::kBfloat16}) {
    const PackedLinear packed(weight.data(), out, in, type);
    for (const Variant variant : variants()) {
      std::vector<float> alone(num_rows * out);
      for (std::size_t row = 0; row < num_rows; ++row) {
        linear(&x[row * in], 1, packed, &alone[row * out], one, variant);
      }
      for (const std::size_t count : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 13u, 48u, 49u, 50u, 54u, 55u}) {
        std::vector<float> together(count * out);
        linear(x.data(), count, packed, together.data(), three, variant);
        CHECK(same_bits(together.data(), alone.data(), together.size()));
      }
    }
  }
}

void test_linear_of_odd_sizes() {
  ThreadPool pool(2);
  for (const std::size_t in : {1u, 2u, 16u, 17u}) {
    for (const std::size_t out : {1u, 15u, 16u, 17u, 64u, 65u}) {
      for (const Variant variant : variants()) {
        const std::vector<float> weight(out * in, 0.5f);
        const std::vector<float> x(3 * in, 2.0f);
        std::vector<float> result(3 * out);
        const PackedLinear packed(weight.data(), out, in, WeightType::kBfloat16);
        linear(x.data(), 3, packed, result.data(), pool, variant);
        for (const float value : result) CHECK(value == static_cast<float>(in));
      }
    }
  }
  const float number = 0.0f;
  const std::size_t huge = std::numeric_limits<std::size_t>::max() / 8;
  CHECK(throws<std::invalid_argument>([&] { PackedLinear(&number, 0, 1, WeightType::kFloat32); }));
  CHECK(throws<std::invalid_argument>(
      [&] { PackedLinear(&number, huge, huge, WeightType::kBfloat16); }));
}

void test_attention_of_odd_sizes() {
  ThreadPool one(1);
  ThreadPool three(3);
  const std::size_t num_slots = 120;
  const std::size_t num_rows = 19;  // with the widest heads, three threads share the work
  for (const std::size_t head_dim : {1u, 15u, 16u, 33u, 80u, 256u}) {
    const std::vector<float> q = random_floats(num_rows * 6 * head_dim, 3);
    const std::vector<float> k_cache = random_floats(num_slots * 2 * head_dim, 4);
    const std::vector<float> v_cache = random_floats(num_slots * 2 * head_dim, 5);
    std::vector<std::int64_t> slots(num_slots);
    std::iota(slots.rbegin(), slots.rend(), 0);
    std::vector<std::int64_t> row_begin(num_rows);
    std::vector<std::int64_t> row_end(num_rows);
    for (std::size_t row = 0; row < num_rows; ++row) {
      row_begin[row] = static_cast<std::int64_t>(row);
      row_end[row] = static_cast<std::int64_t>(row == 0 ? 1 : num_slots - row);
    }
    const AttentionInput input{q.data(),
                               k_cache.data(),
                               v_cache.data(),
                               slots.data(),
                               row_begin.data(),
                               row_end.data(),
                               num_rows,
                               6,
                               2,
                               head_dim};
    for (const Variant variant : variants()) {
      std::vector<float> alone(q.size());
      std::vector<float> parallel(q.size());
      attention(input, alone.data(), one, variant);
      attention(input, parallel.data(), three, variant);
      CHECK(same_bits(alone.data(), parallel.data(), alone.size()));
      for (std::size_t i = 0; i < 6 * head_dim; ++i) {  // row 0 sees one slot: its value itself
        const std::size_t kv_head = i / head_dim / 3;
        CHECK(alone[i] == v_cache[((num_slots - 1) * 2 + kv_head) * head_dim + i % head_dim]);
      }
    }
  }
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
  test_pools_come_and_go();
  test_linear_rows_do_not_depend_on_their_batch();
  test_linear_of_odd_sizes();
  test_attention_of_odd_sizes();
  test_sampling_of_odd_sizes_and_extreme_numbers();
  test_samplers_in_several_threads();
  test_bandwidth_of_odd_sizes();
}

}  // namespace nestling

int main() {
  nestling::run_all();
  return nestling::testing::num_failures == 0 ? 0 : 1;
}
