#include "nestling/variant.h"

#include <stdexcept>
#include <string>

#include "kernel_table.h"
#include "step_kernels.h"

namespace nestling {

namespace {

void require_supported(Variant variant) {
  if (is_supported(variant)) return;
  throw std::invalid_argument(std::string("variant: this processor or build has no ") +
                              name_of(variant));
}

}  // namespace

const char* name_of(Variant variant) {
  switch (variant) {
    case Variant::kPortable:
      return "portable";
    case Variant::kAvx2:
      return "avx2";
    case Variant::kAvx512:
      return "avx512";
  }
  return "";
}

bool is_supported(Variant variant) {
  if (variant == Variant::kPortable) return true;
#if defined(__x86_64__)
  if (variant == Variant::kAvx2) {
    return kAvx2Step.linear != nullptr && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  }
  return kAvx512Step.linear != nullptr && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
         is_supported(Variant::kAvx2);
#else
  return false;
#endif
}

Variant best_variant() {
  static const Variant best = [] {
    Variant fastest = Variant::kPortable;
    for (const Variant variant : kVariants) {
      if (is_supported(variant)) fastest = variant;
    }
    return fastest;
  }();
  return best;
}

const KernelTable& kernels(Variant variant) {
  require_supported(variant);
  return variant == Variant::kPortable ? kPortableKernels : kAvx2Kernels;
}

const StepKernels& step_kernels(Variant variant) {
  require_supported(variant);
  switch (variant) {
    case Variant::kPortable:
      return kPortableStep;
    case Variant::kAvx2:
      return kAvx2Step;
    case Variant::kAvx512:
      return kAvx512Step;
  }
  return kPortableStep;
}

}  // namespace nestling
