// A small fixed pool of threads that runs one parallel loop at a time.
//
// The calling thread works too, so ThreadPool(1) starts no thread and runs everything inline.
// Threads take pieces of a loop as they get free, so a slow neighbour on the machine costs little;
// kernels never let a result depend on who took what. Between loops that follow each other closely
// the threads spin, since waking one costs more than a small kernel; after that they sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <type_traits>
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

  // Adds one to `counter` after each piece of each later loop, so that somebody who watches its
  // memory sees work go on. It must outlive the pool. Must not be called while a loop runs.
  void count_pieces_in(std::int64_t* counter) { num_pieces_done_ = counter; }

  // Calls body(begin, end) or body(begin, end, thread) on half-open ranges of at most
  // max(grain, 1) items that cover [0, count) once, and returns when all are done; `thread` is
  // below num_threads(). The first exception, in the order of the ranges, is rethrown here. Calls
  // from several threads wait for each other, but those of one piece, and all of a pool of one
  // thread, which run at once as thread 0. A call from inside a body would wait for itself, so
  // kernels don't nest.
  template <class Body>
  void parallel_for(std::size_t count, std::size_t grain, const Body& body) {
    if constexpr (std::is_invocable_v<const Body&, std::size_t, std::size_t, std::size_t>) {
      run(count, grain, std::cref(body));
    } else {
      const auto without_thread = [&body](std::size_t begin, std::size_t end, std::size_t) {
        body(begin, end);
      };
      run(count, grain, std::cref(without_thread));
    }
  }

 private:
  using RangeBody = std::function<void(std::size_t begin, std::size_t end, std::size_t thread)>;

  void run(std::size_t count, std::size_t grain, const RangeBody& body);
  bool take_piece(std::size_t& begin, std::size_t& end);
  void take_pieces(std::size_t thread) noexcept;
  void count_piece() noexcept;
  void work(std::size_t thread);
  bool wait_for_loop(std::uint64_t seen);
  void stop() noexcept;

  const int num_threads_;
  std::int64_t* num_pieces_done_ = nullptr;
  std::vector<std::thread> threads_;
  std::mutex caller_mutex_;  // held for the whole of one loop

  // The loop that runs; its caller writes these while the loop is closed and nobody is inside.
  const RangeBody* body_ = nullptr;
  std::size_t count_ = 0;
  std::size_t grain_ = 1;
  std::atomic<std::size_t> next_ = 0;
  std::mutex error_mutex_;
  std::size_t error_begin_ = 0;
  std::exception_ptr error_;

  std::uint64_t num_loops_ = 0;
  alignas(64) std::atomic<std::uint64_t> open_loop_ = 0;  // number of the loop to join; 0: none
  alignas(64) std::atomic<int> num_inside_ = 0;           // threads that may look at the loop
  std::atomic<bool> is_stopping_ = false;
  std::mutex sleep_mutex_;
  std::condition_variable wake_;
  std::atomic<int> num_sleeping_ = 0;
};

}  // namespace nestling
