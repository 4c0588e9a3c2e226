// The sampler's kernels with AVX2 and FMA; this file alone is built for those (see CMakeLists.txt).

#include "kernel_table.h"

#if defined(__AVX2__) && defined(__FMA__)

#include <immintrin.h>

#include "sampling_loops.h"

namespace nestling {

namespace {

// For every mask of eight lanes, the lanes in it from the lowest on, a byte each.
struct LanesOfMasks {
  std::uint64_t lanes[256];
};

constexpr LanesOfMasks lanes_of_masks() {
  LanesOfMasks table{};
  for (std::uint32_t mask = 0; mask < 256; ++mask) {
    int num_lanes = 0;
    for (std::uint64_t lane = 0; lane < 8; ++lane) {
      if ((mask >> lane & 1u) != 0) table.lanes[mask] |= lane << (8 * num_lanes++);
    }
  }
  return table;
}

constexpr LanesOfMasks kLanesOfMasks = lanes_of_masks();

__m256i keys_of(__m256 logits) {
  const __m256i bits = _mm256_castps_si256(_mm256_add_ps(logits, _mm256_setzero_ps()));
  const __m256i is_negative = _mm256_srai_epi32(bits, 31);
  return _mm256_xor_si256(bits, _mm256_and_si256(is_negative, _mm256_set1_epi32(0x7fffffff)));
}

std::size_t compressed_ids_between(const float* logits, std::size_t begin, std::size_t end,
                                   std::int32_t lowest, std::int32_t highest, std::uint32_t* ids,
                                   float* values) {
  const __m256i lowest_key = _mm256_set1_epi32(lowest);
  const __m256i highest_key = _mm256_set1_epi32(highest);
  std::size_t num_ids = 0;
  std::size_t i = begin;
  for (; i + 8 <= end; i += 8) {
    const __m256 x = _mm256_loadu_ps(logits + i);
    const __m256i keys = keys_of(x);
    const __m256i outside = _mm256_or_si256(_mm256_cmpgt_epi32(lowest_key, keys),
                                            _mm256_cmpgt_epi32(keys, highest_key));
    const int inside = 0xff ^ _mm256_movemask_ps(_mm256_castsi256_ps(outside));
    if (inside == 0) continue;
    const auto packed = static_cast<long long>(kLanesOfMasks.lanes[inside]);
    const __m256i lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(packed));
    const __m256i indices = _mm256_add_epi32(lanes, _mm256_set1_epi32(static_cast<int>(i)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids + num_ids), indices);
    if (values != nullptr) {
      _mm256_storeu_ps(values + num_ids, _mm256_permutevar8x32_ps(x, lanes));
    }
    num_ids += static_cast<std::size_t>(__builtin_popcount(static_cast<unsigned>(inside)));
  }
  return num_ids + ids_between(logits, i, end, lowest, highest, ids + num_ids,
                               values == nullptr ? nullptr : values + num_ids);
}

}  // namespace

constinit const KernelTable kAvx2Kernels{
    key_extent, weights_of, buckets_of, keep, sum_of, mass_of_range, compressed_ids_between};

}  // namespace nestling

#else

namespace nestling {

constinit const KernelTable kAvx2Kernels{};

}  // namespace nestling

#endif
