#include "nestling/buffer.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace nestling {

namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

#ifdef __linux__

// Zero pages that begin at a huge page, so that the system can give huge ones from the start.
std::byte* map_pages(std::size_t num_bytes) {
  if (num_bytes > std::numeric_limits<std::size_t>::max() - 2 * kHugePage) throw std::bad_alloc();
  const std::size_t reserved = num_bytes + kHugePage;
  void* start = mmap(nullptr, reserved, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) throw std::bad_alloc();
  auto* const begin = static_cast<std::byte*>(start);
  const std::size_t before =
      (kHugePage - reinterpret_cast<std::uintptr_t>(begin) % kHugePage) % kHugePage;
  if (before > 0) munmap(begin, before);
  const auto small_page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t used = (num_bytes + small_page - 1) / small_page * small_page;
  if (before + used < reserved) munmap(begin + before + used, reserved - before - used);
  madvise(begin + before, num_bytes, MADV_HUGEPAGE);  // refused: the pages are small
  return begin + before;
}

#endif

}  // namespace

Buffer::Buffer(std::size_t num_bytes) : num_bytes_(num_bytes) {
  if (num_bytes == 0) return;
#ifdef __linux__
  if (num_bytes >= kHugePage) {
    data_ = Pointer(map_pages(num_bytes), Free{.mapped_bytes = num_bytes});
    return;
  }
#endif
  void* const memory = ::operator new[](num_bytes, std::align_val_t{kAlignment});
  data_ = Pointer(static_cast<std::byte*>(std::memset(memory, 0, num_bytes)), Free{});
}

void Buffer::Free::operator()(std::byte* data) const {
#ifdef __linux__
  if (mapped_bytes > 0) {
    munmap(data, mapped_bytes);
    return;
  }
#endif
  ::operator delete[](data, std::align_val_t{kAlignment});
}

}  // namespace nestling
