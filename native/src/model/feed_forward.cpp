// The feed-forward part of a layer, dense or sparse.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/step.h"

namespace nestling {

namespace {

constexpr std::size_t kMinDecodedTokens = 24;  // with so many, a column serves several
constexpr std::size_t kPrefetchRows = 4;  // before a dot, if they lie in the second-level cache
// Neurons whose gate is this part of a standard deviation below the cutoff may be active after all.
// Quantising activations as kInt8Pow2 moves a gate by 0.009 deviations, if they are Gaussian.
constexpr float kNearCutoff = 0.125f;

}  // namespace

void Gemma3n::Step::feed_forward(std::size_t layer) {
  const PartTimer timer(times_.feed_forward);
  const LayerWeights& w = w_.layers[layer];
  const bool is_sparse_layer = model_.layers_[layer].std_multiplier.has_value();
  if (is_sparse_layer) {
    sparse_feed_forward(layer);
  } else {
    dense_feed_forward(w);
    products({{w.down_proj.get(), &ws_.ffn_act, &ws_.ffn_out}});
  }
}

// Computes gate, up, gelu and their product, a few tiles of neurons at a time. The results are int8
// activations or floats, as down_proj takes them.
void Gemma3n::Step::dense_feed_forward(const LayerWeights& w) {
  const std::size_t num_tiles = w.gate_proj->num_tiles();
  const bool to_int8 = is_quantized(w.down_proj->format());
  Activations& act = ws_.ffn_act;
  // A piece is made of whole groups of 32 neurons, which are two tiles.
  const std::size_t num_pairs = (num_tiles + 1) / 2;
  // The scratch takes kFeedForwardTokens tokens of kFeedForwardTiles tiles, or fewer tokens of
  // more.
  const std::size_t most_tiles = num_tokens_ > kPanelTokens
                                     ? kFeedForwardTiles
                                     : kFeedForwardTokens * kFeedForwardTiles / kPanelTokens;
  const std::size_t grain =
      std::clamp<std::size_t>(tiles_at_once(num_tiles) / 2, 1, most_tiles / 2);
  pool_.parallel_for(num_pairs, grain, [&](std::size_t begin, std::size_t end, std::size_t thread) {
    const std::size_t tile_begin = 2 * begin;
    const std::size_t tile_end = std::min(2 * end, num_tiles);
    const std::size_t width = 2 * (end - begin) * kTile;
    float* const gates = ws_.thread_scratch[thread].data();
    float* const ups = gates + kFeedForwardTokens * kFeedForwardTiles * kTile;
    for (std::size_t token = 0; token < num_tokens_; token += kFeedForwardTokens) {
      const std::size_t tokens = std::min(kFeedForwardTokens, num_tokens_ - token);
      if (tile_end < 2 * end) {  // only half a pair, so the other half is zeros
        std::fill(gates, gates + tokens * width, 0.0f);
        std::fill(ups, ups + tokens * width, 0.0f);
      }
      const TokenInputs x = ws_.ffn_in.from(token, is_alone());
      kernels_.linear({w.gate_proj.get(), x, tokens, tile_begin, tile_end, gates, width,
                       w.up_proj->tile(tile_begin)});
      kernels_.linear({w.up_proj.get(), x, tokens, tile_begin, tile_end, ups, width,
                       w.gate_proj->tile(likely_next(tile_end, 2 * grain))});
      for (std::size_t r = 0; r < tokens; ++r) {
        kernels_.gelu_times(gates + r * width, ups + r * width, width);
        if (to_int8) {
          kernels_.quantize(gates + r * width, width, token + r,
                            act.int8_tokens(is_alone()).from_group(begin));
        } else {
          std::memcpy(act.token(token + r) + tile_begin * kTile, gates + r * width,
                      width * sizeof(float));
        }
      }
    }
  });
  times_.weight_bytes += w.gate_proj->num_bytes() + w.up_proj->num_bytes();
}

// Computes the whole gate, and then only the neurons above each token's cutoff.
void Gemma3n::Step::sparse_feed_forward(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  products({{w.gate_proj.get(), &ws_.ffn_in, &ws_.gate}});
  select_neurons(layer);
  const std::size_t size = model_.layers_[layer].intermediate_size;
  const auto count_bytes = [&](std::size_t num_neurons, std::size_t bytes) {
    times_.weight_bytes += bytes * std::min(num_neurons, size) / size;
  };
  if (refines(w)) count_bytes(num_selected(), w.gate_rows->num_bytes());
  if (w.up_rows == nullptr) {
    dense_after_gate(layer);
  } else {
    compute_neurons(layer);
    add_columns(layer);
  }
  const std::size_t num_active = num_selected();
  times_.num_active_neurons += num_active;
  times_.num_sparse_neurons += num_tokens_ * size;
  if (w.up_rows == nullptr) return;
  count_bytes(num_active, w.up_rows->num_bytes() + w.down_columns->num_bytes());
}

// Returns the number of selected neurons of all tokens.
std::size_t Gemma3n::Step::num_selected() const {
  std::size_t sum = 0;
  for (std::size_t token = 0; token < num_tokens_; ++token) sum += ws_.num_active[token];
  return sum;
}

// Selects the neurons above the cutoff, and those so near below it that an exact gate may lift
// them.
void Gemma3n::Step::select_neurons(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  const std::size_t size = model_.layers_[layer].intermediate_size;
  // Only sparse layers come here, and each has one.
  // NOLINTNEXTLINE(bugprone-unchecked-optional-access)
  const float multiplier = *model_.layers_[layer].std_multiplier;
  const float margin = refines(w) ? kNearCutoff : 0.0f;
  for_tokens([&](std::size_t token) {
    float* gate = ws_.gate.token(token);
    const float mean =
        kernels_.sum(gate, w.gate_proj->num_tiles() * kTile) / static_cast<float>(size);
    const float deviation =
        std::sqrt(kernels_.sum_squared_distances(gate, size, mean) / static_cast<float>(size));
    ws_.cutoff[token] = mean + multiplier * deviation;
    ws_.num_active[token] =
        kernels_.select_above(gate, size, ws_.cutoff[token] - margin * deviation,
                              active_indices(token), active_values(token));
    std::memset(ws_.ffn_out.token(token), 0, ws_.ffn_out.stride * sizeof(float));
    if (w.up_rows == nullptr) return;
    std::uint32_t next = 0;
    for (std::size_t block = 0; block + 1 < ws_.begins_stride; ++block) {
      while (next < ws_.num_active[token] && active_indices(token)[next] < block * kNeuronBlock)
        ++next;
      active_begins(token)[block] = next;
    }
    active_begins(token)[ws_.begins_stride - 1] = static_cast<std::uint32_t>(ws_.num_active[token]);
  });
}

// Computes gelu(gate - cutoff) * up of the selected neurons, and leaves out those that turn out not
// to be active.
void Gemma3n::Step::compute_neurons(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  const std::size_t num_blocks = ws_.begins_stride - 1;
  const std::size_t padded_in = ws_.dot_padded;
  const std::size_t groups = padded_in / kGroup;
  // With few tokens weights come from memory, so the next block is prefetched while one is
  // computed.
  const bool prefetches = num_tokens_ < kMinDecodedTokens;
  const auto num_threads = static_cast<std::size_t>(pool_.num_threads());
  const std::size_t grain =
      prefetches ? std::max<std::size_t>(num_blocks / (4 * num_threads), 1) : 1;
  const auto compute = [&](std::size_t block, bool is_last, float* dots) {
    for (std::size_t token = 0; token < num_tokens_; ++token) {
      const DotInput x{ws_.ffn_in.token(token), ws_.dot_values.data() + token * padded_in,
                       has_int16_dots_ ? ws_.dot_low_values.data() + token * padded_in : nullptr,
                       ws_.dot_scales.data() + token * groups,
                       ws_.dot_sums.data() + token * groups};
      const std::size_t from = active_begins(token)[block];
      const std::size_t count = active_begins(token)[block + 1] - from;
      std::uint32_t* const indices = active_indices(token) + from;
      float* const values = active_values(token) + from;
      const std::size_t first_next = prefetches ? count : std::min(count, kPrefetchRows);
      const std::size_t known =
          prefetches && !is_last ? active_begins(token)[block + 2] - from : count;
      WeightRows rows{indices, count, indices + first_next, known - first_next};
      if (refines(w)) kernels_.row_dots(*w.gate_rows, x, rows, values);
      const std::size_t num_active =
          kernels_.keep_active(indices, values, count, ws_.cutoff[token]);
      rows.count = num_active;
      if (!prefetches) rows.num_next = num_active - std::min(num_active, kPrefetchRows);
      kernels_.row_dots(*w.up_rows, x, rows, dots);
      for (std::size_t i = 0; i < num_active; ++i) values[i] *= dots[i];
      ws_.active_counts.data()[block * num_tokens_ + token] =
          static_cast<std::uint32_t>(num_active);
    }
  };
  pool_.parallel_for(num_blocks, grain,
                     [&](std::size_t begin, std::size_t end, std::size_t thread) {
                       float* const dots = ws_.thread_scratch[thread].data();
                       for (std::size_t block = begin; block < end; ++block) {
                         compute(block, block + 1 == end, dots);
                       }
                     });
  if (!refines(w)) return;
  times_.num_refined_neurons += num_selected();
  for_tokens([&](std::size_t token) {
    std::uint32_t num_active = 0;
    for (std::size_t block = 0; block < num_blocks; ++block) {
      const std::size_t count = ws_.active_counts.data()[block * num_tokens_ + token];
      const std::size_t from = active_begins(token)[block];
      std::memmove(active_indices(token) + num_active, active_indices(token) + from,
                   count * sizeof(std::uint32_t));
      std::memmove(active_values(token) + num_active, active_values(token) + from,
                   count * sizeof(float));
      active_begins(token)[block] = num_active;
      num_active += static_cast<std::uint32_t>(count);
    }
    active_begins(token)[num_blocks] = num_active;
    ws_.num_active[token] = num_active;
  });
}

// Adds to the outputs each active neuron's column of down_proj times its value.
void Gemma3n::Step::add_columns(std::size_t layer) {
  const ColumnMatrix& down = *w_.layers[layer].down_columns;
  const std::size_t size = model_.layers_[layer].intermediate_size;
  const std::size_t num_blocks = ws_.begins_stride - 1;
  const bool decodes = num_tokens_ >= kMinDecodedTokens;
  const std::size_t slice = decodes ? kDecodedWidth : kSlice;
  const std::size_t num_slices = (down.padded_out() + slice - 1) / slice;
  const std::size_t grain = decodes ? 1 : kSlicesAtOnce;
  pool_.parallel_for(num_slices, grain, [&](std::size_t from, std::size_t to, std::size_t thread) {
    const std::size_t begin = from * slice;
    const std::size_t end = std::min(to * slice, down.padded_out());
    float* const scratch = ws_.thread_scratch[thread].data();
    ActiveNeurons* const tokens = ws_.thread_active_neurons[thread].data();
    for (std::size_t block = 0; block < num_blocks; ++block) {
      for (std::size_t token = 0; token < num_tokens_; ++token) {
        const std::size_t first = active_begins(token)[block];
        tokens[token] = {.indices = active_indices(token) + first,
                         .values = active_values(token) + first,
                         .count = active_begins(token)[block + 1] - first,
                         .num_known = ws_.num_active[token] - first,
                         .out = ws_.ffn_out.token(token) + begin};
      }
      const std::size_t first = block * kNeuronBlock;
      const std::size_t last = std::min(first + kNeuronBlock, size);
      if (first >= last) break;  // this layer is narrower than the widest
      if (!decodes) {
        kernels_.add_columns({&down, first, last, begin, end, tokens, num_tokens_, scratch});
        continue;
      }
      kernels_.decode_columns(down, first, last, begin, end, scratch);
      kernels_.add_decoded({scratch, first, end - begin}, tokens, num_tokens_);
    }
  });
}

// Computes a sparse layer densely. Neurons that are not active are zeros like any other value.
void Gemma3n::Step::dense_after_gate(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  const std::size_t size = model_.layers_[layer].intermediate_size;
  const bool to_int8 = is_quantized(w.down_proj->format());
  products({{w.up_proj.get(), &ws_.ffn_in, &ws_.up}});
  for_tokens([&](std::size_t token) {
    float* up = ws_.up.token(token);
    const std::uint32_t* indices = active_indices(token);
    const float* values = active_values(token);
    ws_.num_active[token] = kernels_.keep_active(active_indices(token), active_values(token),
                                                 ws_.num_active[token], ws_.cutoff[token]);
    std::size_t next = 0;
    for (std::size_t i = 0; i < size; ++i) {
      const bool is_active = next < ws_.num_active[token] && indices[next] == i;
      up[i] = is_active ? up[i] * values[next++] : 0.0f;
    }
    // A wider layer may have left something there, which would be in the last group's scale.
    std::fill(up + size, up + ws_.ffn_act.width, 0.0f);
    if (to_int8) {
      kernels_.quantize(up, ws_.ffn_act.width, token, ws_.ffn_act.int8_tokens(is_alone()));
    } else {
      std::memcpy(ws_.ffn_act.token(token), up, ws_.ffn_act.width * sizeof(float));
    }
  });
  products({{w.down_proj.get(), &ws_.ffn_act, &ws_.ffn_out}});
}

}  // namespace nestling
