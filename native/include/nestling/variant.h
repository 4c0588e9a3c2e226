// Which implementation of the matrix and attention kernels runs.
#pragma once

namespace nestling {

// kAvx512 includes VNNI.
enum class Variant { kPortable, kAvx2, kAvx512 };

inline constexpr Variant kVariants[] = {Variant::kPortable, Variant::kAvx2, Variant::kAvx512};

// "portable", "avx2" or "avx512".
const char* name_of(Variant variant);

// True if this build holds the variant and this processor can run it.
bool is_supported(Variant variant);

// The fastest supported variant; the same during the life of the process.
Variant best_variant();

}  // namespace nestling
