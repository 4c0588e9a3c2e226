#include "nestling/variant.h"

#include <stdexcept>

#include "kernel_table.h"

namespace nestling {

bool is_supported(Variant variant) {
  if (variant == Variant::kPortable) return true;
#if defined(__x86_64__)
  return kAvx2Kernels.attention != nullptr && __builtin_cpu_supports("avx2") &&
         __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

Variant best_variant() {
  static const Variant best = is_supported(Variant::kAvx2) ? Variant::kAvx2 : Variant::kPortable;
  return best;
}

const KernelTable& kernels(Variant variant) {
  if (!is_supported(variant)) {
    throw std::invalid_argument("variant: this processor or build has no AVX2 with FMA");
  }
  return variant == Variant::kAvx2 ? kAvx2Kernels : kPortableKernels;
}

}  // namespace nestling
