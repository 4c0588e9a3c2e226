// A layer but for its feed-forward part: AltUp, heads, what surrounds attention, LAuReL, the
// per-layer input.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/step.h"

namespace nestling {

void Gemma3n::Step::choose_rounding(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  const bool may_be_wide = model_.switches_.wide_activations;
  const Rounding plain = layer < kFineLayers ? Rounding::kFine : Rounding::kCoarse;
  const Rounding first = may_be_wide && layer < kWideLayers ? Rounding::kWide : plain;
  has_wide_dots_ = may_be_wide && layer < kFineLayers;
  ws_.normed.rounding = first;
  ws_.attended.rounding = first;
  ws_.laurel_low.rounding = may_be_wide ? Rounding::kWide : plain;
  // A gate that is not computed again near the cutoff decides alone which neurons live.
  const bool decides = has_wide_dots_ && model_.layers_[layer].std_multiplier.has_value();
  ws_.ffn_in.rounding = decides ? Rounding::kWide : first;
  if (refines(w)) ws_.ffn_in.rounding = Rounding::kCoarse;
  for (Activations* x : {&ws_.ffn_act, &ws_.gate_in, &ws_.gated}) {
    x->rounding = plain;
  }
}

// The router's opinion of a stream: tanh of its norm's dots, [altup_num_inputs].
void Gemma3n::Step::weigh(const LayerWeights& w, const float* x, float* modalities) const {
  const std::size_t n = num_streams_;
  kernels_.dots(x, w.router.data(), n, hidden_, modalities);
  const float inverse = inverse_rms(modalities[n], c_.hidden_size);
  for (std::size_t i = 0; i < n; ++i) modalities[i] = std::tanh(modalities[i] * inverse);
}

// What AltUp's predictions take of each stream, [prediction][stream].
void Gemma3n::Step::weigh_streams(const LayerWeights& w, std::size_t row) {
  const std::size_t n = num_streams_;
  float modalities[kMostStreams + 1];
  weigh(w, stream(row, c_.altup_active_idx), modalities);
  float* const coefs = prediction_coefs(row);
  for (std::size_t k = 0; k < n * n; ++k) {
    const float* from = w.prediction_coefs.data() + k * n;
    coefs[k] = k / n == k % n ? 1.0f : 0.0f;
    for (std::size_t i = 0; i < n; ++i) coefs[k] += from[i] * modalities[i];
  }
}

// AltUp's prediction of the active stream. The others' are made again when they are corrected,
// which moves less memory than to keep them.
void Gemma3n::Step::predict_active(std::size_t row) {
  const float* inputs[kMostStreams];
  for (std::size_t i = 0; i < num_streams_; ++i) inputs[i] = stream(row, i);
  kernels_.combine(ws_.predicted.row(row), inputs,
                   prediction_coefs(row) + c_.altup_active_idx * num_streams_, num_streams_,
                   hidden_);
}

// The inputs of the layer, after `before`, which is what the layer before leaves to be done.
template <class Before>
void Gemma3n::Step::enter(std::size_t layer, const Before& before) {
  const PartTimer timer(times_.altup);
  const LayerWeights& w = w_.layers[layer];
  choose_rounding(layer);
  const bool to_bytes =
      any_quantized({w.q_proj.get(), w.k_proj.get(), w.v_proj.get(), w.laurel_left.get()});
  in_passes(
      before, [&](std::size_t row) { weigh_streams(w, row); },
      [&](std::size_t row) { predict_active(row); },
      [&](std::size_t row) {
        norm(ws_.normed.row(row), nullptr, ws_.predicted.row(row), w.input_layernorm);
      },
      [&](std::size_t row) {
        if (to_bytes) quantize(ws_.normed, row);
      });
}

void Gemma3n::Step::enter_first_layer() {
  enter(0, [](std::size_t) {});
}

// Queries; keys and values into the cache.
void Gemma3n::Step::make_heads(std::size_t layer) {
  const PartTimer timer(times_.projections);
  const LayerWeights& w = w_.layers[layer];
  if (w.k_proj != nullptr && model_.layers_[layer].kv_source_layer == layer) {
    products({{w.q_proj.get(), &ws_.normed, &ws_.q},
              {w.k_proj.get(), &ws_.normed, &ws_.k},
              {w.v_proj.get(), &ws_.normed, &ws_.v}});
  } else {
    products({{w.q_proj.get(), &ws_.normed, &ws_.q}});
  }
  for_rows([&](std::size_t row, std::size_t thread) { heads_row(layer, row, thread); });
}

void Gemma3n::Step::heads_row(std::size_t layer, std::size_t row, std::size_t thread) {
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
    kernels_.rotate(head, ws_.rope[type][0].row(row), ws_.rope[type][1].row(row), size / 2);
  };
  for (std::size_t head = 0; head < c_.num_attention_heads; ++head) {
    float* to = ws_.queries.row(row) + head * stride;
    norm(ws_.q.row(row) + head * size, to, w.q_norm.data());
    rotate(to);
  }
  if (config.kv_source_layer != layer) return;
  float* const heads = ws_.thread_scratch[thread].data();
  for (std::size_t head = 0; head < c_.num_key_value_heads; ++head) {
    norm(ws_.k.row(row) + head * size, heads + head * stride, w.k_norm.data());
    rotate(heads + head * stride);
  }
  store_keys(layer, row, thread, false);
  for (std::size_t head = 0; head < c_.num_key_value_heads; ++head) {
    norm(ws_.v.row(row) + head * size, heads + head * stride, nullptr);
  }
  store_keys(layer, row, thread, true);
}

// What the thread's scratch holds, [num_key_value_heads][padded head_dim] of one position, to its
// place in its key group.
void Gemma3n::Step::store_keys(std::size_t layer, std::size_t row, std::size_t thread,
                               bool are_values) {
  const bool is_sliding = model_.layers_[layer].is_sliding;
  const auto& table = is_sliding ? batch_.sliding_block_table : batch_.full_block_table;
  KvCache::Pool& pool = cache_.pools_[is_sliding ? 1 : 0];
  const auto position = static_cast<std::size_t>(ws_.row_position[row]);
  const std::size_t block_size = cache_.config_.block_size;
  const auto block = static_cast<std::size_t>(
      table[ws_.row_sequence[row] * batch_.blocks_per_sequence + position / block_size]);
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
  std::uint16_t* const halves = ws_.thread_halves[thread].data();
  kernels_.to_float16(heads, c_.num_key_value_heads * stride, halves);
  store(halves, pool.data.as<std::uint16_t>() + at);
}

// Attention and LAuReL, back into the residual; the input of the feed-forward.
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
  for_rows([&](std::size_t row) {
    if (is_padded) {
      for (std::size_t i = 0; i < c_.num_attention_heads; ++i) {
        std::memcpy(ws_.attended.row(row) + i * c_.head_dim, ws_.attended_heads.row(row) + i * head,
                    c_.head_dim * sizeof(float));
      }
    }
    if (is_quantized_out) quantize(ws_.attended, row);
  });
  linear(*w.laurel_left, ws_.normed.from(0, is_alone()), 0, w.laurel_left->num_tiles(),
         ws_.laurel_low.row(0), ws_.laurel_low.stride);
  if (is_quantized(w.laurel_right->format())) {
    for_rows([&](std::size_t row) { quantize(ws_.laurel_low, row); });
  }
  products({{w.o_proj.get(), &ws_.attended, &ws_.attention_out},
            {w.laurel_right.get(), &ws_.laurel_low, &ws_.laurel_out}});
  mix(layer);
}

// Attention and LAuReL into the residual; the input of the feed-forward.
void Gemma3n::Step::mix(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  const bool to_bytes = any_quantized({w.gate_proj.get(), w.up_proj.get()});
  const bool has_dots = w.up_rows != nullptr && (refines(w) || is_quantized(w.up_rows->format()));
  in_passes(
      [&](std::size_t row) {
        norm(ws_.hidden.row(row), ws_.predicted.row(row), ws_.attention_out.row(row),
             w.post_attention_layernorm);
      },
      [&](std::size_t row) {
        norm(ws_.hidden.row(row), ws_.hidden.row(row), ws_.laurel_out.row(row), w.post_laurel_norm);
      },
      [&](std::size_t row) {
        const float* inputs[] = {ws_.hidden.row(row), ws_.normed.row(row)};
        const float half_root = std::sqrt(0.5f);
        const float coefs[] = {half_root, half_root};
        kernels_.combine(ws_.hidden.row(row), inputs, coefs, 2, hidden_);
      },
      [&](std::size_t row) {
        norm(ws_.ffn_in.row(row), nullptr, ws_.hidden.row(row), w.pre_feedforward_layernorm);
      },
      [&](std::size_t row) {
        if (to_bytes) quantize(ws_.ffn_in, row);
        if (has_dots) quantize_dot(row);
      });
}

// The input of the feed-forward as dots with neurons' rows take it.
void Gemma3n::Step::quantize_dot(std::size_t row) {
  const std::size_t groups = ws_.dot_padded / kGroup;
  kernels_.quantize_dot(ws_.ffn_in.row(row), ws_.ffn_in.width, ws_.dot_padded,
                        ws_.dot_bytes.data() + row * ws_.dot_padded,
                        has_wide_dots_ ? ws_.dot_low_bytes.data() + row * ws_.dot_padded : nullptr,
                        ws_.dot_scales.data() + row * groups, ws_.dot_sums.data() + row * groups);
}

// AltUp's correction and the per-layer input; then the next layer's inputs.
void Gemma3n::Step::finish(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  correct(w);
  {
    const PartTimer timer(times_.per_layer_inputs);
    products({{w.per_layer_input_gate.get(), &ws_.gate_in, &ws_.gate_out}});
    const std::size_t stride = padded(c_.hidden_size_per_layer_input);
    const bool to_bytes = is_quantized(w.per_layer_projection->format());
    in_passes(
        [&](std::size_t row) {
          float* gated = ws_.gated.row(row);
          std::memcpy(gated, ws_.gate_out.row(row), stride * sizeof(float));
          kernels_.gelu_times(gated, ws_.per_layer.row(row) + layer * stride, stride);
        },
        [&](std::size_t row) {
          if (to_bytes) quantize(ws_.gated, row);
        });
    products({{w.per_layer_projection.get(), &ws_.gated, &ws_.update}});
  }
  const auto add_update = [&](std::size_t row) {
    const float* update = ws_.update.row(row);
    const float inverse = inverse_rms(kernels_.sum_squares(update, hidden_), c_.hidden_size);
    for (std::size_t i = 1; i < num_streams_; ++i) {
      float* to = stream(row, i);
      kernels_.add_normed(to, to, update, inverse, w.post_per_layer_input_norm.data(), hidden_);
    }
  };
  if (layer + 1 < w_.layers.size()) {
    enter(layer + 1, add_update);
  } else {
    for_rows(add_update);
  }
}

// The feed-forward into the residual, that into all streams; the input of the per-layer gate.
void Gemma3n::Step::correct(const LayerWeights& w) {
  const PartTimer timer(times_.altup);
  const std::size_t active = c_.altup_active_idx;
  const bool to_bytes = is_quantized(w.per_layer_input_gate->format());
  in_passes(
      [&](std::size_t row) {
        norm(ws_.hidden.row(row), ws_.hidden.row(row), ws_.ffn_out.row(row),
             w.post_feedforward_layernorm);
      },
      [&](std::size_t row) { correct_row(w, row); },
      [&](std::size_t row) {
        kernels_.add_normed(ws_.gate_in.row(row), nullptr, stream(row, active), 1.0f,
                            w.correct_output_scale.data(), hidden_);
      },
      [&](std::size_t row) {
        if (to_bytes) quantize(ws_.gate_in, row);
      });
}

void Gemma3n::Step::correct_row(const LayerWeights& w, std::size_t row) {
  const std::size_t n = num_streams_;
  const float* activated = ws_.hidden.row(row);
  float modalities[kMostStreams + 1];
  weigh(w, activated, modalities);
  float gains[kMostStreams];
  for (std::size_t o = 0; o < n; ++o) {
    gains[o] = 1.0f;
    for (std::size_t i = 0; i < n; ++i) gains[o] += w.correction_coefs[o * n + i] * modalities[i];
  }
  kernels_.correct({.streams = stream(row, 0),
                    .num_streams = n,
                    .active = c_.altup_active_idx,
                    .prediction_coefs = prediction_coefs(row),
                    .activated = activated,
                    .gains = gains,
                    .size = hidden_});
}

}  // namespace nestling
