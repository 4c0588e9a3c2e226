// The kernel table of a variant, made of its lanes. Each variant's source file includes this file.
#pragma once

#include "kernels/step_attention.h"
#include "kernels/step_linear.h"
#include "kernels/step_sparse.h"
#include "kernels/step_vectors.h"

namespace nestling {

namespace {

template <class V>
constexpr StepKernels step_table() {
  return {.attention_vectors = static_cast<std::size_t>(kMaxScored<V>),
          .linear = linear_kernel<V>,
          .quantize = quantize_kernel<V>,
          .quantize_dot = quantize_dot_kernel<V>,
          .row_dots = row_dots_kernel<V>,
          .add_columns = add_columns_kernel<V>,
          .decode_columns = decode_columns_kernel<V>,
          .add_decoded = add_decoded_kernel<V>,
          .attention = attention_kernel<V>,
          .join_attention = join_attention_kernel<V>,
          .sum = sum_kernel<V>,
          .sum_squares = sum_squares_kernel<V>,
          .sum_squared_distances = sum_squared_distances_kernel<V>,
          .dots = dots_kernel<V>,
          .combine = combine_kernel<V>,
          .altup_correct = altup_correct_kernel<V>,
          .add_normed = add_normed_kernel<V>,
          .rotate = rotate_kernel<V>,
          .to_float16 = to_float16_kernel<V>,
          .select_above = select_above_kernel<V>,
          .keep_active = keep_active_kernel<V>,
          .gelu_times = gelu_times_kernel<V>,
          .soft_cap = soft_cap_kernel<V>};
}

}  // namespace

}  // namespace nestling
