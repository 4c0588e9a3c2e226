// Bytes of packed weights, which nothing changes any more: a filled buffer or a part of a file.
#pragma once

#include <cstddef>
#include <memory>

#include "nestling/buffer.h"
#include "nestling/mapped_file.h"

namespace nestling {

inline constexpr std::size_t kPlaneAlignment = 64;

// Copies share the memory, which lives as long as one of them.
class Plane {
 public:
  Plane() = default;
  explicit Plane(Buffer buffer);
  // Throws std::invalid_argument unless the part lies within the file, at a multiple of
  // kPlaneAlignment.
  Plane(std::shared_ptr<const MappedFile> file, std::size_t offset, std::size_t num_bytes);

  std::size_t num_bytes() const { return num_bytes_; }
  const std::byte* data() const { return data_; }

  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }

 private:
  std::shared_ptr<const void> owner_;
  const std::byte* data_ = nullptr;
  std::size_t num_bytes_ = 0;
};

}  // namespace nestling
