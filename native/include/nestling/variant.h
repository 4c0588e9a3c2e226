// Which implementation of the matrix and attention kernels runs.
#pragma once

namespace nestling {

enum class Variant { kPortable, kAvx2 };

// True if this build holds the variant and this processor can run it.
bool is_supported(Variant variant);

// The fastest supported variant; the same during the life of the process.
Variant best_variant();

}  // namespace nestling
