// Memory for weights and caches: aligned to 64 bytes, in huge pages where the system gives them,
// zero until written.
#pragma once

#include <cstddef>
#include <memory>

namespace nestling {

class Buffer {
 public:
  Buffer() = default;
  // Throws std::bad_alloc. Pages take memory only when they are first written.
  explicit Buffer(std::size_t num_bytes);

  std::size_t num_bytes() const { return num_bytes_; }
  std::byte* data() { return data_.get(); }

  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_.get());
  }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  struct Free {
    std::size_t mapped_bytes;  // 0: from the heap
    void operator()(std::byte* data) const;
  };
  using Pointer = std::unique_ptr<std::byte, Free>;

  std::size_t num_bytes_ = 0;
  Pointer data_;
};

}  // namespace nestling
