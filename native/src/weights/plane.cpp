#include "nestling/plane.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace nestling {

Plane::Plane(Buffer buffer) : num_bytes_(buffer.num_bytes()) {
  const auto owner = std::make_shared<Buffer>(std::move(buffer));
  data_ = owner->data();
  owner_ = owner;
}

Plane::Plane(std::shared_ptr<const MappedFile> file, std::size_t offset, std::size_t num_bytes)
    : num_bytes_(num_bytes) {
  if (offset % kPlaneAlignment != 0 || offset > file->num_bytes() ||
      num_bytes > file->num_bytes() - offset) {
    throw std::invalid_argument("plane: expected " + std::to_string(num_bytes) +
                                " bytes at a multiple of " + std::to_string(kPlaneAlignment) +
                                " within the file's " + std::to_string(file->num_bytes()) +
                                ", got offset " + std::to_string(offset));
  }
  data_ = file->data() + offset;
  owner_ = std::move(file);
}

}  // namespace nestling
