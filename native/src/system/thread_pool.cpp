#include "nestling/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nestling {

namespace {

// Longer than the gaps between the kernels of a step, far shorter than anybody would notice.
constexpr std::chrono::microseconds kSpinTime{200};
constexpr int kPausesBetweenClockReads = 64;
constexpr int kPausesBetweenYields = 2000;

int checked_num_threads(int num_threads) {
  if (num_threads < 1 || num_threads > ThreadPool::kMaxThreads) {
    throw std::invalid_argument("num_threads: expected 1 to " +
                                std::to_string(ThreadPool::kMaxThreads) + ", got " +
                                std::to_string(num_threads));
  }
  return num_threads;
}

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(checked_num_threads(num_threads)) {
  threads_.reserve(static_cast<std::size_t>(num_threads_) - 1);
  try {
    for (std::size_t i = 1; i < static_cast<std::size_t>(num_threads_); ++i) {
      threads_.emplace_back([this, i] { work(i); });
    }
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() noexcept {
  {
    const std::lock_guard lock(sleep_mutex_);
    is_stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(std::size_t count, std::size_t grain, const RangeBody& body) {
  if (count == 0) return;
  grain = std::max<std::size_t>(grain, 1);
  if (threads_.empty() || count <= grain) {
    for (std::size_t begin = 0; begin < count; begin += grain) {
      body(begin, std::min(count, begin + grain), 0);
      count_piece();
    }
    return;
  }
  const std::lock_guard one_loop_at_a_time(caller_mutex_);
  body_ = &body;
  count_ = count;
  grain_ = grain;
  error_ = nullptr;
  next_.store(0, std::memory_order_relaxed);
  // Opening, closing, entering and sleeping are sequentially consistent: a thread that enters sees
  // the loop closed, or its caller sees the thread inside. The same holds for one that falls
  // asleep.
  open_loop_.store(++num_loops_);
  if (num_sleeping_.load() > 0) {
    {
      const std::lock_guard lock(sleep_mutex_);
    }
    wake_.notify_all();
  }
  take_pieces(0);
  open_loop_.store(0);
  // A thread that did not come in time is not waited for.
  for (int i = 1; num_inside_.load() > 0; ++i) {
    if (i % kPausesBetweenYields == 0) std::this_thread::yield();
    pause_briefly();
  }
  if (error_) std::rethrow_exception(error_);
}

// Pieces get smaller towards the end of a loop, so that threads end it at about the same time.
bool ThreadPool::take_piece(std::size_t& begin, std::size_t& end) {
  const auto num_shares = static_cast<std::size_t>(num_threads_);
  begin = next_.load(std::memory_order_relaxed);
  do {
    if (begin >= count_) return false;
    end = begin + std::clamp<std::size_t>((count_ - begin) / num_shares, 1, grain_);
  } while (!next_.compare_exchange_weak(begin, end, std::memory_order_relaxed));
  return true;
}

void ThreadPool::take_pieces(std::size_t thread) noexcept {
  std::size_t begin = 0;
  std::size_t end = 0;
  while (take_piece(begin, end)) {
    try {
      (*body_)(begin, end, thread);
    } catch (...) {
      const std::lock_guard lock(error_mutex_);
      if (!error_ || begin < error_begin_) {
        error_ = std::current_exception();
        error_begin_ = begin;
      }
    }
    count_piece();
  }
}

// Not std::atomic_ref, which some standard libraries lack.
void ThreadPool::count_piece() noexcept {
  if (num_pieces_done_ != nullptr) __atomic_fetch_add(num_pieces_done_, 1, __ATOMIC_RELAXED);
}

// Waits for an open loop other than `seen`; false when the pool ends.
bool ThreadPool::wait_for_loop(std::uint64_t seen) {
  const auto is_there = [&] {
    const std::uint64_t loop = open_loop_.load();
    return loop != 0 && loop != seen;
  };
  const auto give_up = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < kPausesBetweenClockReads; ++i) {
      if (is_there()) return true;
      pause_briefly();
    }
  } while (std::chrono::steady_clock::now() < give_up);
  std::unique_lock lock(sleep_mutex_);
  num_sleeping_.fetch_add(1);
  wake_.wait(lock, [&] { return is_stopping_ || is_there(); });
  num_sleeping_.fetch_sub(1);
  return !is_stopping_;
}

void ThreadPool::work(std::size_t thread) {
  std::uint64_t seen = 0;
  while (wait_for_loop(seen)) {
    num_inside_.fetch_add(1);
    const std::uint64_t loop = open_loop_.load();
    if (loop != 0) {
      seen = loop;
      take_pieces(thread);
    }
    num_inside_.fetch_sub(1);
  }
}

}  // namespace nestling
