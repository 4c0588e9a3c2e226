// One step, in the order of docs/model.md, "The forward step". Work on single tokens and products
// alternate. Each is one parallel loop whose pieces do not depend on each other.

#include "model/step.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace nestling {

namespace {

constexpr float kLeastMeanSquare = 1e-5f;  // the floor of AltUp's magnitudes, as in HF

[[noreturn]] void refuse(const std::string& field, std::size_t index, const std::string& expected,
                         std::int64_t got) {
  throw std::invalid_argument(field + "[" + std::to_string(index) + "]: expected " + expected +
                              ", got " + std::to_string(got));
}

}  // namespace

bool any_quantized(std::initializer_list<const Matrix*> matrices) {
  return std::ranges::any_of(matrices, [](const Matrix* matrix) {
    return matrix != nullptr && is_quantized(matrix->format());
  });
}

void Gemma3n::step(const StepBatch& batch, KvCache& cache, float* logits, const OnLayer& on_layer) {
  Step(*this, batch, cache).run(logits, on_layer);
}

void Gemma3n::Step::run(float* logits, const OnLayer& on_layer) {
  const PartTimer timer(times_.total);
  check();
  ++times_.num_steps;
  times_.num_tokens += num_tokens_;
  times_.num_logit_rows += batch_.logit_rows.size();
  if (num_tokens_ == 0) return;
  const std::size_t num_layers = model_.layers_.size();
  std::size_t last_owner = 0;
  for (std::size_t i = 0; i < num_layers; ++i) {
    if (model_.layers_[i].kv_source_layer == i) last_owner = i;
  }
  const bool skips = model_.switches_.prefill_skip && batch_.logit_rows.size() < num_tokens_;
  // This happens once for each token, and every layer depends on it.
  ws_.embedding.quant =
      model_.switches_.int16_activations ? ActivationQuant::kInt16 : ActivationQuant::kInt8;
  embed();
  project_per_layer_inputs(0, skips ? last_owner : num_layers);
  fill_rope();
  altup_predict_first();
  for (std::size_t layer = 0; layer < num_layers; ++layer) {
    project_qkv(layer);
    if (skips && layer == last_owner) {
      keep_logit_tokens();
      if (num_tokens_ == 0) return;
      project_per_layer_inputs(last_owner, num_layers);
    }
    attend(layer);
    feed_forward(layer);
    altup_correct(w_.layers[layer]);
    add_per_layer_inputs(layer);
    if (on_layer) {
      on_layer(layer, ws_.altup_inputs.floats.data(), num_tokens_, ws_.altup_inputs.stride,
               hidden_);
    }
  }
  if (!skips && model_.switches_.wanted_logits_only) keep_logit_tokens();
  if (num_tokens_ > 0) compute_logits(logits);
}

// --- what comes in -------------------------------------------------------------------------------

void Gemma3n::Step::check() const {
  if (!cache_.fits(c_, model_.layers_)) {
    throw std::invalid_argument("cache: expected one that was made for this model");
  }
  const std::size_t num_tokens = batch_.input_ids.size();
  const auto& starts = batch_.query_start_loc;
  if (num_tokens > model_.max_num_batched_tokens_) {
    refuse("input_ids", num_tokens,
           "at most " + std::to_string(model_.max_num_batched_tokens_) + " tokens",
           static_cast<std::int64_t>(num_tokens));
  }
  if (batch_.positions.size() != num_tokens) {
    refuse("positions", 0, "one for each token",
           static_cast<std::int64_t>(batch_.positions.size()));
  }
  if (batch_.num_logits == 0 || batch_.num_logits > c_.vocab_size) {
    refuse("num_logits", 0, "1 to " + std::to_string(c_.vocab_size),
           static_cast<std::int64_t>(batch_.num_logits));
  }
  if (starts.empty() || starts.front() != 0 ||
      static_cast<std::size_t>(starts.back()) != num_tokens) {
    throw std::invalid_argument("query_start_loc: expected 0 first and the number of tokens last");
  }
  for (std::size_t s = 0; s + 1 < starts.size(); ++s) {
    if (starts[s] >= starts[s + 1] || static_cast<std::size_t>(starts[s + 1]) > num_tokens) {
      refuse("query_start_loc", s + 1, "ascending tokens of the batch", starts[s + 1]);
    }
    const auto begin = static_cast<std::size_t>(starts[s]);
    const auto end = static_cast<std::size_t>(starts[s + 1]);
    for (std::size_t token = begin; token < end; ++token) {
      const std::int32_t id = batch_.input_ids[token];
      if (id < 0 || static_cast<std::size_t>(id) >= c_.vocab_size) {
        refuse("input_ids", token, "0 to " + std::to_string(c_.vocab_size - 1), id);
      }
      const std::int32_t position = batch_.positions[token];
      const bool is_next = token == begin || position == batch_.positions[token - 1] + 1;
      if (position < 0 || static_cast<std::size_t>(position) >= model_.max_model_len_ || !is_next) {
        refuse("positions", token,
               "ascending by one, below " + std::to_string(model_.max_model_len_), position);
      }
      ws_.token_position[token] = position;
      ws_.token_sequence[token] = s;
      ws_.source_token[token] = token;
      ws_.logit_index[token] = -1;
    }
    check_tables(s, batch_.positions[begin], batch_.positions[end - 1]);
  }
  std::int64_t before = -1;
  for (std::size_t i = 0; i < batch_.logit_rows.size(); ++i) {
    const std::int32_t token = batch_.logit_rows[i];
    if (token <= before || static_cast<std::size_t>(token) >= num_tokens) {
      refuse("logit_rows", i, "ascending tokens of the batch", token);
    }
    ws_.logit_index[static_cast<std::size_t>(token)] = static_cast<std::int32_t>(i);
    before = token;
  }
}

// Checks that every cache block that the sequence reads or writes lies in its pool.
void Gemma3n::Step::check_tables(std::size_t sequence, std::int64_t first,
                                 std::int64_t last) const {
  const auto block_size = static_cast<std::int64_t>(cache_.config_.block_size);
  const auto width = static_cast<std::int64_t>(batch_.blocks_per_sequence);
  if (last / block_size >= width) {
    refuse("full_block_table", sequence, "a block for position " + std::to_string(last), width);
  }
  const std::int64_t window_begin =
      std::max<std::int64_t>(first + 1 - static_cast<std::int64_t>(c_.sliding_window), 0);
  for (const bool is_sliding : {false, true}) {
    const auto& table = is_sliding ? batch_.sliding_block_table : batch_.full_block_table;
    const std::size_t num_blocks = cache_.pools_[is_sliding ? 1 : 0].num_blocks;
    const std::size_t table_begin = sequence * batch_.blocks_per_sequence;
    for (std::int64_t i = (is_sliding ? window_begin : 0) / block_size; i <= last / block_size;
         ++i) {
      const std::size_t at = table_begin + static_cast<std::size_t>(i);
      const std::int32_t block = at < table.size() ? table[at] : -1;
      if (block < 0 || static_cast<std::size_t>(block) >= num_blocks) {
        refuse(is_sliding ? "sliding_block_table" : "full_block_table", at,
               "0 to " + std::to_string(num_blocks) + " (excluded)", block);
      }
    }
  }
}

void Gemma3n::Step::embed() {
  const PartTimer timer(times_.embed);
  for_tokens([&](std::size_t token) { embed_token(token); });
  for (std::size_t i = 0; i + 1 < num_altup_inputs_; ++i) {
    products({{w_.altup_projections[i].get(), &ws_.embedding, &ws_.update}});
    for_tokens([&](std::size_t token) {
      const float* e = ws_.embedding.token(token);
      float* to = altup_input(token, i + 1);
      const float size = static_cast<float>(c_.hidden_size);
      const float magnitude = std::sqrt(kernels_.sum_squares(e, hidden_) / size);
      const float mean = kernels_.sum_squares(ws_.update.token(token), hidden_) / size;
      const float* from = ws_.update.token(token);
      const float scale = magnitude / std::sqrt(std::max(mean, kLeastMeanSquare));
      kernels_.combine(to, &from, &scale, 1, hidden_);
    });
  }
}

void Gemma3n::Step::embed_token(std::size_t token) {
  float* e = ws_.embedding.token(token);
  decode_row(w_.embed_tokens, static_cast<std::size_t>(batch_.input_ids[token]), e);
  const float scale = std::sqrt(static_cast<float>(c_.hidden_size));
  for (std::size_t i = 0; i < c_.hidden_size; ++i) e[i] *= scale;
  const bool is_quantized_input = is_quantized(w_.per_layer_model_projection->format()) ||
                                  std::ranges::any_of(w_.altup_projections, [](const auto& matrix) {
                                    return is_quantized(matrix->format());
                                  });
  if (is_quantized_input) quantize(ws_.embedding, token);
  std::memcpy(altup_input(token, 0), e, hidden_ * sizeof(float));
}

// Averages, for layers [layer_begin, layer_end), the projected embedding and the token's table row.
void Gemma3n::Step::project_per_layer_inputs(std::size_t layer_begin, std::size_t layer_end) {
  const PartTimer timer(times_.per_layer_inputs);
  const std::size_t size = c_.hidden_size_per_layer_input;
  if (layer_begin == layer_end) return;
  const std::size_t tile_begin = layer_begin * size / kTile;
  const std::size_t tile_end = (layer_end * size + kTile - 1) / kTile;
  linear(*w_.per_layer_model_projection, ws_.embedding.from(0, is_alone()), tile_begin, tile_end,
         ws_.projected.token(0) + tile_begin * kTile, ws_.projected.stride);
  for_tokens([&](std::size_t token, std::size_t thread) {
    combine_per_layer_inputs(layer_begin, layer_end, token, thread);
  });
}

void Gemma3n::Step::combine_per_layer_inputs(std::size_t layer_begin, std::size_t layer_end,
                                             std::size_t token, std::size_t thread) {
  const std::size_t size = c_.hidden_size_per_layer_input;
  const std::size_t stride = padded(size);
  const std::int32_t id = batch_.input_ids[ws_.source_token[token]];
  const bool is_in_table = static_cast<std::size_t>(id) < c_.vocab_size_per_layer_input;
  float* const projected = ws_.thread_scratch[thread].data();  // of one layer
  float* const looked_up = projected + stride;                 // of all layers
  std::fill(projected, looked_up, 0.0f);
  decode_row(w_.embed_tokens_per_layer, is_in_table ? static_cast<std::size_t>(id) : 0, looked_up);
  const float table_scale = std::sqrt(static_cast<float>(size)) * std::sqrt(0.5f);
  const float projection_scale = 1.0f / std::sqrt(static_cast<float>(c_.hidden_size));
  for (std::size_t layer = layer_begin; layer < layer_end; ++layer) {
    const float* from = ws_.projected.token(token) + layer * size;
    for (std::size_t i = 0; i < size; ++i) projected[i] = from[i] * projection_scale;
    const float inverse = inverse_rms(kernels_.sum_squares(projected, stride), size);
    float* to = ws_.per_layer.token(token) + layer * stride;
    for (std::size_t i = 0; i < size; ++i) {
      to[i] = projected[i] * (inverse * std::sqrt(0.5f)) * w_.per_layer_projection_norm[i] +
              looked_up[layer * size + i] * table_scale;
    }
  }
}

void Gemma3n::Step::fill_rope() {
  for_tokens([&](std::size_t token) {
    const auto position = static_cast<float>(ws_.token_position[token]);
    for (int type = 0; type < 2; ++type) {
      float* cos = ws_.rope[type][0].token(token);
      float* sin = ws_.rope[type][1].token(token);
      const std::vector<float>& frequencies = ws_.inverse_frequency[type];
      for (std::size_t i = 0; i < frequencies.size(); ++i) {
        // The angle is rounded to float32, as HF's is.
        const auto angle = static_cast<double>(position * frequencies[i]);
        cos[i] = static_cast<float>(std::cos(angle));
        sin[i] = static_cast<float>(std::sin(angle));
      }
    }
  });
}

// Moves the tokens whose logits are wanted to the front. The others are done.
void Gemma3n::Step::keep_logit_tokens() {
  std::size_t kept = 0;
  const auto move = [&](float* base, std::size_t stride, std::size_t token) {
    if (token != kept)
      std::memcpy(base + kept * stride, base + token * stride, stride * sizeof(float));
  };
  for (std::size_t token = 0; token < num_tokens_; ++token) {
    if (ws_.logit_index[token] < 0) continue;
    for (Outputs* outputs : {&ws_.altup_inputs, &ws_.predicted, &ws_.queries, &ws_.rope[0][0],
                             &ws_.rope[0][1], &ws_.rope[1][0], &ws_.rope[1][1]}) {
      move(outputs->floats.data(), outputs->stride, token);
    }
    move(ws_.prediction_coefs.data(), num_altup_inputs_ * num_altup_inputs_, token);
    for (Activations* inputs : {&ws_.embedding, &ws_.normed}) {
      move(inputs->floats.data(), inputs->stride, token);
    }
    ws_.token_position[kept] = ws_.token_position[token];
    ws_.token_sequence[kept] = ws_.token_sequence[token];
    ws_.source_token[kept] = ws_.source_token[token];
    ws_.logit_index[kept] = ws_.logit_index[token];
    ++kept;
  }
  num_tokens_ = kept;
  for_tokens([&](std::size_t token) {
    quantize(ws_.embedding, token);
    quantize(ws_.normed, token);
  });
}

// --- what goes out -------------------------------------------------------------------------------

void Gemma3n::Step::compute_logits(float* logits) {
  const PartTimer timer(times_.head);
  const float size = static_cast<float>(c_.hidden_size);
  ws_.last.quant =
      w_.layers.size() > kFirstInt8Pow2Layer ? ActivationQuant::kInt8Pow2 : ActivationQuant::kInt8;
  for_tokens([&](std::size_t token) {
    std::memcpy(ws_.total.token(token), altup_input(token, 0), hidden_ * sizeof(float));
  });
  for (std::size_t i = 1; i < num_altup_inputs_; ++i) {
    const Matrix& weight = *w_.altup_unembed_projections[i - 1];
    for_tokens([&](std::size_t token) {
      std::memcpy(ws_.last.token(token), altup_input(token, i), hidden_ * sizeof(float));
      if (is_quantized(weight.format())) quantize(ws_.last, token);
    });
    products({{&weight, &ws_.last, &ws_.update}});
    for_tokens([&](std::size_t token) {
      const float* first = altup_input(token, 0);
      const float magnitude = std::sqrt(kernels_.sum_squares(first, hidden_) / size);
      const float mean = kernels_.sum_squares(ws_.update.token(token), hidden_) / size;
      const float* inputs[] = {ws_.total.token(token), ws_.update.token(token)};
      const float coefs[] = {1.0f, magnitude / std::sqrt(std::max(mean, kLeastMeanSquare))};
      kernels_.combine(ws_.total.token(token), inputs, coefs, 2, hidden_);
    });
  }
  for_tokens([&](std::size_t token) {
    float* total = ws_.total.token(token);
    const float* input = total;
    const float share = 1.0f / static_cast<float>(num_altup_inputs_);
    kernels_.combine(total, &input, &share, 1, hidden_);
    kernels_.add_normed(ws_.last.token(token), nullptr, total,
                        inverse_rms(kernels_.sum_squares(total, hidden_), c_.hidden_size),
                        w_.norm.data(), hidden_);
    if (is_quantized(w_.head->format())) quantize(ws_.last, token);
  });
  const std::size_t num_logits = batch_.num_logits;
  const std::size_t num_computed = model_.switches_.wanted_logits_only ? num_logits : c_.vocab_size;
  const std::size_t num_tiles = (num_computed + kTile - 1) / kTile;
  const std::size_t grain = std::min(tiles_at_once(num_tiles), kHeadTiles);
  pool_.parallel_for(num_tiles, grain, [&](std::size_t begin, std::size_t end, std::size_t thread) {
    float* const out = ws_.thread_scratch[thread].data();
    const std::size_t width = (end - begin) * kTile;
    const std::size_t first = std::min(begin * kTile, num_logits);
    const std::size_t wanted = std::min(width, num_logits - first);
    for (std::size_t token = 0; token < num_tokens_; token += kFeedForwardTokens) {
      const std::size_t tokens = std::min(kFeedForwardTokens, num_tokens_ - token);
      kernels_.linear({w_.head.get(), ws_.last.from(token, is_alone()), tokens, begin, end, out,
                       width, w_.head->tile(likely_next(end, grain))});
      for (std::size_t r = 0; r < tokens; ++r) {
        float* values = out + r * width;
        if (c_.final_logit_softcapping > 0) {
          kernels_.soft_cap(values, width, c_.final_logit_softcapping);
        }
        const std::int32_t index = ws_.logit_index[token + r];
        if (index < 0) continue;
        std::memcpy(logits + static_cast<std::size_t>(index) * num_logits + first, values,
                    wanted * sizeof(float));
      }
    }
  });
  times_.weight_bytes += w_.head->num_bytes();
}

// --- products ------------------------------------------------------------------------------------

// Returns the tiles of a piece. With many tokens, its weights stay in the second-level cache while
// the tokens go by. With few, it is a long run of memory, and each thread gets several.
std::size_t Gemma3n::Step::tiles_at_once(std::size_t num_tiles) const {
  if (num_tokens_ > kPanelTokens) return kFeedForwardTiles;
  const auto num_pieces = static_cast<std::size_t>(pool_.num_threads()) * 8;
  return std::clamp<std::size_t>(num_tiles / num_pieces, 1, 64);
}

void Gemma3n::Step::linear(const Matrix& weight, const TokenInputs& x, std::size_t tile_begin,
                           std::size_t tile_end, float* out, std::size_t out_stride) {
  const std::size_t num_tiles = tile_end - tile_begin;
  const std::size_t grain = tiles_at_once(num_tiles);
  pool_.parallel_for(num_tiles, grain, [&](std::size_t begin, std::size_t end) {
    kernels_.linear({&weight, x, num_tokens_, tile_begin + begin, tile_begin + end,
                     out + begin * kTile, out_stride,
                     weight.tile(tile_begin + likely_next(end, grain))});
  });
  times_.weight_bytes += weight.num_bytes() * num_tiles / weight.num_tiles();
}

void Gemma3n::Step::products(std::initializer_list<Product> products) {
  std::size_t num_tiles = 0;
  for (const Product& product : products) {
    num_tiles += product.weight->num_tiles();
    times_.weight_bytes += product.weight->num_bytes();
  }
  const std::size_t grain = tiles_at_once(num_tiles);
  pool_.parallel_for(num_tiles, grain, [&](std::size_t begin, std::size_t end) {
    std::size_t first = 0;
    for (const Product& product : products) {
      const std::size_t count = product.weight->num_tiles();
      const std::size_t from = std::max(begin, first);
      const std::size_t to = std::min(end, first + count);
      if (from < to) {
        kernels_.linear({product.weight, product.x->from(0, is_alone()), num_tokens_, from - first,
                         to - first, product.out->token(0) + (from - first) * kTile,
                         product.out->stride,
                         product.weight->tile(likely_next(end, grain) - first)});
      }
      first += count;
    }
  });
}

}  // namespace nestling
