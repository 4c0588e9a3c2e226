// How fast the machine reads memory: the bound of decoding, which reads every weight for each step.
#pragma once

#include <cstddef>

#include "nestling/thread_pool.h"

namespace nestling {

// Bytes a second that the pool's threads read together, in order, from a buffer of this size in
// huge pages (where the system gives them): the mean of several passes after one that warms up.
// Choose a size far beyond the caches. Throws std::invalid_argument below one cache line a thread,
// std::bad_alloc if there is no such buffer.
double read_bandwidth(std::size_t num_bytes, ThreadPool& pool);

}  // namespace nestling
