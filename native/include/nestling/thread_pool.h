// A small fixed pool of threads that runs one parallel loop at a time.
//
// The calling thread works too, so ThreadPool(1) starts no thread and runs everything inline. Work
// is split statically into at most one contiguous share a thread. Kernels never let a result depend
// on that split.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace nestling {

class ThreadPool {
 public:
  static constexpr int kMaxThreads = 256;

  // Throws std::invalid_argument unless 1 <= num_threads <= kMaxThreads.
  explicit ThreadPool(int num_threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int num_threads() const { return num_threads_; }

  // Calls body(begin, end) on half-open ranges that cover [0, count) once, and returns when all are
  // done. Shares have at least `grain` items, so that small work stays on the calling thread. The
  // first exception, in the order of the ranges, is rethrown here. Calls from several threads wait
  // for each other; a call from inside a body would wait for itself, so kernels don't nest.
  template <class Body>
  void parallel_for(std::size_t count, std::size_t grain, const Body& body) {
    run(count, grain, std::cref(body));
  }

 private:
  using RangeBody = std::function<void(std::size_t begin, std::size_t end)>;

  void run(std::size_t count, std::size_t grain, const RangeBody& body);
  void run_share(std::size_t index) noexcept;
  void work(std::size_t index);
  void stop() noexcept;

  const int num_threads_;
  std::vector<std::thread> threads_;
  std::mutex caller_mutex_;  // held for the whole of one loop

  std::mutex mutex_;  // guards what follows
  std::condition_variable start_;
  std::condition_variable done_;
  std::uint64_t generation_ = 0;
  std::size_t num_pending_ = 0;
  bool is_stopping_ = false;
  const RangeBody* body_ = nullptr;
  std::size_t count_ = 0;
  std::size_t num_shares_ = 0;
  std::vector<std::exception_ptr> errors_;  // one a share, written by the thread that runs it
};

}  // namespace nestling
