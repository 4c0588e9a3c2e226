#include <stdexcept>
#include <utility>

#include "nestling/matrix.h"

namespace nestling {

void PackedWeights::keep(Buffer values, Buffer scales, Buffer mins) {
  values_ = Plane(std::move(values));
  scales_ = Plane(std::move(scales));
  mins_ = Plane(std::move(mins));
}

void PackedWeights::map(const std::shared_ptr<const MappedFile>& file, const PlaneOffsets& offsets,
                        const PlaneBytes& bytes) {
  if (offsets.scales.has_value() != is_quantized(format_)) {
    throw std::invalid_argument("scales: expected with the quantised formats, and only with them");
  }
  if (offsets.mins && !offsets.scales) {
    throw std::invalid_argument("mins: expected with the quantised formats only");
  }
  values_ = Plane(file, offsets.values, bytes.values);
  if (offsets.scales) scales_ = Plane(file, *offsets.scales, bytes.scales);
  if (offsets.mins) mins_ = Plane(file, *offsets.mins, bytes.scales);
}

}  // namespace nestling
