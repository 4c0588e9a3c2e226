// Which implementation of the kernels runs.
#pragma once

namespace nestling {

// kAvx512 includes VNNI, kNeon the dot-product extension; arm64 without that runs kPortable.
enum class Variant { kPortable, kAvx2, kAvx512, kNeon };

// From slow to fast among those that one processor can run.
inline constexpr Variant kVariants[] = {Variant::kPortable, Variant::kAvx2, Variant::kAvx512,
                                        Variant::kNeon};

// "portable", "avx2", "avx512" or "neon".
const char* name_of(Variant variant);

// True if this build holds the variant and this processor can run it.
bool is_supported(Variant variant);

// The fastest supported variant; the same during the life of the process.
Variant best_variant();

}  // namespace nestling
