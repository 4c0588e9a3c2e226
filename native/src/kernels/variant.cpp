#include "nestling/variant.h"

#include <stdexcept>
#include <string>

#include "kernels/step_kernels.h"
#include "sampling/sampling_kernels.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace nestling {

namespace {

// What the processor and its operating system offer.
#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
#else
bool has_avx2() { return false; }
bool has_avx512() { return false; }
#endif

bool has_dot_product() {
#if defined(__aarch64__) && defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__aarch64__) && defined(__APPLE__)
  return true;  // since the M1
#else
  return false;
#endif
}

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
    case Variant::kNeon:
      return "neon";
  }
  return "";
}

bool is_supported(Variant variant) {
  switch (variant) {
    case Variant::kPortable:
      return true;
    case Variant::kAvx2:
      return kAvx2Step.linear != nullptr && has_avx2();
    case Variant::kAvx512:
      return kAvx512Step.linear != nullptr && has_avx2() && has_avx512();
    case Variant::kNeon:
      return kNeonStep.linear != nullptr && has_dot_product();
  }
  return false;
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

const SamplingKernels& sampling_kernels(Variant variant) {
  require_supported(variant);
  switch (variant) {
    case Variant::kAvx2:
      return kAvx2Sampling;
    case Variant::kAvx512:
      return kAvx512Sampling;
    case Variant::kPortable:
    case Variant::kNeon:
      return kPortableSampling;
  }
  return kPortableSampling;
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
    case Variant::kNeon:
      return kNeonStep;
  }
  return kPortableStep;
}

}  // namespace nestling
