// Replaces the program's `new` and `delete`, in a file of its own: where they are inlined, GCC
// takes malloc and free for a mismatch.

#include "allocations.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

static std::atomic<int> count = 0;

int nestling::testing::num_allocations() { return count; }

void* operator new(std::size_t num_bytes) {
  ++count;
  if (void* memory = std::malloc(num_bytes > 0 ? num_bytes : 1)) return memory;
  throw std::bad_alloc();
}

void* operator new(std::size_t num_bytes, std::align_val_t alignment) {
  ++count;
  const auto unit = static_cast<std::size_t>(alignment);
  if (void* memory = std::aligned_alloc(unit, (num_bytes / unit + 1) * unit)) return memory;
  throw std::bad_alloc();
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
