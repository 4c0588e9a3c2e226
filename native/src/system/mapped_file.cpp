#include "nestling/mapped_file.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <stdexcept>
#include <system_error>

namespace nestling {

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

#ifdef __linux__

// Address space is reserved first, so that the map can begin at a huge page.
void* map(int descriptor, std::size_t num_bytes) {
  const std::size_t reserved = num_bytes + kHugePage;
  void* const start =
      mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) fail("mapped file: no address space");
  auto* const begin = static_cast<std::byte*>(start);
  const std::size_t before =
      (kHugePage - reinterpret_cast<std::uintptr_t>(begin) % kHugePage) % kHugePage;
  void* const mapped =
      mmap(begin + before, num_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, descriptor, 0);
  if (mapped == MAP_FAILED) {
    const int error = errno;
    munmap(start, reserved);
    errno = error;
    fail("mapped file: cannot be mapped");
  }
  const auto small_page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t used = (num_bytes + small_page - 1) / small_page * small_page;
  if (before > 0) munmap(begin, before);
  if (before + used < reserved) munmap(begin + before + used, reserved - before - used);
  madvise(mapped, num_bytes, MADV_HUGEPAGE);  // refused: the pages are small
  return mapped;
}

#else

void* map(int descriptor, std::size_t num_bytes) {
  void* const mapped = mmap(nullptr, num_bytes, PROT_READ, MAP_SHARED, descriptor, 0);
  if (mapped == MAP_FAILED) fail("mapped file: cannot be mapped");
  return mapped;
}

#endif

}  // namespace

MappedFile::MappedFile(int descriptor) {
  struct stat status{};
  if (fstat(descriptor, &status) != 0) fail("mapped file: no such descriptor");
  if (!S_ISREG(status.st_mode) || status.st_size <= 0) {
    throw std::invalid_argument("mapped file: expected a regular file that is not empty");
  }
  num_bytes_ = static_cast<std::size_t>(status.st_size);
  data_ = static_cast<const std::byte*>(map(descriptor, num_bytes_));
}

MappedFile::~MappedFile() { munmap(const_cast<std::byte*>(data_), num_bytes_); }

}  // namespace nestling
