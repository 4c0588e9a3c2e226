#include "nestling/thread_pool.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace nestling {

namespace {

int checked_num_threads(int num_threads) {
  if (num_threads < 1 || num_threads > ThreadPool::kMaxThreads) {
    throw std::invalid_argument("num_threads: expected 1 to " +
                                std::to_string(ThreadPool::kMaxThreads) + ", got " +
                                std::to_string(num_threads));
  }
  return num_threads;
}

// Where share `index` of [0, count) begins; shares differ in length by at most one.
std::size_t share_begin(std::size_t count, std::size_t index, std::size_t num_shares) {
  return (count / num_shares) * index + (count % num_shares) * index / num_shares;
}

}  // namespace

ThreadPool::ThreadPool(int num_threads)
    : num_threads_(checked_num_threads(num_threads)),
      errors_(static_cast<std::size_t>(num_threads_)) {
  const auto num_shares = static_cast<std::size_t>(num_threads_);
  threads_.reserve(num_shares - 1);
  try {
    for (std::size_t i = 1; i < num_shares; ++i) threads_.emplace_back([this, i] { work(i); });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  start_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(std::size_t count, std::size_t grain, const RangeBody& body) {
  if (count == 0) return;
  const std::size_t num_shares = std::clamp<std::size_t>(count / std::max<std::size_t>(grain, 1), 1,
                                                         static_cast<std::size_t>(num_threads_));
  if (num_shares == 1) {
    body(0, count);
    return;
  }
  const std::lock_guard one_loop_at_a_time(caller_mutex_);
  {
    const std::lock_guard lock(mutex_);
    body_ = &body;
    count_ = count;
    num_shares_ = num_shares;
    num_pending_ = threads_.size();
    std::ranges::fill(errors_, nullptr);
    ++generation_;
  }
  start_.notify_all();
  run_share(0);
  {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return num_pending_ == 0; });
  }
  for (const std::exception_ptr& error : errors_) {
    if (error) std::rethrow_exception(error);
  }
}

void ThreadPool::run_share(std::size_t index) noexcept {
  if (index >= num_shares_) return;
  try {
    (*body_)(share_begin(count_, index, num_shares_), share_begin(count_, index + 1, num_shares_));
  } catch (...) {
    errors_[index] = std::current_exception();
  }
}

void ThreadPool::work(std::size_t index) {
  std::uint64_t seen_generation = 0;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      start_.wait(lock, [&] { return is_stopping_ || generation_ != seen_generation; });
      if (is_stopping_) return;
      seen_generation = generation_;
    }
    run_share(index);
    const std::lock_guard lock(mutex_);
    if (--num_pending_ == 0) done_.notify_one();
  }
}

}  // namespace nestling
