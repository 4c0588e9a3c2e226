// A small fixed pool of threads that runs one parallel loop at a time.
//
// The calling thread works too, so ThreadPool(1) starts no thread and runs everything inline. Work
// is split statically into one contiguous range per thread. Kernels never let a result depend on
// that split.
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
  // Called with the half-open range [begin, end) and the index of the thread that runs it, in
  // [0, num_threads).
  using Body = std::function<void(std::size_t begin, std::size_t end, int thread_index)>;

  static constexpr int kMaxThreads = 256;

  // Throws std::invalid_argument unless 1 <= num_threads <= kMaxThreads.
  explicit ThreadPool(int num_threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int num_threads() const { return num_threads_; }

  // Runs body over [0, count) and returns when all of it is done. The first exception by thread
  // index is rethrown here. Calls from several threads wait for each other; a call from inside a
  // body would wait for itself, so kernels don't nest.
  void parallel_for(std::size_t count, const Body& body);

 private:
  // Where share `index` of [0, count) begins; shares differ in length by at most one.
  static std::size_t share_begin(std::size_t count, std::size_t index, std::size_t num_shares) {
    return (count / num_shares) * index + (count % num_shares) * index / num_shares;
  }

  void stop() noexcept;
  void work(int thread_index);
  void run_share(int thread_index) noexcept;

  const int num_threads_;
  std::vector<std::thread> threads_;
  std::mutex caller_mutex_;  // held for the whole of one parallel_for

  std::mutex mutex_;  // guards what follows
  std::condition_variable start_;
  std::condition_variable done_;
  std::uint64_t generation_ = 0;
  int num_pending_ = 0;
  bool is_stopping_ = false;
  const Body* body_ = nullptr;
  std::size_t count_ = 0;
  std::vector<std::exception_ptr> errors_;  // one slot a thread; each writes its own
};

}  // namespace nestling
