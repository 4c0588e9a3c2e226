// Sums and nonlinear functions over the vector of one token. Each variant's source file includes
// this file.
//
// `n` is a multiple of 16 and vectors are padded with zeros, so sums need no tail.
#pragma once

#include "kernels/step_kernels.h"

namespace nestling {

namespace {

// Returns e^x for |x| <= 87 with a relative error below 2e-7. sampling/exp.h explains the
// constants.
template <class V>
inline typename V::F32 exp_lanes(typename V::F32 x) {
  using F32 = typename V::F32;
  const F32 round = F32::all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const F32 shifted = V::fma(x, F32::all(1.44269504f), round);
  const F32 n = shifted - round;
  const F32 r = V::fma(n, F32::all(2.12194440e-4f), V::fma(n, F32::all(-0.693359375f), x));
  F32 series = F32::all(1.0f / 5040.0f);
  series = V::fma(series, r, F32::all(1.0f / 720.0f));
  series = V::fma(series, r, F32::all(1.0f / 120.0f));
  series = V::fma(series, r, F32::all(1.0f / 24.0f));
  series = V::fma(series, r, F32::all(1.0f / 6.0f));
  series = V::fma(series, r, F32::all(0.5f));
  series = V::fma(series, r, F32::all(1.0f));
  series = V::fma(series, r, F32::all(1.0f));
  return V::times_power_of_two(series, shifted);
}

template <class V>
inline typename V::F32 min_lanes(typename V::F32 a, typename V::F32 b) {
  const typename V::F32 zero = V::F32::zero();
  return zero - V::max(zero - a, zero - b);
}

// tanh to about 1e-7 absolute: 1 - 2 / (e^(2x) + 1); beyond 12 it is 1 in float32.
template <class V>
inline typename V::F32 tanh_lanes(typename V::F32 x) {
  using F32 = typename V::F32;
  const F32 bound = F32::all(12.0f);
  const F32 clamped = V::max(min_lanes<V>(x, bound), F32::zero() - bound);
  const F32 power = exp_lanes<V>(clamped + clamped);
  return F32::all(1.0f) - F32::all(2.0f) / (power + F32::all(1.0f));
}

template <class V>
inline typename V::F32 gelu_lanes(typename V::F32 x) {
  using F32 = typename V::F32;
  constexpr float kScale = 0.7978845608f;  // sqrt(2 / pi)
  const F32 inner = x * V::fma(x * x, F32::all(kScale * 0.044715f), F32::all(kScale));
  return x * F32::all(0.5f) * (F32::all(1.0f) + tanh_lanes<V>(inner));
}

template <class V, class Term>
inline float sum_terms(std::size_t n, const Term& term) {
  using F32 = typename V::F32;
  F32 sums[4] = {F32::zero(), F32::zero(), F32::zero(), F32::zero()};
  std::size_t k = 0;
  for (; k + 64 <= n; k += 64) {
    for (std::size_t i = 0; i < 4; ++i) sums[i] = term(k + 16 * i, sums[i]);
  }
  for (; k < n; k += 16) sums[0] = term(k, sums[0]);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])).total();
}

template <class V>
float sum_kernel(const float* x, std::size_t n) {
  using F32 = typename V::F32;
  return sum_terms<V>(n, [&](std::size_t k, F32 sum) { return sum + F32::load(x + k); });
}

template <class V>
float sum_squares_kernel(const float* x, std::size_t n) {
  using F32 = typename V::F32;
  return sum_terms<V>(n, [&](std::size_t k, F32 sum) {
    const F32 lanes = F32::load(x + k);
    return V::fma(lanes, lanes, sum);
  });
}

template <class V>
float sum_squared_distances_kernel(const float* x, std::size_t size, float mean) {
  using F32 = typename V::F32;
  const std::size_t whole = size / 16 * 16;
  const float sum = sum_terms<V>(whole, [&](std::size_t k, F32 so_far) {
    const F32 distance = F32::load(x + k) - F32::all(mean);
    return V::fma(distance, distance, so_far);
  });
  float tail = 0.0f;
  for (std::size_t k = whole; k < size; ++k) tail += (x[k] - mean) * (x[k] - mean);
  return sum + tail;
}

template <class V>
void dots_kernel(const float* x, const float* rows, std::size_t num_rows, std::size_t n,
                 float* sums) {
  using F32 = typename V::F32;
  for (std::size_t i = 0; i < num_rows; ++i) {
    const float* row = rows + i * n;
    sums[i] = sum_terms<V>(n, [&](std::size_t k, F32 sum) {
      return V::fma(F32::load(row + k), F32::load(x + k), sum);
    });
  }
  sums[num_rows] = sum_squares_kernel<V>(x, n);
}

template <class V>
void gelu_times_kernel(float* x, const float* y, std::size_t n) {
  using F32 = typename V::F32;
  for (std::size_t k = 0; k < n; k += 16) {
    (gelu_lanes<V>(F32::load(x + k)) * F32::load(y + k)).store(x + k);
  }
}

template <class V>
void soft_cap_kernel(float* x, std::size_t n, float cap) {
  using F32 = typename V::F32;
  const F32 inverse = F32::all(1.0f / cap);
  std::size_t k = 0;
  for (; k + 16 <= n; k += 16) {
    (F32::all(cap) * tanh_lanes<V>(F32::load(x + k) * inverse)).store(x + k);
  }
  if (k == n) return;
  float padded[16] = {};
  for (std::size_t i = 0; k + i < n; ++i) padded[i] = x[k + i];
  (F32::all(cap) * tanh_lanes<V>(F32::load(padded) * inverse)).store(padded);
  for (std::size_t i = 0; k + i < n; ++i) x[k + i] = padded[i];
}

// out = sum of coefs[i] * inputs[i]; out may be one of them.
template <class V>
void combine_kernel(float* out, const float* const* inputs, const float* coefs, std::size_t count,
                    std::size_t n) {
  using F32 = typename V::F32;
  for (std::size_t k = 0; k < n; k += 16) {
    F32 sum = F32::all(coefs[0]) * F32::load(inputs[0] + k);
    for (std::size_t i = 1; i < count; ++i) {
      sum = V::fma(F32::all(coefs[i]), F32::load(inputs[i] + k), sum);
    }
    sum.store(out + k);
  }
}

// Corrects kCount inputs, or any number up to kMaxAltupInputs if kCount is 0.
template <class V, std::size_t kCount>
inline void correct_inputs(const CorrectionTask& task) {
  using F32 = typename V::F32;
  const std::size_t n = kCount > 0 ? kCount : task.num_altup_inputs;
  for (std::size_t k = 0; k < task.size; k += 16) {
    F32 altup_inputs[kCount > 0 ? kCount : kMaxAltupInputs];
    F32 predictions[kCount > 0 ? kCount : kMaxAltupInputs];
    for (std::size_t i = 0; i < n; ++i)
      altup_inputs[i] = F32::load(task.altup_inputs + i * task.size + k);
    for (std::size_t o = 0; o < n; ++o) {
      const float* coefs = task.prediction_coefs + o * n;
      predictions[o] = F32::all(coefs[0]) * altup_inputs[0];
      for (std::size_t i = 1; i < n; ++i) {
        predictions[o] = V::fma(F32::all(coefs[i]), altup_inputs[i], predictions[o]);
      }
    }
    const F32 activated = F32::load(task.activated + k);
    const F32 active = predictions[task.active_idx];
    for (std::size_t o = 0; o < n; ++o) {
      const F32 sum = V::fma(F32::all(task.gains[o]), activated, predictions[o]);
      V::fma(F32::all(-task.gains[o]), active, sum).store(task.altup_inputs + o * task.size + k);
    }
  }
}

template <class V>
void altup_correct_kernel(const CorrectionTask& task) {
  if (task.num_altup_inputs == 4) return correct_inputs<V, 4>(task);
  correct_inputs<V, 0>(task);
}

// out = base + x * scale * weight; base may be null (0).
template <class V>
void add_normed_kernel(float* out, const float* base, const float* x, float scale,
                       const float* weight, std::size_t n) {
  using F32 = typename V::F32;
  for (std::size_t k = 0; k < n; k += 16) {
    const F32 normed = F32::load(x + k) * F32::all(scale) * F32::load(weight + k);
    (base != nullptr ? F32::load(base + k) + normed : normed).store(out + k);
  }
}

// Rotates x [2 * half] in place; element k pairs with element half + k.
template <class V>
void rotate_kernel(float* x, const float* cos, const float* sin, std::size_t half) {
  using F32 = typename V::F32;
  std::size_t k = 0;
  for (; k + 16 <= half; k += 16) {
    const F32 first = F32::load(x + k);
    const F32 second = F32::load(x + half + k);
    const F32 c = F32::load(cos + k);
    const F32 s = F32::load(sin + k);
    (first * c - second * s).store(x + k);
    (second * c + first * s).store(x + half + k);
  }
  for (; k < half; ++k) {
    const float first = x[k];
    const float second = x[half + k];
    x[k] = first * cos[k] - second * sin[k];
    x[half + k] = second * cos[k] + first * sin[k];
  }
}

template <class V>
void to_float16_kernel(const float* x, std::size_t n, std::uint16_t* out) {
  for (std::size_t k = 0; k < n; k += 16) V::F32::load(x + k).store_float16(out + k);
}

template <class V>
std::size_t select_above_kernel(const float* x, std::size_t size, float bound,
                                std::uint32_t* indices, float* values) {
  std::size_t count = 0;
  std::size_t k = 0;
  if constexpr (requires { &V::store_above; }) {
    for (; k + 16 <= size; k += 16) {
      count += V::store_above(V::F32::load(x + k), bound, static_cast<std::uint32_t>(k),
                              indices + count, values + count);
    }
  }
  for (; k < size; ++k) {
    const float value = x[k];
    indices[count] = static_cast<std::uint32_t>(k);
    values[count] = value;
    count += value > bound ? 1 : 0;
  }
  return count;
}

template <class V>
std::size_t keep_active_kernel(std::uint32_t* indices, float* values, std::size_t count,
                               float cutoff) {
  using F32 = typename V::F32;
  std::size_t num_active = 0;
  for (std::size_t k = 0; k < count; ++k) {
    const float above = values[k] - cutoff;
    indices[num_active] = indices[k];
    values[num_active] = above;
    num_active += above > 0.0f ? 1 : 0;
  }
  std::size_t k = 0;
  for (; k + 16 <= num_active; k += 16) gelu_lanes<V>(F32::load(values + k)).store(values + k);
  float rest[16] = {};
  for (std::size_t i = 0; k + i < num_active; ++i) rest[i] = values[k + i];
  gelu_lanes<V>(F32::load(rest)).store(rest);
  for (std::size_t i = 0; k + i < num_active; ++i) values[k + i] = rest[i];
  return num_active;
}

}  // namespace

}  // namespace nestling
