// Arrays that cross between Python and the kernels: checked views in, fresh numpy arrays out.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace nestling::bindings {

namespace nb = nanobind;

using AnyArray = nb::ndarray<nb::ro, nb::device::cpu>;

inline std::string shape_text(const AnyArray& array) {
  std::string text = "[";
  for (std::size_t i = 0; i < array.ndim(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(array.shape(i));
  }
  return text + "]";
}

inline bool is_c_contiguous(const AnyArray& array) {
  std::int64_t expected = 1;
  for (std::size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != expected) return false;
    expected *= static_cast<std::int64_t>(array.shape(i));
  }
  return true;
}

// The data of a C-contiguous array of T with kDims dimensions; `what` is "name: dtype [shape]" in
// words. Raises TypeError on another dtype, ValueError on another layout.
template <class T, std::size_t kDims>
const T* checked(const AnyArray& array, const char* what) {
  if (array.dtype() != nb::dtype<T>()) {
    throw nb::type_error((std::string(what) + ", got another dtype").c_str());
  }
  if (array.ndim() != kDims) {
    throw nb::value_error((std::string(what) + ", got " + shape_text(array)).c_str());
  }
  const auto* data = static_cast<const T*>(array.data());
  const bool is_aligned = reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0;
  if (array.size() > 0 && !(is_c_contiguous(array) && is_aligned)) {
    throw nb::value_error((std::string(what) + ", C-contiguous and aligned; got a view " +
                           shape_text(array) + " that is not")
                              .c_str());
  }
  return data;
}

// Raises ValueError unless the extents agree.
inline void require_extent(const char* what, std::size_t got, std::size_t expected) {
  if (got == expected) return;
  throw nb::value_error((std::string(what) + ": expected " + std::to_string(expected) + ", got " +
                         std::to_string(got))
                            .c_str());
}

// A new numpy array, owned by Python, that a kernel fills.
template <class T, std::size_t kDims>
class NewArray {
 public:
  explicit NewArray(const std::array<std::size_t, kDims>& shape) : shape_(shape) {
    std::size_t size = 1;
    for (const std::size_t extent : shape) size *= extent;
    data_.reset(new T[size]);
  }

  T* data() { return data_.get(); }

  nb::ndarray<nb::numpy, T> release() && {
    T* data = data_.get();
    nb::capsule owner(data, [](void* memory) noexcept { delete[] static_cast<T*>(memory); });
    data_.release();
    return nb::ndarray<nb::numpy, T>(data, kDims, shape_.data(), owner);
  }

 private:
  std::array<std::size_t, kDims> shape_;
  std::unique_ptr<T[]> data_;
};

}  // namespace nestling::bindings
