// A file as memory that is only read: weights that were packed once and are mapped ever after.
#pragma once

#include <cstddef>

namespace nestling {

class MappedFile {
 public:
  // Maps what `descriptor` reads, a regular file as long as it is now; the descriptor may be closed
  // afterwards. Begins at a huge page and asks for huge ones, which the system gives where the
  // file's cache lies in such. Throws std::system_error, std::invalid_argument for an empty file.
  explicit MappedFile(int descriptor);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::size_t num_bytes() const { return num_bytes_; }
  const std::byte* data() const { return data_; }

 private:
  std::size_t num_bytes_ = 0;
  const std::byte* data_ = nullptr;
};

}  // namespace nestling
