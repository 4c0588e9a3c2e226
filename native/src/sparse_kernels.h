// The sparse feed-forward layers: only living neurons' rows of up_proj and columns of down_proj.
// Included by each variant's source file.
#pragma once

#include "linear_kernels.h"
#include "step_kernels.h"

namespace nestling {

namespace {

template <class V, class Weight>
inline float float_dot(const Weight* w, const float* x, std::size_t n) {
  using F32 = typename V::F32;
  F32 sums[4] = {F32::zero(), F32::zero(), F32::zero(), F32::zero()};
  std::size_t k = 0;
  for (; k + 64 <= n; k += 64) {
    for (std::size_t i = 0; i < 4; ++i) {
      sums[i] = V::fma(load_weights<V>(w + k + 16 * i), F32::load(x + k + 16 * i), sums[i]);
    }
  }
  for (; k < n; k += 16) sums[0] = V::fma(load_weights<V>(w + k), F32::load(x + k), sums[0]);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])).total();
}

// What the bias of unsigned weights, or their minimum, adds: sum over groups of w * scaled_sum.
template <class V>
inline typename V::F32 group_sums(const std::uint16_t* weights, const float* scaled_sums,
                                  std::size_t num_groups, float factor) {
  using F32 = typename V::F32;
  F32 sum = F32::zero();
  std::size_t g = 0;
  for (; g + 16 <= num_groups; g += 16) {
    sum = V::fma(F32::load_float16(weights + g), F32::load(scaled_sums + g), sum);
  }
  if (g < num_groups) {  // groups come in fours
    std::uint16_t padded[16] = {};
    float padded_sums[16] = {};
    for (std::size_t i = 0; g + i < num_groups; ++i) {
      padded[i] = weights[g + i];
      padded_sums[i] = scaled_sums[g + i];
    }
    sum = V::fma(F32::load_float16(padded), F32::load(padded_sums), sum);
  }
  return sum * F32::all(factor);
}

template <class V, bool kNibbles>
inline float quantized_dot(const RowMatrix& weight, std::size_t row, const DotRow& x) {
  using F32 = typename V::F32;
  using I32 = typename V::I32;
  using Bytes = typename V::Bytes;
  const std::size_t num_groups = weight.padded_in() / kGroup;
  const std::uint16_t* scales = weight.scales() + row * num_groups;
  const std::size_t bytes_per_row = kNibbles ? weight.padded_in() / 2 : weight.padded_in();
  const std::uint8_t* w = weight.values<std::uint8_t>() + row * bytes_per_row;
  F32 sums[2] = {F32::zero(), F32::zero()};
  for (std::size_t g = 0; g < num_groups; g += 16) {
    const std::size_t rest = num_groups - g < 16 ? num_groups - g : 16;
    float products[16];
    if (rest == 16) {
      (F32::load_float16(scales + g) * F32::load(x.scales + g)).store(products);
    } else {
      std::uint16_t padded[16] = {};
      float padded_scales[16] = {};
      for (std::size_t i = 0; i < rest; ++i) {
        padded[i] = scales[g + i];
        padded_scales[i] = x.scales[g + i];
      }
      (F32::load_float16(padded) * F32::load(padded_scales)).store(products);
    }
    for (std::size_t i = 0; i < rest; i += 4) {
      const std::int8_t* bytes = x.bytes + (g + i) * kGroup;
      I32 dots[2];
      if constexpr (kNibbles) {
        const Bytes both = Bytes::load(w);
        dots[0] = V::add_dot_vector(I32::zero(), both.low_nibbles(), bytes);
        dots[1] = V::add_dot_vector(I32::zero(), both.high_nibbles(), bytes + 64);
        w += 64;
      } else {
        const auto* from = reinterpret_cast<const std::int8_t*>(w);
        dots[0] = V::add_dot_vector_signed(I32::zero(), Bytes::load_signed(from), bytes);
        dots[1] = V::add_dot_vector_signed(I32::zero(), Bytes::load_signed(from + 64), bytes + 64);
        w += 128;
      }
      sums[0] = V::fma(dots[0].to_float(), F32::pair(products + i), sums[0]);
      sums[1] = V::fma(dots[1].to_float(), F32::pair(products + i + 2), sums[1]);
    }
  }
  F32 sum = sums[0] + sums[1];
  if (weight.has_min()) {
    sum = sum + group_sums<V>(weight.mins() + row * num_groups, x.scaled_sums, num_groups, 1.0f);
  }
  constexpr bool kHasByteBias = !kNibbles && V::kByteBias != 0;
  if (kHasByteBias || (kNibbles && !weight.has_min())) {
    const float bias = kNibbles ? -8.0f : -static_cast<float>(V::kByteBias);
    sum = sum + group_sums<V>(scales, x.scaled_sums, num_groups, bias);
  }
  return sum.total();
}

template <class V>
float dot_row_kernel(const RowMatrix& weight, std::size_t row, const DotRow& x) {
  const std::size_t n = weight.padded_in();
  switch (weight.format()) {
    case Format::kFloat32:
      return float_dot<V>(weight.values<float>() + row * n, x.floats, n);
    case Format::kFloat16:
      return float_dot<V>(weight.values<Float16>() + row * n, x.floats, n);
    case Format::kBfloat16:
      return float_dot<V>(weight.values<Bfloat16>() + row * n, x.floats, n);
    case Format::kQ4:
      return quantized_dot<V, true>(weight, row, x);
    case Format::kQ8:
      return quantized_dot<V, false>(weight, row, x);
  }
  return 0.0f;
}

// Adds the live columns' parts of outputs [begin, begin + 32 * kPairs).
template <class V, int kPairs, class Weight>
inline void float_columns(const SparseDownTask& task, std::size_t begin) {
  using F32 = typename V::F32;
  F32 sums[2 * kPairs];
  float* out = task.out + begin;
  for (int i = 0; i < 2 * kPairs; ++i) sums[i] = F32::load(out + 16 * i);
  const Weight* columns = task.weight->values<Weight>() + begin;
  for (std::size_t n = 0; n < task.num_live; ++n) {
    const Weight* column = columns + task.indices[n] * task.weight->padded_out();
    const F32 value = F32::all(task.values[n]);
    for (int i = 0; i < 2 * kPairs; ++i) {
      sums[i] = V::fma(value, load_weights<V>(column + 16 * i), sums[i]);
    }
  }
  for (int i = 0; i < 2 * kPairs; ++i) sums[i].store(out + 16 * i);
}

// The same for live neurons [first, last) of one group of 32 neurons, which share their scales.
template <class V, int kPairs, bool kNibbles>
inline void quantized_columns(const SparseDownTask& task, std::size_t first, std::size_t last,
                              float value_sum, std::size_t begin) {
  using F32 = typename V::F32;
  using I32 = typename V::I32;
  const ColumnMatrix& weight = *task.weight;
  F32 sums[2 * kPairs];
  for (F32& sum : sums) sum = F32::zero();
  for (std::size_t n = first; n < last; ++n) {
    const F32 value = F32::all(task.values[n]);
    if constexpr (kNibbles) {
      const std::uint8_t* column = weight.values<std::uint8_t>() +
                                   task.indices[n] * (weight.padded_out() / 2) + begin / 2;
      for (int i = 0; i < kPairs; ++i) {
        const I32 both = I32::widen_bytes(column + 16 * i);
        sums[2 * i] = V::fma(value, both.low_nibbles().to_float(), sums[2 * i]);
        sums[2 * i + 1] = V::fma(value, both.high_nibbles().to_float(), sums[2 * i + 1]);
      }
    } else {
      const std::int8_t* column =
          weight.values<std::int8_t>() + task.indices[n] * weight.padded_out() + begin;
      for (int i = 0; i < 2 * kPairs; ++i) {
        sums[i] = V::fma(value, I32::widen_signed_bytes(column + 16 * i).to_float(), sums[i]);
      }
    }
  }
  const std::size_t plane = task.indices[first] / kGroup * weight.padded_out() + begin;
  const F32 bias = F32::all(kNibbles && !weight.has_min() ? -8.0f * value_sum : 0.0f);
  for (int i = 0; i < 2 * kPairs; ++i) {
    float* out = task.out + begin + 16 * i;
    F32 total = V::fma(sums[i] + bias, F32::load_float16(weight.scales() + plane + 16 * i),
                       F32::load(out));
    if (weight.has_min()) {
      total = V::fma(F32::all(value_sum), F32::load_float16(weight.mins() + plane + 16 * i), total);
    }
    total.store(out);
  }
}

template <class V, class Weight>
inline void float_down(const SparseDownTask& task) {
  std::size_t begin = task.begin;
  for (; begin + 128 <= task.end; begin += 128) float_columns<V, 4, Weight>(task, begin);
  for (; begin < task.end; begin += 32) float_columns<V, 1, Weight>(task, begin);
}

template <class V, bool kNibbles>
inline void quantized_down(const SparseDownTask& task) {
  for (std::size_t first = 0; first < task.num_live;) {
    const std::uint32_t group = task.indices[first] / kGroup;
    std::size_t last = first;
    float value_sum = 0.0f;
    for (; last < task.num_live && task.indices[last] / kGroup == group; ++last) {
      value_sum += task.values[last];
    }
    std::size_t begin = task.begin;
    for (; begin + 128 <= task.end; begin += 128) {
      quantized_columns<V, 4, kNibbles>(task, first, last, value_sum, begin);
    }
    for (; begin < task.end; begin += 32) {
      quantized_columns<V, 1, kNibbles>(task, first, last, value_sum, begin);
    }
    first = last;
  }
}

template <class V>
void sparse_down_kernel(const SparseDownTask& task) {
  switch (task.weight->format()) {
    case Format::kFloat32:
      return float_down<V, float>(task);
    case Format::kFloat16:
      return float_down<V, Float16>(task);
    case Format::kBfloat16:
      return float_down<V, Bfloat16>(task);
    case Format::kQ4:
      return quantized_down<V, true>(task);
    case Format::kQ8:
      return quantized_down<V, false>(task);
  }
}

}  // namespace

}  // namespace nestling
