// A layer without its attention and its feed-forward: AltUp, the heads, LAuReL, the residuals and
// the per-layer input.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/step.h"

namespace nestling {

void Gemma3n::Step::choose_quants(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  const bool may_be_int16 = model_.switches_.int16_activations;
  const ActivationQuant plain =
      layer < kFirstInt8Pow2Layer ? ActivationQuant::kInt8 : ActivationQuant::kInt8Pow2;
  const ActivationQuant first =
      may_be_int16 && layer < kFirstInt8Layer ? ActivationQuant::kInt16 : plain;
  has_int16_dots_ = may_be_int16 && layer < kFirstInt8Pow2Layer;
  ws_.normed.quant = first;
  ws_.attended.quant = first;
  ws_.laurel_low.quant = may_be_int16 ? ActivationQuant::kInt16 : plain;
  // A gate that is not computed again near the cutoff decides alone which neurons are active.
  const bool decides = has_int16_dots_ && model_.layers_[layer].std_multiplier.has_value();
  ws_.ffn_in.quant = decides ? ActivationQuant::kInt16 : first;
  if (refines(w)) ws_.ffn_in.quant = ActivationQuant::kInt8Pow2;
  for (Activations* x : {&ws_.ffn_act, &ws_.gate_in, &ws_.gated}) {
    x->quant = plain;
  }
}

// modalities [altup_num_inputs] = tanh of the router's products with the normed input. One number
// more is overwritten.
void Gemma3n::Step::altup_router(const LayerWeights& w, const float* x, float* modalities) const {
  const std::size_t n = num_altup_inputs_;
  kernels_.dots(x, w.router.data(), n, hidden_, modalities);
  const float inverse = inverse_rms(modalities[n], c_.hidden_size);
  for (std::size_t i = 0; i < n; ++i) modalities[i] = std::tanh(modalities[i] * inverse);
}

// Computes how much each AltUp input contributes to each prediction, [prediction][input].
void Gemma3n::Step::compute_prediction_coefs(const LayerWeights& w, std::size_t token) {
  const std::size_t n = num_altup_inputs_;
  float modalities[kMaxAltupInputs + 1];
  altup_router(w, altup_input(token, c_.altup_active_idx), modalities);
  float* const coefs = prediction_coefs(token);
  for (std::size_t k = 0; k < n * n; ++k) {
    const float* from = w.prediction_coefs.data() + k * n;
    coefs[k] = k / n == k % n ? 1.0f : 0.0f;
    for (std::size_t i = 0; i < n; ++i) coefs[k] += from[i] * modalities[i];
  }
}

// Predicts the active AltUp input. The predictions of the others are computed when they are
// corrected, which moves less memory than to keep them.
void Gemma3n::Step::predict_active(std::size_t token) {
  const float* inputs[kMaxAltupInputs];
  for (std::size_t i = 0; i < num_altup_inputs_; ++i) inputs[i] = altup_input(token, i);
  kernels_.combine(ws_.predicted.token(token), inputs,
                   prediction_coefs(token) + c_.altup_active_idx * num_altup_inputs_,
                   num_altup_inputs_, hidden_);
}

// Runs `before`, which is what the layer before left to be done, and then prepares the layer:
// AltUp's prediction and the normed input of attention.
template <class Before>
void Gemma3n::Step::altup_predict(std::size_t layer, const Before& before) {
  const PartTimer timer(times_.altup);
  const LayerWeights& w = w_.layers[layer];
  choose_quants(layer);
  const bool to_int8 =
      any_quantized({w.q_proj.get(), w.k_proj.get(), w.v_proj.get(), w.laurel_left.get()});
  in_passes(
      before, [&](std::size_t token) { compute_prediction_coefs(w, token); },
      [&](std::size_t token) { predict_active(token); },
      [&](std::size_t token) {
        norm(ws_.normed.token(token), nullptr, ws_.predicted.token(token), w.input_layernorm);
      },
      [&](std::size_t token) {
        if (to_int8) quantize(ws_.normed, token);
      });
}

void Gemma3n::Step::altup_predict_first() {
  altup_predict(0, [](std::size_t) {});
}

// Computes the queries, and writes keys and values into the cache.
void Gemma3n::Step::project_qkv(std::size_t layer) {
  const PartTimer timer(times_.projections);
  const LayerWeights& w = w_.layers[layer];
  if (w.k_proj != nullptr && model_.layers_[layer].kv_source_layer == layer) {
    products({{w.q_proj.get(), &ws_.normed, &ws_.q},
              {w.k_proj.get(), &ws_.normed, &ws_.k},
              {w.v_proj.get(), &ws_.normed, &ws_.v}});
  } else {
    products({{w.q_proj.get(), &ws_.normed, &ws_.q}});
  }
  for_tokens([&](std::size_t token, std::size_t thread) { normalise_heads(layer, token, thread); });
}

void Gemma3n::Step::normalise_heads(std::size_t layer, std::size_t token, std::size_t thread) {
  const LayerWeights& w = w_.layers[layer];
  const LayerConfig& config = model_.layers_[layer];
  const std::size_t size = c_.head_dim;
  const std::size_t stride = padded(size);
  const int type = config.is_sliding ? 1 : 0;
  const auto norm = [&](const float* from, float* to, const float* weight) {
    std::memcpy(to, from, size * sizeof(float));
    std::fill(to + size, to + stride, 0.0f);
    const float inverse = inverse_rms(kernels_.sum_squares(to, stride), size);
    if (weight != nullptr) {
      kernels_.add_normed(to, nullptr, to, inverse, weight, stride);
    } else {
      const float* input = to;
      kernels_.combine(to, &input, &inverse, 1, stride);
    }
  };
  const auto rotate = [&](float* head) {
    kernels_.rotate(head, ws_.rope[type][0].token(token), ws_.rope[type][1].token(token), size / 2);
  };
  for (std::size_t head = 0; head < c_.num_attention_heads; ++head) {
    float* to = ws_.queries.token(token) + head * stride;
    norm(ws_.q.token(token) + head * size, to, w.q_norm.data());
    rotate(to);
  }
  if (config.kv_source_layer != layer) return;
  float* const heads = ws_.thread_scratch[thread].data();
  for (std::size_t head = 0; head < c_.num_key_value_heads; ++head) {
    norm(ws_.k.token(token) + head * size, heads + head * stride, w.k_norm.data());
    rotate(heads + head * stride);
  }
  store_kv(layer, token, thread, false);
  for (std::size_t head = 0; head < c_.num_key_value_heads; ++head) {
    norm(ws_.v.token(token) + head * size, heads + head * stride, nullptr);
  }
  store_kv(layer, token, thread, true);
}

// Copies what the thread's scratch holds, [num_key_value_heads][padded head_dim] of one position,
// to its place in its key group.
void Gemma3n::Step::store_kv(std::size_t layer, std::size_t token, std::size_t thread,
                             bool are_values) {
  const bool is_sliding = model_.layers_[layer].is_sliding;
  const auto& table = is_sliding ? batch_.sliding_block_table : batch_.full_block_table;
  KvCache::Pool& pool = cache_.pools_[is_sliding ? 1 : 0];
  const auto position = static_cast<std::size_t>(ws_.token_position[token]);
  const std::size_t block_size = cache_.config_.block_size;
  const auto block = static_cast<std::size_t>(
      table[ws_.token_sequence[token] * batch_.blocks_per_sequence + position / block_size]);
  const std::size_t stride = padded(c_.head_dim);
  const std::size_t half = c_.num_key_value_heads * stride * kTile;
  const std::size_t at = block * pool.block_elements + cache_.layer_offset_[layer] +
                         position % block_size / kTile * cache_.group_elements_ +
                         (are_values ? half : 0);
  const std::size_t lane = position % kTile;
  const auto store = [&](const auto* from, auto* to) {
    for (std::size_t head = 0; head < c_.num_key_value_heads; ++head) {
      for (std::size_t d = 0; d < stride; ++d) {
        const std::size_t place =
            are_values ? (head * kTile + lane) * stride + d : (head * stride + d) * kTile + lane;
        to[place] = from[head * stride + d];
      }
    }
  };
  const float* const heads = ws_.thread_scratch[thread].data();
  if (!cache_.config_.is_float16) return store(heads, pool.data.as<float>() + at);
  std::uint16_t* const halves = ws_.thread_float16[thread].data();
  kernels_.to_float16(heads, c_.num_key_value_heads * stride, halves);
  store(halves, pool.data.as<std::uint16_t>() + at);
}

// Computes attention and LAuReL, adds them, and prepares the input of the feed-forward.
void Gemma3n::Step::attend(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  const std::size_t head = padded(c_.head_dim);
  const bool is_padded = head != c_.head_dim;
  {
    const PartTimer timer(times_.attention);
    attention(layer);
  }
  const PartTimer timer(times_.projections);
  const bool is_quantized_out = is_quantized(w.o_proj->format());
  for_tokens([&](std::size_t token) {
    if (is_padded) {
      for (std::size_t i = 0; i < c_.num_attention_heads; ++i) {
        std::memcpy(ws_.attended.token(token) + i * c_.head_dim,
                    ws_.attended_heads.token(token) + i * head, c_.head_dim * sizeof(float));
      }
    }
    if (is_quantized_out) quantize(ws_.attended, token);
  });
  linear(*w.laurel_left, ws_.normed.from(0, is_alone()), 0, w.laurel_left->num_tiles(),
         ws_.laurel_low.token(0), ws_.laurel_low.stride);
  if (is_quantized(w.laurel_right->format())) {
    for_tokens([&](std::size_t token) { quantize(ws_.laurel_low, token); });
  }
  products({{w.o_proj.get(), &ws_.attended, &ws_.attention_out},
            {w.laurel_right.get(), &ws_.laurel_low, &ws_.laurel_out}});
  add_residuals(layer);
}

// Adds attention and LAuReL to the residual, and prepares the input of the feed-forward.
void Gemma3n::Step::add_residuals(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  const bool to_int8 = any_quantized({w.gate_proj.get(), w.up_proj.get()});
  const bool has_dots = w.up_rows != nullptr && (refines(w) || is_quantized(w.up_rows->format()));
  in_passes(
      [&](std::size_t token) {
        norm(ws_.hidden.token(token), ws_.predicted.token(token), ws_.attention_out.token(token),
             w.post_attention_layernorm);
      },
      [&](std::size_t token) {
        norm(ws_.hidden.token(token), ws_.hidden.token(token), ws_.laurel_out.token(token),
             w.post_laurel_norm);
      },
      [&](std::size_t token) {
        const float* inputs[] = {ws_.hidden.token(token), ws_.normed.token(token)};
        const float half_root = std::sqrt(0.5f);
        const float coefs[] = {half_root, half_root};
        kernels_.combine(ws_.hidden.token(token), inputs, coefs, 2, hidden_);
      },
      [&](std::size_t token) {
        norm(ws_.ffn_in.token(token), nullptr, ws_.hidden.token(token),
             w.pre_feedforward_layernorm);
      },
      [&](std::size_t token) {
        if (to_int8) quantize(ws_.ffn_in, token);
        if (has_dots) quantize_dot(token);
      });
}

// Arranges the input of the feed-forward for dots with weight rows.
void Gemma3n::Step::quantize_dot(std::size_t token) {
  const std::size_t groups = ws_.dot_padded / kGroup;
  kernels_.quantize_dot(
      ws_.ffn_in.token(token), ws_.ffn_in.width, ws_.dot_padded,
      ws_.dot_values.data() + token * ws_.dot_padded,
      has_int16_dots_ ? ws_.dot_low_values.data() + token * ws_.dot_padded : nullptr,
      ws_.dot_scales.data() + token * groups, ws_.dot_sums.data() + token * groups);
}

// Adds the feed-forward to the residual, corrects all AltUp inputs by it, and prepares the input of
// the per-layer gate.
void Gemma3n::Step::altup_correct(const LayerWeights& w) {
  const PartTimer timer(times_.altup);
  const std::size_t active = c_.altup_active_idx;
  const bool to_int8 = is_quantized(w.per_layer_input_gate->format());
  in_passes(
      [&](std::size_t token) {
        norm(ws_.hidden.token(token), ws_.hidden.token(token), ws_.ffn_out.token(token),
             w.post_feedforward_layernorm);
      },
      [&](std::size_t token) { correct_token(w, token); },
      [&](std::size_t token) {
        kernels_.add_normed(ws_.gate_in.token(token), nullptr, altup_input(token, active), 1.0f,
                            w.correct_output_scale.data(), hidden_);
      },
      [&](std::size_t token) {
        if (to_int8) quantize(ws_.gate_in, token);
      });
}

void Gemma3n::Step::correct_token(const LayerWeights& w, std::size_t token) {
  const std::size_t n = num_altup_inputs_;
  const float* activated = ws_.hidden.token(token);
  float modalities[kMaxAltupInputs + 1];
  altup_router(w, activated, modalities);
  float gains[kMaxAltupInputs];
  for (std::size_t o = 0; o < n; ++o) {
    gains[o] = 1.0f;
    for (std::size_t i = 0; i < n; ++i) gains[o] += w.correction_coefs[o * n + i] * modalities[i];
  }
  kernels_.altup_correct({.altup_inputs = altup_input(token, 0),
                          .num_altup_inputs = n,
                          .active_idx = c_.altup_active_idx,
                          .prediction_coefs = prediction_coefs(token),
                          .activated = activated,
                          .gains = gains,
                          .size = hidden_});
}

// Adds the per-layer inputs to all AltUp inputs but the first, and then prepares the next layer.
void Gemma3n::Step::add_per_layer_inputs(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  {
    const PartTimer timer(times_.per_layer_inputs);
    products({{w.per_layer_input_gate.get(), &ws_.gate_in, &ws_.gate_out}});
    const std::size_t stride = padded(c_.hidden_size_per_layer_input);
    const bool to_int8 = is_quantized(w.per_layer_projection->format());
    in_passes(
        [&](std::size_t token) {
          float* gated = ws_.gated.token(token);
          std::memcpy(gated, ws_.gate_out.token(token), stride * sizeof(float));
          kernels_.gelu_times(gated, ws_.per_layer.token(token) + layer * stride, stride);
        },
        [&](std::size_t token) {
          if (to_int8) quantize(ws_.gated, token);
        });
    products({{w.per_layer_projection.get(), &ws_.gated, &ws_.update}});
  }
  const auto add_update = [&](std::size_t token) {
    const float* update = ws_.update.token(token);
    const float inverse = inverse_rms(kernels_.sum_squares(update, hidden_), c_.hidden_size);
    for (std::size_t i = 1; i < num_altup_inputs_; ++i) {
      float* to = altup_input(token, i);
      kernels_.add_normed(to, to, update, inverse, w.post_per_layer_input_norm.data(), hidden_);
    }
  };
  if (layer + 1 < w_.layers.size()) {
    altup_predict(layer + 1, add_update);
  } else {
    for_tokens(add_update);
  }
}

}  // namespace nestling
