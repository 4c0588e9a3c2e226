// The feed-forward part of a layer, dense or sparse.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/step.h"

namespace nestling {

namespace {

constexpr std::size_t kRowsToDecodeFor = 24;  // from here on columns serve more than one row
constexpr std::size_t kRowsAhead = 4;         // asked for before a dot, if in the second cache
// Neurons whose gate is this much of a standard deviation below the cutoff may live after all. The
// rounding of activations to coarse bytes moves a gate by 0.009 deviations, if they are Gaussian.
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

// gate, up, gelu and their product, a few tiles of neurons at a time; bytes or floats come out.
void Gemma3n::Step::dense_feed_forward(const LayerWeights& w) {
  const std::size_t num_tiles = w.gate_proj->num_tiles();
  const bool to_bytes = is_quantized(w.down_proj->format());
  Activations& act = ws_.ffn_act;
  // Pieces are whole groups of 32 neurons: two tiles.
  const std::size_t num_pairs = (num_tiles + 1) / 2;
  // As many as the scratch takes: kFeedForwardRows rows of kFeedForwardTiles tiles, or fewer rows
  // of more.
  const std::size_t most_tiles = num_rows_ > kPanelRows
                                     ? kFeedForwardTiles
                                     : kFeedForwardRows * kFeedForwardTiles / kPanelRows;
  const std::size_t grain =
      std::clamp<std::size_t>(tiles_at_once(num_tiles) / 2, 1, most_tiles / 2);
  pool_.parallel_for(num_pairs, grain, [&](std::size_t begin, std::size_t end, std::size_t thread) {
    const std::size_t tile_begin = 2 * begin;
    const std::size_t tile_end = std::min(2 * end, num_tiles);
    const std::size_t width = 2 * (end - begin) * kTile;
    float* const gates = ws_.thread_scratch[thread].data();
    float* const ups = gates + kFeedForwardRows * kFeedForwardTiles * kTile;
    for (std::size_t row = 0; row < num_rows_; row += kFeedForwardRows) {
      const std::size_t rows = std::min(kFeedForwardRows, num_rows_ - row);
      if (tile_end < 2 * end) {  // half a pair: the other half is zeros
        std::fill(gates, gates + rows * width, 0.0f);
        std::fill(ups, ups + rows * width, 0.0f);
      }
      const Rows x = ws_.ffn_in.from(row, is_alone());
      kernels_.linear({w.gate_proj.get(), x, rows, tile_begin, tile_end, gates, width,
                       w.up_proj->tile(tile_begin)});
      kernels_.linear({w.up_proj.get(), x, rows, tile_begin, tile_end, ups, width,
                       w.gate_proj->tile(likely_next(tile_end, 2 * grain))});
      for (std::size_t r = 0; r < rows; ++r) {
        kernels_.gelu_times(gates + r * width, ups + r * width, width);
        if (to_bytes) {
          kernels_.quantize(gates + r * width, width, row + r,
                            act.byte_rows(is_alone()).from_group(begin));
        } else {
          std::memcpy(act.row(row + r) + tile_begin * kTile, gates + r * width,
                      width * sizeof(float));
        }
      }
    }
  });
  times_.weight_bytes += w.gate_proj->num_bytes() + w.up_proj->num_bytes();
}

// The gate is computed whole; then only neurons above the row's cutoff.
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
  const std::size_t num_live = num_selected();
  times_.num_live_neurons += num_live;
  times_.num_sparse_neurons += num_rows_ * size;
  if (w.up_rows == nullptr) return;
  count_bytes(num_live, w.up_rows->num_bytes() + w.down_columns->num_bytes());
}

// Neurons of all rows, as far as they are selected.
std::size_t Gemma3n::Step::num_selected() const {
  std::size_t sum = 0;
  for (std::size_t row = 0; row < num_rows_; ++row) sum += ws_.num_live[row];
  return sum;
}

// Neurons above the cutoff, or so near below it that a better gate may lift them.
void Gemma3n::Step::select_neurons(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  const std::size_t size = model_.layers_[layer].intermediate_size;
  const float multiplier = *model_.layers_[layer].std_multiplier;
  const float margin = refines(w) ? kNearCutoff : 0.0f;
  for_rows([&](std::size_t row) {
    float* gate = ws_.gate.row(row);
    const float mean =
        kernels_.sum(gate, w.gate_proj->num_tiles() * kTile) / static_cast<float>(size);
    const float deviation =
        std::sqrt(kernels_.sum_squared_distances(gate, size, mean) / static_cast<float>(size));
    ws_.cutoff[row] = mean + multiplier * deviation;
    ws_.num_live[row] = kernels_.select_above(gate, size, ws_.cutoff[row] - margin * deviation,
                                              live_indices(row), live_values(row));
    std::memset(ws_.ffn_out.row(row), 0, ws_.ffn_out.stride * sizeof(float));
    if (w.up_rows == nullptr) return;
    std::uint32_t next = 0;
    for (std::size_t chunk = 0; chunk + 1 < ws_.marks_stride; ++chunk) {
      while (next < ws_.num_live[row] && live_indices(row)[next] < chunk * kChunk) ++next;
      marks(row)[chunk] = next;
    }
    marks(row)[ws_.marks_stride - 1] = static_cast<std::uint32_t>(ws_.num_live[row]);
  });
}

// gelu(gate - cutoff) * up of the selected neurons, those that turn out dead left out.
void Gemma3n::Step::compute_neurons(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  const std::size_t num_chunks = ws_.marks_stride - 1;
  const std::size_t padded_in = ws_.dot_padded;
  const std::size_t groups = padded_in / kGroup;
  // With few rows weights come from memory: while a chunk is computed, the next one is asked for.
  const bool asks = num_rows_ < kRowsToDecodeFor;
  const auto num_threads = static_cast<std::size_t>(pool_.num_threads());
  const std::size_t grain = asks ? std::max<std::size_t>(num_chunks / (4 * num_threads), 1) : 1;
  const auto compute = [&](std::size_t chunk, bool is_last, float* dots) {
    for (std::size_t row = 0; row < num_rows_; ++row) {
      const DotRow x{ws_.ffn_in.row(row), ws_.dot_bytes.data() + row * padded_in,
                     has_wide_dots_ ? ws_.dot_low_bytes.data() + row * padded_in : nullptr,
                     ws_.dot_scales.data() + row * groups, ws_.dot_sums.data() + row * groups};
      const std::size_t from = marks(row)[chunk];
      const std::size_t count = marks(row)[chunk + 1] - from;
      std::uint32_t* const indices = live_indices(row) + from;
      float* const values = live_values(row) + from;
      const std::size_t ahead = asks ? count : std::min(count, kRowsAhead);
      const std::size_t known = asks && !is_last ? marks(row)[chunk + 2] - from : count;
      RowList rows{indices, count, indices + ahead, known - ahead};
      if (refines(w)) kernels_.row_dots(*w.gate_rows, x, rows, values);
      const std::size_t num_live = kernels_.keep_live(indices, values, count, ws_.cutoff[row]);
      rows.count = num_live;
      if (!asks) rows.num_next = num_live - std::min(num_live, kRowsAhead);
      kernels_.row_dots(*w.up_rows, x, rows, dots);
      for (std::size_t i = 0; i < num_live; ++i) values[i] *= dots[i];
      ws_.live_counts.data()[chunk * num_rows_ + row] = static_cast<std::uint32_t>(num_live);
    }
  };
  pool_.parallel_for(num_chunks, grain,
                     [&](std::size_t begin, std::size_t end, std::size_t thread) {
                       float* const dots = ws_.thread_scratch[thread].data();
                       for (std::size_t chunk = begin; chunk < end; ++chunk) {
                         compute(chunk, chunk + 1 == end, dots);
                       }
                     });
  if (!refines(w)) return;
  times_.num_refined_neurons += num_selected();
  for_rows([&](std::size_t row) {
    std::uint32_t num_live = 0;
    for (std::size_t chunk = 0; chunk < num_chunks; ++chunk) {
      const std::size_t count = ws_.live_counts.data()[chunk * num_rows_ + row];
      const std::size_t from = marks(row)[chunk];
      std::memmove(live_indices(row) + num_live, live_indices(row) + from,
                   count * sizeof(std::uint32_t));
      std::memmove(live_values(row) + num_live, live_values(row) + from, count * sizeof(float));
      marks(row)[chunk] = num_live;
      num_live += static_cast<std::uint32_t>(count);
    }
    marks(row)[num_chunks] = num_live;
    ws_.num_live[row] = num_live;
  });
}

// down: each living neuron's column, times its value.
void Gemma3n::Step::add_columns(std::size_t layer) {
  const ColumnMatrix& down = *w_.layers[layer].down_columns;
  const std::size_t size = model_.layers_[layer].intermediate_size;
  const std::size_t num_chunks = ws_.marks_stride - 1;
  const bool decodes = num_rows_ >= kRowsToDecodeFor;
  const std::size_t slice = decodes ? kDecodedWidth : kSlice;
  const std::size_t num_slices = (down.padded_out() + slice - 1) / slice;
  const std::size_t grain = decodes ? 1 : kSlicesAtOnce;
  pool_.parallel_for(num_slices, grain, [&](std::size_t from, std::size_t to, std::size_t thread) {
    const std::size_t begin = from * slice;
    const std::size_t end = std::min(to * slice, down.padded_out());
    float* const scratch = ws_.thread_scratch[thread].data();
    LiveRow* const rows = ws_.thread_live_rows[thread].data();
    for (std::size_t chunk = 0; chunk < num_chunks; ++chunk) {
      for (std::size_t row = 0; row < num_rows_; ++row) {
        const std::size_t first = marks(row)[chunk];
        rows[row] = {.indices = live_indices(row) + first,
                     .values = live_values(row) + first,
                     .count = marks(row)[chunk + 1] - first,
                     .num_known = ws_.num_live[row] - first,
                     .out = ws_.ffn_out.row(row) + begin};
      }
      const std::size_t first = chunk * kChunk;
      const std::size_t last = std::min(first + kChunk, size);
      if (first >= last) break;  // a layer narrower than the widest
      if (!decodes) {
        kernels_.add_columns({&down, first, last, begin, end, rows, num_rows_, scratch});
        continue;
      }
      kernels_.decode_columns(down, first, last, begin, end, scratch);
      kernels_.add_decoded({scratch, first, end - begin}, rows, num_rows_);
    }
  });
}

// The sparse layer computed densely: dead neurons are zeros like any other value.
void Gemma3n::Step::dense_after_gate(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  const std::size_t size = model_.layers_[layer].intermediate_size;
  const bool to_bytes = is_quantized(w.down_proj->format());
  products({{w.up_proj.get(), &ws_.ffn_in, &ws_.up}});
  for_rows([&](std::size_t row) {
    float* up = ws_.up.row(row);
    const std::uint32_t* indices = live_indices(row);
    const float* values = live_values(row);
    ws_.num_live[row] =
        kernels_.keep_live(live_indices(row), live_values(row), ws_.num_live[row], ws_.cutoff[row]);
    std::size_t next = 0;
    for (std::size_t i = 0; i < size; ++i) {
      const bool is_live = next < ws_.num_live[row] && indices[next] == i;
      up[i] = is_live ? up[i] * values[next++] : 0.0f;
    }
    // A wider layer may have left something there, which would be in the last group's scale.
    std::fill(up + size, up + ws_.ffn_act.width, 0.0f);
    if (to_bytes) {
      kernels_.quantize(up, ws_.ffn_act.width, row, ws_.ffn_act.byte_rows(is_alone()));
    } else {
      std::memcpy(ws_.ffn_act.row(row), up, ws_.ffn_act.width * sizeof(float));
    }
  });
  products({{w.down_proj.get(), &ws_.ffn_act, &ws_.ffn_out}});
}

}  // namespace nestling
