// The smallest test harness: CHECK counts and reports, main returns whether all held.
#pragma once

#include <atomic>
#include <cstdio>

namespace nestling::testing {

inline std::atomic<int> num_failures = 0;

inline void check(bool is_true, const char* what, const char* file, int line) {
  if (is_true) return;
  ++num_failures;
  std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
}

// True if calling f throws an Error.
template <class Error, class F>
bool throws(const F& f) {
  try {
    f();
  } catch (const Error&) {
    return true;
  }
  return false;
}

}  // namespace nestling::testing

#define CHECK(condition) ::nestling::testing::check((condition), #condition, __FILE__, __LINE__)
