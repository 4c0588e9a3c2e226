// The kernels with AVX2 and FMA; this file alone is built for those (see CMakeLists.txt).

#include "kernel_table.h"

#if defined(__AVX2__) && defined(__FMA__)

#include <immintrin.h>

#include "attention_loops.h"
#include "linear_loops.h"
#include "sampling_loops.h"

namespace nestling {

namespace {

struct Avx2Lanes {
  static constexpr int kMostRows = 6;  // their sums take 12 of the 16 registers

  __m256 low = _mm256_setzero_ps();
  __m256 high = _mm256_setzero_ps();

  static Avx2Lanes load(const float* from) {
    return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
  }
  static Avx2Lanes load(const std::uint16_t* bfloat16) {
    return {widen(bfloat16), widen(bfloat16 + 8)};
  }
  void add_product(float x, const Avx2Lanes& y) {
    const __m256 all = _mm256_set1_ps(x);
    low = _mm256_fmadd_ps(all, y.low, low);
    high = _mm256_fmadd_ps(all, y.high, high);
  }
  void add_product(const Avx2Lanes& x, const Avx2Lanes& y) {
    low = _mm256_fmadd_ps(x.low, y.low, low);
    high = _mm256_fmadd_ps(x.high, y.high, high);
  }
  void store(float* to) const {
    _mm256_storeu_ps(to, low);
    _mm256_storeu_ps(to + 8, high);
  }
  float total() const {
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

 private:
  static __m256 widen(const std::uint16_t* bfloat16) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bfloat16));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
};

}  // namespace

constinit const KernelTable kAvx2Kernels{linear_task<Avx2Lanes, float>,
                                         linear_task<Avx2Lanes, std::uint16_t>,
                                         attention_task<Avx2Lanes>,
                                         key_extent,
                                         weights_of,
                                         buckets_of,
                                         keep,
                                         sum_of};

}  // namespace nestling

#else

namespace nestling {

constinit const KernelTable kAvx2Kernels{};

}  // namespace nestling

#endif
