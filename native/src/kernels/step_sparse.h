// The sparse feed-forward layers, which read only the active neurons' rows of up_proj and columns
// of down_proj. Each variant's source file includes this file.
#pragma once

#include "kernels/step_kernels.h"
#include "kernels/step_linear.h"

namespace nestling {

namespace {

// Bytes of 32 values of a weight row or column, without their scale.
constexpr std::size_t bytes_per_group(Format format) {
  switch (format) {
    case Format::kFloat32:
      return 128;
    case Format::kFloat16:
    case Format::kBfloat16:
      return 64;
    case Format::kQ4:
      return 16;
    case Format::kQ6:  // neither weight rows nor columns have it
      break;
    case Format::kQ8:
      return 32;
  }
  return 0;
}

template <class V>
inline void prefetch_bytes(const void* from, std::size_t num_bytes) {
  for (std::size_t at = 0; at < num_bytes; at += 64) {
    V::prefetch(static_cast<const std::uint8_t*>(from) + at);
  }
}

template <class V>
inline void prefetch_row(const RowMatrix& weight, std::size_t row) {
  const std::size_t num_groups = weight.padded_in() / kGroup;
  const std::size_t row_bytes = num_groups * bytes_per_group(weight.format());
  prefetch_bytes<V>(weight.values<std::uint8_t>() + row * row_bytes, row_bytes);
  if (!is_quantized(weight.format())) return;
  const std::size_t scale_bytes = num_groups * sizeof(std::uint16_t);
  prefetch_bytes<V>(weight.scales() + row * num_groups, scale_bytes);
  if (weight.has_min()) prefetch_bytes<V>(weight.mins() + row * num_groups, scale_bytes);
}

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

// Returns what the bias of nibbles, or the minimum, adds: the sum over groups of w * scaled_sum.
template <class V>
inline typename V::F32 group_sums(const std::uint16_t* weights, const float* scaled_sums,
                                  std::size_t num_groups, float factor) {
  using F32 = typename V::F32;
  F32 sum = F32::zero();
  for (std::size_t g = 0; g < num_groups; g += 16) {
    sum = V::fma(F32::load_float16(weights + g), F32::load(scaled_sums + g), sum);
  }
  return sum * F32::all(factor);
}

// dots = x . weight rows. kRows of them are computed together, so that x is loaded once. A lane
// sums up a group, so that scales are applied to 16 groups at once. The weight rows `next` are
// prefetched line by line: if all were requested at once, they would wait for each other, and the
// dots for them.
template <class V, int kRows, bool kNibbles, bool kIsInt16>
inline void quantized_dots(const RowMatrix& weight, const std::uint32_t* rows,
                           const std::uint32_t* next, const DotInput& x, float* dots) {
  using F32 = typename V::F32;
  using I32 = typename V::I32;
  using Bytes = typename V::Bytes;
  const std::size_t num_groups = weight.padded_in() / kGroup;
  const std::size_t bytes_per_row = kNibbles ? weight.padded_in() / 2 : weight.padded_in();
  const std::size_t scale_bytes = num_groups * sizeof(std::uint16_t);
  const std::uint8_t* w[kRows];
  const std::uint16_t* scales[kRows];
  const std::uint8_t* prefetched[kRows];
  F32 sums[kRows];
  for (int r = 0; r < kRows; ++r) {
    w[r] = weight.values<std::uint8_t>() + rows[r] * bytes_per_row;
    scales[r] = weight.scales() + rows[r] * num_groups;
    sums[r] = F32::zero();
    prefetched[r] = weight.values<std::uint8_t>() + next[r] * bytes_per_row;
    prefetch_bytes<V>(weight.scales() + next[r] * num_groups, scale_bytes);
  }
  for (int r = 0; weight.has_min() && r < kRows; ++r) {
    prefetch_bytes<V>(weight.mins() + next[r] * num_groups, scale_bytes);
  }
  std::size_t at = 0;  // in the weight rows
  for (std::size_t g = 0; g < num_groups; g += 16) {
    I32 high_sums[kRows];
    I32 low_sums[kRows];
    for (int r = 0; r < kRows; ++r) high_sums[r] = low_sums[r] = I32::zero();
    const auto add = [&](int r, const Bytes& codes, std::size_t line) {
      const std::size_t x_at = g * kGroup + 64 * line;
      const auto dot = [&](const I32& so_far, const std::int8_t* values) {
        return kNibbles ? V::add_dot_vector(so_far, codes, values)
                        : V::add_dot_vector_signed(so_far, codes, values);
      };
      high_sums[r] = dot(high_sums[r], x.values + x_at);
      if constexpr (kIsInt16) low_sums[r] = dot(low_sums[r], x.low_values + x_at);
    };
    for (std::size_t line = 0; line < 8; line += kNibbles ? 2 : 1) {
      for (int r = 0; r < kRows; ++r) {
        if constexpr (kNibbles) {
          const Bytes both = Bytes::load(w[r] + at);
          add(r, both.low_nibbles(), line);
          add(r, both.high_nibbles(), line + 1);
        } else {
          add(r, Bytes::load_signed(reinterpret_cast<const std::int8_t*>(w[r] + at)), line);
        }
        V::prefetch(prefetched[r] + at);
      }
      at += 64;
    }
    const F32 x_scales = F32::load(x.scales + g);
    for (int r = 0; r < kRows; ++r) {
      if constexpr (kIsInt16) high_sums[r] = high_sums[r].times(kInt16Step) + low_sums[r];
      const F32 scale = F32::load_float16(scales[r] + g) * x_scales;
      sums[r] = V::fma(high_sums[r].to_float(), scale, sums[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    F32 sum = sums[r];
    if (weight.has_min()) {
      sum = sum +
            group_sums<V>(weight.mins() + rows[r] * num_groups, x.scaled_sums, num_groups, 1.0f);
    }
    if (kNibbles && !weight.has_min()) {
      sum = sum + group_sums<V>(scales[r], x.scaled_sums, num_groups, -8.0f);
    }
    dots[r] = sum.total();
  }
}

template <class V, int kRows, class Weight>
inline void float_dots(const RowMatrix& weight, const std::uint32_t* rows,
                       const std::uint32_t* next, const DotInput& x, float* dots) {
  const std::size_t n = weight.padded_in();
  for (int r = 0; r < kRows; ++r) {
    prefetch_row<V>(weight, next[r]);
    dots[r] = float_dot<V>(weight.values<Weight>() + rows[r] * n, x.floats, n);
  }
}

template <class V, int kRows>
inline void dot_rows(const RowMatrix& weight, const std::uint32_t* rows, const std::uint32_t* next,
                     const DotInput& x, float* dots) {
  const bool is_int16 = x.low_values != nullptr;
  switch (weight.format()) {
    case Format::kFloat32:
      return float_dots<V, kRows, float>(weight, rows, next, x, dots);
    case Format::kFloat16:
      return float_dots<V, kRows, Float16>(weight, rows, next, x, dots);
    case Format::kBfloat16:
      return float_dots<V, kRows, Bfloat16>(weight, rows, next, x, dots);
    case Format::kQ4:
      return is_int16 ? quantized_dots<V, kRows, true, true>(weight, rows, next, x, dots)
                      : quantized_dots<V, kRows, true, false>(weight, rows, next, x, dots);
    case Format::kQ6:  // weight rows do not have it
      break;
    case Format::kQ8:
      return is_int16 ? quantized_dots<V, kRows, false, true>(weight, rows, next, x, dots)
                      : quantized_dots<V, kRows, false, false>(weight, rows, next, x, dots);
  }
}

constexpr std::size_t kRowsAtOnce = 4;

template <class V>
void row_dots_kernel(const RowMatrix& weight, const DotInput& x, const WeightRows& rows,
                     float* dots) {
  std::size_t num_prefetched = 0;
  // Weight rows to prefetch with those from n on; the same ones where too few are left.
  const auto next = [&](std::size_t n, std::size_t count) {
    if (num_prefetched + count > rows.num_next) return rows.indices + n;
    num_prefetched += count;
    return rows.next + num_prefetched - count;
  };
  std::size_t n = 0;
  for (; n + kRowsAtOnce <= rows.count; n += kRowsAtOnce) {
    dot_rows<V, kRowsAtOnce>(weight, rows.indices + n, next(n, kRowsAtOnce), x, dots + n);
  }
  for (; n < rows.count; ++n) dot_rows<V, 1>(weight, rows.indices + n, next(n, 1), x, dots + n);
  for (; num_prefetched < rows.num_next; ++num_prefetched)
    prefetch_row<V>(weight, rows.next[num_prefetched]);
}

// Outputs [begin, begin + 32) of a column, in float32.
template <class V>
struct ColumnPair {
  typename V::F32 first;
  typename V::F32 second;
};

template <class V, class Weight>
inline ColumnPair<V> float_column(const ColumnMatrix& weight, std::size_t column,
                                  std::size_t begin) {
  const Weight* from = weight.values<Weight>() + column * weight.padded_out() + begin;
  return {load_weights<V>(from), load_weights<V>(from + 16)};
}

// `scales` and `mins` belong to the outputs [begin, begin + 32) of the column's group.
template <class V, bool kNibbles, bool kHasMin, class Scale>
inline ColumnPair<V> quantized_column(const ColumnMatrix& weight, std::size_t column,
                                      std::size_t begin, const Scale* scales, const Scale* mins) {
  using F32 = typename V::F32;
  using I32 = typename V::I32;
  F32 q[2];
  if constexpr (kNibbles) {
    constexpr int kBias = kHasMin ? 0 : 8;
    const I32 both = I32::widen_bytes(weight.values<std::uint8_t>() +
                                      column * (weight.padded_out() / 2) + begin / 2);
    q[0] = V::template low_nibble_less<kBias>(both);
    q[1] = V::template low_nibble_less<kBias>(both.high_nibbles());
  } else {
    const std::int8_t* from = weight.values<std::int8_t>() + column * weight.padded_out() + begin;
    q[0] = I32::widen_signed_bytes(from).to_float();
    q[1] = I32::widen_signed_bytes(from + 16).to_float();
  }
  F32 w[2];
  for (std::size_t i = 0; i < 2; ++i) {
    const F32 scale = load_weights<V>(scales + 16 * i);
    w[i] = kHasMin ? V::fma(q[i], scale, load_weights<V>(mins + 16 * i)) : q[i] * scale;
  }
  return {w[0], w[1]};
}

// Reads pairs of outputs of a weight's columns.
template <class V, class Weight>
struct FloatColumns {
  const ColumnMatrix& weight;

  ColumnPair<V> pair(std::size_t column, std::size_t begin) const {
    return float_column<V, Weight>(weight, column, begin);
  }
};

template <class V, bool kNibbles, bool kHasMin>
struct QuantizedColumns {
  const ColumnMatrix& weight;

  ColumnPair<V> pair(std::size_t column, std::size_t begin) const {
    const std::size_t at = column / kGroup * weight.padded_out() + begin;
    return quantized_column<V, kNibbles, kHasMin>(
        weight, column, begin, reinterpret_cast<const Float16*>(weight.scales()) + at,
        kHasMin ? reinterpret_cast<const Float16*>(weight.mins()) + at : nullptr);
  }
};

// The same for some groups and outputs, whose scales are turned into float32 once for all tokens.
template <class V, bool kNibbles, bool kHasMin>
struct ScaledColumns {
  const ColumnTask& task;

  explicit ScaledColumns(const ColumnTask& of) : task(of) {
    widen(task.weight->scales(), task.scratch);
    if constexpr (kHasMin) widen(task.weight->mins(), task.scratch + num_scales());
  }
  std::size_t num_scales() const {
    return (task.last + kGroup - 1 - task.first) / kGroup * (task.end - task.begin);
  }
  void widen(const std::uint16_t* from, float* to) const {
    const std::size_t stride = task.weight->padded_out();
    const std::size_t width = task.end - task.begin;
    const std::size_t num_groups = num_scales() / width;
    from += task.first / kGroup * stride + task.begin;
    for (std::size_t g = 0; g < num_groups; ++g, from += stride) {
      for (std::size_t i = 0; i < width; i += 16, to += 16) {
        V::F32::load_float16(from + i).store(to);
      }
    }
    if (task.last >= task.weight->num_columns()) return;
    for (std::size_t g = 0; g < num_groups; ++g, from += stride) prefetch_bytes<V>(from, 2 * width);
  }
  ColumnPair<V> pair(std::size_t column, std::size_t begin) const {
    const float* scales = task.scratch + (column - task.first) / kGroup * (task.end - task.begin) +
                          begin - task.begin;
    return quantized_column<V, kNibbles, kHasMin>(*task.weight, column, begin, scales,
                                                  scales + num_scales());
  }
};

// Calls f with an object that reads the weight's columns.
template <class V, template <class, bool, bool> class Quantized, class From, class F>
inline void with_columns(const ColumnMatrix& weight, const From& from, const F& f) {
  switch (weight.format()) {
    case Format::kFloat32:
      return f(FloatColumns<V, float>{weight});
    case Format::kFloat16:
      return f(FloatColumns<V, Float16>{weight});
    case Format::kBfloat16:
      return f(FloatColumns<V, Bfloat16>{weight});
    case Format::kQ4:
      return weight.has_min() ? f(Quantized<V, true, true>{from})
                              : f(Quantized<V, true, false>{from});
    case Format::kQ6:  // columns have none
      break;
    case Format::kQ8:
      return weight.has_min() ? f(Quantized<V, false, true>{from})
                              : f(Quantized<V, false, false>{from});
  }
}

// Prefetches the cache lines of a column's outputs [begin, end).
template <class V>
inline void prefetch_column(const ColumnMatrix& weight, std::size_t column, std::size_t begin,
                            std::size_t end) {
  const std::size_t bytes = bytes_per_group(weight.format());
  prefetch_bytes<V>(
      weight.values<std::uint8_t>() + (column * weight.padded_out() + begin) / kGroup * bytes,
      (end - begin) / kGroup * bytes);
}

// Columns lie anywhere in memory, so each one prefetches another that comes later, in this block of
// neurons or the next.
constexpr std::size_t kPrefetchColumns = 16;

// Adds the columns of a token's active neurons to outputs [begin, begin + 32 * kPairs).
template <class V, int kPairs, class Columns>
inline void add_columns(const ColumnMatrix& weight, const Columns& columns,
                        const ActiveNeurons& active, std::size_t begin, float* out) {
  using F32 = typename V::F32;
  F32 sums[2 * kPairs];
#pragma GCC unroll 16
  for (int i = 0; i < 2 * kPairs; ++i) sums[i] = F32::load(out + 16 * i);
  for (std::size_t n = 0; n < active.count; ++n) {
    const F32 value = F32::all(active.values[n]);
    if (n + kPrefetchColumns < active.num_known) {
      prefetch_column<V>(weight, active.indices[n + kPrefetchColumns], begin, begin + 32 * kPairs);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i) {
      const ColumnPair<V> w =
          columns.pair(active.indices[n], begin + 32 * static_cast<std::size_t>(i));
      sums[2 * i] = V::fma(value, w.first, sums[2 * i]);
      sums[2 * i + 1] = V::fma(value, w.second, sums[2 * i + 1]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 2 * kPairs; ++i) sums[i].store(out + 16 * i);
}

template <class V>
void add_columns_kernel(const ColumnTask& given) {
  const ColumnTask task = given;  // a copy, as the floats that are stored may alias the original
  with_columns<V, ScaledColumns>(*task.weight, task, [&](const auto& columns) {
    for (std::size_t token = 0; token < task.num_tokens; ++token) {
      const ActiveNeurons& active = task.tokens[token];
      std::size_t i = task.begin;
      for (; i + 128 <= task.end; i += 128) {
        add_columns<V, 4>(*task.weight, columns, active, i, active.out + i - task.begin);
      }
      for (; i < task.end; i += 32) {
        add_columns<V, 1>(*task.weight, columns, active, i, active.out + i - task.begin);
      }
    }
  });
}

template <class V>
void decode_columns_kernel(const ColumnMatrix& weight, std::size_t first, std::size_t last,
                           std::size_t begin, std::size_t end, float* out) {
  with_columns<V, QuantizedColumns>(weight, weight, [&](const auto& columns) {
    for (std::size_t column = first; column < last; ++column) {
      for (std::size_t i = begin; i < end; i += 32) {
        const ColumnPair<V> pair = columns.pair(column, i);
        pair.first.store(out);
        pair.second.store(out + 16);
        out += 32;
      }
    }
  });
}

template <class V, int kLanes>
inline void add_decoded(const DecodedColumns& columns, const ActiveNeurons& active, float* out) {
  using F32 = typename V::F32;
  F32 sums[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) sums[i] = F32::load(out + 16 * i);
  for (std::size_t n = 0; n < active.count; ++n) {
    const float* column = columns.values + (active.indices[n] - columns.first) * columns.width;
    const F32 value = F32::all(active.values[n]);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) sums[i] = V::fma(value, F32::load(column + 16 * i), sums[i]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) sums[i].store(out + 16 * i);
}

template <class V>
void add_decoded_kernel(const DecodedColumns& columns, const ActiveNeurons* tokens,
                        std::size_t num_tokens) {
  for (std::size_t token = 0; token < num_tokens; ++token) {
    const ActiveNeurons& active = tokens[token];
    if (columns.width == 64) {
      add_decoded<V, 4>(columns, active, active.out);
      continue;
    }
    for (std::size_t i = 0; i < columns.width; i += 32) {
      const DecodedColumns part{columns.values + i, columns.first, columns.width};
      add_decoded<V, 2>(part, active, active.out + i);
    }
  }
}

}  // namespace

}  // namespace nestling
