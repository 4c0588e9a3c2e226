#include "nestling/thread_pool.h"

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

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(checked_num_threads(num_threads)) {
  errors_.resize(static_cast<std::size_t>(num_threads_));
  threads_.reserve(static_cast<std::size_t>(num_threads_ - 1));
  try {
    for (int i = 1; i < num_threads_; ++i) threads_.emplace_back([this, i] { work(i); });
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

void ThreadPool::parallel_for(std::size_t count, const Body& body) {
  if (count == 0) return;
  if (num_threads_ == 1 || count == 1) {
    body(0, count, 0);
    return;
  }
  const std::lock_guard one_loop_at_a_time(caller_mutex_);
  {
    const std::lock_guard lock(mutex_);
    body_ = &body;
    count_ = count;
    num_pending_ = num_threads_ - 1;
    for (std::exception_ptr& error : errors_) error = nullptr;
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

void ThreadPool::run_share(int thread_index) noexcept {
  const auto index = static_cast<std::size_t>(thread_index);
  const auto num_shares = static_cast<std::size_t>(num_threads_);
  const std::size_t begin = share_begin(count_, index, num_shares);
  const std::size_t end = share_begin(count_, index + 1, num_shares);
  if (begin == end) return;
  try {
    (*body_)(begin, end, thread_index);
  } catch (...) {
    errors_[index] = std::current_exception();
  }
}

void ThreadPool::work(int thread_index) {
  std::uint64_t seen_generation = 0;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      start_.wait(lock, [&] { return is_stopping_ || generation_ != seen_generation; });
      if (is_stopping_) return;
      seen_generation = generation_;
    }
    run_share(thread_index);
    const std::lock_guard lock(mutex_);
    if (--num_pending_ == 0) done_.notify_one();
  }
}

}  // namespace nestling
