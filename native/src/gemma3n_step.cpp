// One step, in the order of docs/model.md, "The forward step". Row-wise work and products
// alternate; each is one parallel loop whose pieces do not depend on each other.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "gemma3n_workspace.h"
#include "nestling/gemma3n.h"
#include "step_kernels.h"

namespace nestling {

namespace {

constexpr float kLeastMeanSquare = 1e-5f;     // the floor of AltUp's magnitudes, HF's
constexpr std::size_t kChunk = 256;           // neurons whose rows of up_proj stay in the L2 cache
constexpr std::size_t kDecodedWidth = 128;     // outputs of a chunk that stay there in float32
constexpr std::size_t kRowsToDecodeFor = 24;  // from here on columns serve more than one row
constexpr std::size_t kSlice = 512;           // outputs that one thread adds up for few rows
constexpr std::size_t kHeadTiles = 16;
// Neurons whose gate is this much of a standard deviation below the cutoff may live after all. The
// rounding of activations to bytes moves a gate by 0.006 deviations, if they are Gaussian.
constexpr float kNearCutoff = 0.125f;

using Clock = std::chrono::steady_clock;

// Adds the time until its end to a part.
class PartTimer {
 public:
  explicit PartTimer(double& part) : part_(part), begin_(Clock::now()) {}
  PartTimer(const PartTimer&) = delete;
  PartTimer& operator=(const PartTimer&) = delete;
  ~PartTimer() { part_ += std::chrono::duration<double>(Clock::now() - begin_).count(); }

 private:
  double& part_;
  Clock::time_point begin_;
};

// One product of a parallel loop over several.
struct Product {
  const Matrix* weight;
  const Activations* x;
  Outputs* out;
};

bool any_quantized(std::initializer_list<const Matrix*> matrices) {
  return std::ranges::any_of(matrices, [](const Matrix* matrix) {
    return matrix != nullptr && is_quantized(matrix->format());
  });
}

[[noreturn]] void refuse(const std::string& field, std::size_t index, const std::string& expected,
                         std::int64_t got) {
  throw std::invalid_argument(field + "[" + std::to_string(index) + "]: expected " + expected +
                              ", got " + std::to_string(got));
}

}  // namespace

Gemma3n::Workspace::Workspace(const Gemma3nConfig& c, const std::vector<LayerConfig>& layers,
                              const Gemma3nWeights& weights, std::size_t max_rows,
                              std::size_t max_model_len, std::size_t num_threads,
                              const StepKernels& kernels) {
  const std::size_t rows = max_rows;
  const std::size_t stream_size = padded(c.hidden_size);
  std::size_t intermediate = 0;
  bool has_sparse = false;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    intermediate = std::max(intermediate, layers[i].intermediate_size);
    has_sparse = has_sparse || layers[i].std_multiplier.has_value();
  }
  const std::size_t head = padded(c.head_dim);
  const std::size_t num_heads = c.num_attention_heads;
  const std::size_t per_layer_size = c.hidden_size_per_layer_input;

  embedding = Activations(rows, c.hidden_size);
  streams = Outputs(rows, c.altup_num_inputs * stream_size);
  predictions = Outputs(rows, c.altup_num_inputs * stream_size);
  normed = Activations(rows, c.hidden_size);
  q = Outputs(rows, num_heads * c.head_dim);
  k = Outputs(rows, c.num_key_value_heads * c.head_dim);
  v = Outputs(rows, c.num_key_value_heads * c.head_dim);
  queries = Outputs(rows, num_heads * head);
  attended = Activations(rows, num_heads * c.head_dim);
  if (head != c.head_dim) attended_heads = Outputs(rows, num_heads * head);
  laurel_low = Activations(rows, c.laurel_rank);
  attention_out = Outputs(rows, c.hidden_size);
  laurel_out = Outputs(rows, c.hidden_size);
  hidden = Outputs(rows, c.hidden_size);
  ffn_in = Activations(rows, c.hidden_size);
  bool has_float_down = false;
  for (const LayerWeights& w : weights.layers) {
    has_float_down =
        has_float_down || (w.down_proj != nullptr && !is_quantized(w.down_proj->format()));
  }
  ffn_act = Activations(rows, intermediate, has_float_down);
  if (has_sparse) {
    gate = Outputs(rows, intermediate);
    up = Outputs(rows, intermediate);
    live_indices = Array<std::uint32_t>(rows * (gate.stride + kTile));
    num_live.resize(rows);
    cutoff.resize(rows);
    marks_stride = (intermediate + kChunk - 1) / kChunk + 1;
    live_marks = Array<std::uint32_t>(rows * marks_stride);
    live_counts = Array<std::uint32_t>(rows * marks_stride);
    dot_padded = (c.hidden_size + kRowBlock - 1) / kRowBlock * kRowBlock;
    dot_bytes = Array<std::int8_t>(rows * dot_padded);
    dot_low_bytes = Array<std::int8_t>(rows * dot_padded);
    dot_scales = Array<float>(rows * (dot_padded / kGroup));
    dot_sums = Array<float>(rows * (dot_padded / kGroup));
  }
  ffn_out = Outputs(rows, c.hidden_size);
  gate_in = Activations(rows, c.hidden_size);
  gated = Activations(rows, per_layer_size);
  gate_out = Outputs(rows, per_layer_size);
  update = Outputs(rows, c.hidden_size);
  projected = Outputs(rows, layers.size() * per_layer_size);
  per_layer = Outputs(rows, layers.size() * padded(per_layer_size));
  total = Outputs(rows, c.hidden_size);
  last = Activations(rows, c.hidden_size);
  for (int type = 0; type < 2; ++type) {
    const double base = type == 0 ? c.rope_theta : c.rope_local_base_freq;
    for (Outputs& table : rope[type]) table = Outputs(rows, c.head_dim / 2);
    for (std::size_t i = 0; i < c.head_dim; i += 2) {
      // Rounded to float32 where HF rounds.
      const auto exponent =
          static_cast<double>(static_cast<float>(i) / static_cast<float>(c.head_dim));
      inverse_frequency[type].push_back(1.0f / static_cast<float>(std::pow(base, exponent)));
    }
  }
  const std::size_t num_queries = num_heads / c.num_key_value_heads;
  attention_rows = std::max<std::size_t>(kernels.attention_rows / num_queries, 1);
  const std::size_t num_vectors = attention_rows * num_queries;
  const std::size_t scratch =
      std::max(attention_scratch(num_vectors, head, max_model_len),
               std::max(2 * kFeedForwardRows * kHeadTiles * kTile, kChunk * kDecodedWidth));
  for (std::size_t i = 0; i < num_threads; ++i) {
    thread_scratch.emplace_back(scratch);
    thread_live_rows.emplace_back(has_sparse ? rows : 0);
  }
  row_position.resize(rows);
  row_sequence.resize(rows);
  source_row.resize(rows);
  attention_tiles.reserve(rows + 1);
  is_logit_row.resize(rows);
}

std::size_t attention_scratch(std::size_t num_vectors, std::size_t head_stride,
                              std::size_t num_keys) {
  return num_vectors * ((num_keys + kTile - 1) / kTile + 1) * kTile + num_vectors * head_stride;
}

class Gemma3n::Step {
 public:
  Step(Gemma3n& model, const StepBatch& batch, KvCache& cache)
      : model_(model),
        c_(model.config_),
        w_(model.weights_),
        ws_(*model.workspace_),
        kernels_(step_kernels(model.variant_)),
        pool_(*model.pool_),
        cache_(cache),
        batch_(batch),
        times_(model.times_),
        hidden_(padded(c_.hidden_size)),
        num_streams_(c_.altup_num_inputs),
        num_rows_(batch.input_ids.size()) {}

  void run(float* logits, const OnLayer& on_layer);

 private:
  void check() const;
  void check_tables(std::size_t sequence, std::int64_t first, std::int64_t last) const;
  void embed();
  void embed_row(std::size_t row);
  void project_per_layer_inputs(std::size_t layer_begin, std::size_t layer_end);
  void fill_rope();
  void enter(std::size_t layer);
  void enter_row(std::size_t layer, std::size_t row);
  void heads_row(std::size_t layer, std::size_t row);
  void store_keys(std::size_t layer, std::size_t row, const float* heads, bool are_values);
  void keep_logit_rows();
  void attend(std::size_t layer);
  void mix_row(std::size_t layer, std::size_t row);
  void feed_forward(std::size_t layer);
  void dense_feed_forward(const LayerWeights& w);
  void sparse_feed_forward(std::size_t layer);
  void select_neurons(std::size_t layer);
  void compute_neurons(std::size_t layer);
  void add_columns(std::size_t layer);
  void dense_after_gate(std::size_t layer);
  void finish(std::size_t layer);
  void correct_row(std::size_t layer, std::size_t row);
  void exit(float* logits);

  template <class Body>
  void for_rows(const Body& body) {
    pool_.parallel_for(num_rows_, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t row = begin; row < end; ++row) body(row);
    });
  }
  void products(std::initializer_list<Product> products);
  void linear(const Matrix& weight, const Rows& x, std::size_t tile_begin, std::size_t tile_end,
              float* out, std::size_t out_stride);
  void quantize(Activations& x, std::size_t row) {
    kernels_.quantize(x.row(row), x.stride, row, x.byte_rows(is_alone()));
  }
  bool is_alone() const { return num_rows_ == 1; }
  float inverse_rms(float sum_squares, std::size_t size) const {
    return 1.0f / std::sqrt(sum_squares / static_cast<float>(size) + c_.rms_norm_eps);
  }
  float* stream(Outputs& streams, std::size_t row, std::size_t index) const {
    return streams.row(row) + index * hidden_;
  }
  std::size_t tiles_at_once(std::size_t num_tiles) const;
  bool refines(const LayerWeights& w) const { return is_wide_ && w.gate_rows != nullptr; }
  // Living neurons of a row in ascending order, and their values.
  std::uint32_t* live_indices(std::size_t row) const {
    return ws_.live_indices.data() + row * (ws_.gate.stride + kTile);
  }
  float* live_values(std::size_t row) const { return ws_.gate.row(row); }
  // Where those of each chunk of neurons begin among them.
  std::uint32_t* marks(std::size_t row) const {
    return ws_.live_marks.data() + row * ws_.marks_stride;
  }

  Gemma3n& model_;
  const Gemma3nConfig& c_;
  const Gemma3nWeights& w_;
  Workspace& ws_;
  const StepKernels& kernels_;
  ThreadPool& pool_;
  KvCache& cache_;
  const StepBatch& batch_;
  StepTimes& times_;
  const std::size_t hidden_;
  const std::size_t num_streams_;
  std::size_t num_rows_;
  bool is_wide_ = false;  // the layer's activations
};

void Gemma3n::step(const StepBatch& batch, KvCache& cache, float* logits, const OnLayer& on_layer) {
  Step(*this, batch, cache).run(logits, on_layer);
}

void Gemma3n::Step::run(float* logits, const OnLayer& on_layer) {
  const PartTimer timer(times_.total);
  check();
  ++times_.num_steps;
  times_.num_rows += num_rows_;
  times_.num_logit_rows += batch_.logit_rows.size();
  if (num_rows_ == 0) return;
  const std::size_t num_layers = model_.layers_.size();
  std::size_t last_owner = 0;
  for (std::size_t i = 0; i < num_layers; ++i) {
    if (model_.layers_[i].kv_source_layer == i) last_owner = i;
  }
  const bool skips = model_.switches_.prefill_skip && batch_.logit_rows.size() < num_rows_;
  embed();
  project_per_layer_inputs(0, skips ? last_owner : num_layers);
  fill_rope();
  for (std::size_t layer = 0; layer < num_layers; ++layer) {
    enter(layer);
    if (skips && layer == last_owner) {
      keep_logit_rows();
      if (num_rows_ == 0) return;
      project_per_layer_inputs(last_owner, num_layers);
    }
    attend(layer);
    feed_forward(layer);
    finish(layer);
    if (on_layer) on_layer(layer, ws_.streams.floats.data(), num_rows_, hidden_);
  }
  if (!skips) keep_logit_rows();
  if (num_rows_ > 0) exit(logits);
}

// --- what comes in -------------------------------------------------------------------------------

void Gemma3n::Step::check() const {
  if (!cache_.fits(c_, model_.layers_)) {
    throw std::invalid_argument("cache: expected one that was made for this model");
  }
  const std::size_t num_rows = batch_.input_ids.size();
  const auto& starts = batch_.query_start_loc;
  if (num_rows > model_.max_rows_) {
    refuse("input_ids", num_rows, "at most " + std::to_string(model_.max_rows_) + " rows",
           static_cast<std::int64_t>(num_rows));
  }
  if (batch_.positions.size() != num_rows) {
    refuse("positions", 0, "one for each row", static_cast<std::int64_t>(batch_.positions.size()));
  }
  if (batch_.num_logits == 0 || batch_.num_logits > c_.vocab_size) {
    refuse("num_logits", 0, "1 to " + std::to_string(c_.vocab_size),
           static_cast<std::int64_t>(batch_.num_logits));
  }
  if (starts.empty() || starts.front() != 0 ||
      static_cast<std::size_t>(starts.back()) != num_rows) {
    throw std::invalid_argument("query_start_loc: expected 0 first and the number of rows last");
  }
  for (std::size_t s = 0; s + 1 < starts.size(); ++s) {
    if (starts[s] >= starts[s + 1] || static_cast<std::size_t>(starts[s + 1]) > num_rows) {
      refuse("query_start_loc", s + 1, "ascending rows of the batch", starts[s + 1]);
    }
    const auto begin = static_cast<std::size_t>(starts[s]);
    const auto end = static_cast<std::size_t>(starts[s + 1]);
    for (std::size_t row = begin; row < end; ++row) {
      const std::int32_t id = batch_.input_ids[row];
      if (id < 0 || static_cast<std::size_t>(id) >= c_.vocab_size) {
        refuse("input_ids", row, "0 to " + std::to_string(c_.vocab_size - 1), id);
      }
      const std::int32_t position = batch_.positions[row];
      const bool is_next = row == begin || position == batch_.positions[row - 1] + 1;
      if (position < 0 || static_cast<std::size_t>(position) >= model_.max_model_len_ || !is_next) {
        refuse("positions", row, "ascending by one, below " + std::to_string(model_.max_model_len_),
               position);
      }
      ws_.row_position[row] = position;
      ws_.row_sequence[row] = s;
      ws_.source_row[row] = row;
      ws_.is_logit_row[row] = 0;
    }
    check_tables(s, batch_.positions[begin], batch_.positions[end - 1]);
  }
  std::int64_t before = -1;
  for (std::size_t i = 0; i < batch_.logit_rows.size(); ++i) {
    const std::int32_t row = batch_.logit_rows[i];
    if (row <= before || static_cast<std::size_t>(row) >= num_rows) {
      refuse("logit_rows", i, "ascending rows of the batch", row);
    }
    ws_.is_logit_row[static_cast<std::size_t>(row)] = 1;
    before = row;
  }
}

// Every block that a row of the sequence reads or writes lies in its pool.
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
    const std::size_t row = sequence * batch_.blocks_per_sequence;
    for (std::int64_t i = (is_sliding ? window_begin : 0) / block_size; i <= last / block_size;
         ++i) {
      const std::size_t at = row + static_cast<std::size_t>(i);
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
  for_rows([&](std::size_t row) { embed_row(row); });
  for (std::size_t i = 0; i + 1 < num_streams_; ++i) {
    products({{w_.altup_projections[i].get(), &ws_.embedding, &ws_.update}});
    for_rows([&](std::size_t row) {
      const float* e = ws_.embedding.row(row);
      float* to = stream(ws_.streams, row, i + 1);
      const float size = static_cast<float>(c_.hidden_size);
      const float magnitude = std::sqrt(kernels_.sum_squares(e, hidden_) / size);
      const float mean = kernels_.sum_squares(ws_.update.row(row), hidden_) / size;
      const float* from = ws_.update.row(row);
      const float scale = magnitude / std::sqrt(std::max(mean, kLeastMeanSquare));
      kernels_.combine(to, &from, &scale, 1, hidden_);
    });
  }
}

void Gemma3n::Step::embed_row(std::size_t row) {
  float* e = ws_.embedding.row(row);
  decode_row(w_.embed_tokens, static_cast<std::size_t>(batch_.input_ids[row]), e);
  const float scale = std::sqrt(static_cast<float>(c_.hidden_size));
  for (std::size_t i = 0; i < c_.hidden_size; ++i) e[i] *= scale;
  const bool is_quantized_input = is_quantized(w_.per_layer_model_projection->format()) ||
                                  std::ranges::any_of(w_.altup_projections, [](const auto& matrix) {
                                    return is_quantized(matrix->format());
                                  });
  if (is_quantized_input) quantize(ws_.embedding, row);
  std::memcpy(stream(ws_.streams, row, 0), e, hidden_ * sizeof(float));
}

// For layers [begin, end): what the embedding projects to and what the token says there, averaged.
void Gemma3n::Step::project_per_layer_inputs(std::size_t layer_begin, std::size_t layer_end) {
  const PartTimer timer(times_.per_layer_inputs);
  const std::size_t size = c_.hidden_size_per_layer_input;
  if (layer_begin == layer_end) return;
  const std::size_t tile_begin = layer_begin * size / kTile;
  const std::size_t tile_end = (layer_end * size + kTile - 1) / kTile;
  linear(*w_.per_layer_model_projection, ws_.embedding.from(0, is_alone()), tile_begin, tile_end,
         ws_.projected.row(0) + tile_begin * kTile, ws_.projected.stride);
  const std::size_t stride = padded(size);
  const std::size_t row_size = w_.embed_tokens_per_layer.row_size;
  for_rows([&](std::size_t row) {
    const std::int32_t id = batch_.input_ids[ws_.source_row[row]];
    const bool has_row = static_cast<std::size_t>(id) < c_.vocab_size_per_layer_input;
    thread_local std::vector<float> looked_up;
    thread_local std::vector<float> projected_layer;
    looked_up.resize(row_size);
    projected_layer.assign(stride, 0.0f);  // another model of this thread may have left its values
    decode_row(w_.embed_tokens_per_layer, has_row ? static_cast<std::size_t>(id) : 0,
               looked_up.data());
    const float table_scale = std::sqrt(static_cast<float>(size)) * std::sqrt(0.5f);
    const float projection_scale = 1.0f / std::sqrt(static_cast<float>(c_.hidden_size));
    for (std::size_t layer = layer_begin; layer < layer_end; ++layer) {
      const float* from = ws_.projected.row(row) + layer * size;
      for (std::size_t i = 0; i < size; ++i) projected_layer[i] = from[i] * projection_scale;
      const float inverse = inverse_rms(kernels_.sum_squares(projected_layer.data(), stride), size);
      float* to = ws_.per_layer.row(row) + layer * stride;
      for (std::size_t i = 0; i < size; ++i) {
        to[i] = projected_layer[i] * (inverse * std::sqrt(0.5f)) * w_.per_layer_projection_norm[i] +
                looked_up[layer * size + i] * table_scale;
      }
    }
  });
}

void Gemma3n::Step::fill_rope() {
  for_rows([&](std::size_t row) {
    const auto position = static_cast<float>(ws_.row_position[row]);
    for (int type = 0; type < 2; ++type) {
      float* cos = ws_.rope[type][0].row(row);
      float* sin = ws_.rope[type][1].row(row);
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

// --- a layer -------------------------------------------------------------------------------------

// AltUp's prediction, the heads; keys and values into the cache.
void Gemma3n::Step::enter(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  is_wide_ = model_.switches_.wide_activations && layer < kWideLayers;
  ws_.normed.is_wide = is_wide_;
  ws_.attended.is_wide = is_wide_;
  ws_.ffn_in.is_wide = is_wide_ && !refines(w);
  {
    const PartTimer timer(times_.altup);
    for_rows([&](std::size_t row) { enter_row(layer, row); });
  }
  const PartTimer timer(times_.projections);
  if (w.k_proj != nullptr && model_.layers_[layer].kv_source_layer == layer) {
    products({{w.q_proj.get(), &ws_.normed, &ws_.q},
              {w.k_proj.get(), &ws_.normed, &ws_.k},
              {w.v_proj.get(), &ws_.normed, &ws_.v}});
  } else {
    products({{w.q_proj.get(), &ws_.normed, &ws_.q}});
  }
  for_rows([&](std::size_t row) { heads_row(layer, row); });
}

void Gemma3n::Step::enter_row(std::size_t layer, std::size_t row) {
  const LayerWeights& w = w_.layers[layer];
  const std::size_t n = num_streams_;
  const std::size_t active = c_.altup_active_idx;
  float modalities[kMostStreams + 1];
  kernels_.dots(stream(ws_.streams, row, active), w.router.data(), n, hidden_, modalities);
  const float inverse = inverse_rms(modalities[n], c_.hidden_size);
  for (std::size_t i = 0; i < n; ++i) modalities[i] = std::tanh(modalities[i] * inverse);
  const float* inputs[kMostStreams];
  for (std::size_t i = 0; i < n; ++i) inputs[i] = stream(ws_.streams, row, i);
  for (std::size_t o = 0; o < n; ++o) {
    float coefs[kMostStreams];
    for (std::size_t j = 0; j < n; ++j) {
      const float* from = w.prediction_coefs.data() + (o * n + j) * n;
      coefs[j] = o == j ? 1.0f : 0.0f;
      for (std::size_t i = 0; i < n; ++i) coefs[j] += from[i] * modalities[i];
    }
    kernels_.combine(stream(ws_.predictions, row, o), inputs, coefs, n, hidden_);
  }
  const float* a = stream(ws_.predictions, row, active);
  kernels_.add_normed(ws_.normed.row(row), nullptr, a,
                      inverse_rms(kernels_.sum_squares(a, hidden_), c_.hidden_size),
                      w.input_layernorm.data(), hidden_);
  if (any_quantized({w.q_proj.get(), w.k_proj.get(), w.v_proj.get(), w.laurel_left.get()})) {
    quantize(ws_.normed, row);
  }
}

void Gemma3n::Step::heads_row(std::size_t layer, std::size_t row) {
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
  thread_local std::vector<float> heads;
  heads.resize(c_.num_key_value_heads * stride);
  for (std::size_t head = 0; head < c_.num_key_value_heads; ++head) {
    norm(ws_.k.row(row) + head * size, heads.data() + head * stride, w.k_norm.data());
    rotate(heads.data() + head * stride);
  }
  store_keys(layer, row, heads.data(), false);
  for (std::size_t head = 0; head < c_.num_key_value_heads; ++head) {
    norm(ws_.v.row(row) + head * size, heads.data() + head * stride, nullptr);
  }
  store_keys(layer, row, heads.data(), true);
}

// heads [num_key_value_heads][padded head_dim] of one position, to its place in its key group.
void Gemma3n::Step::store_keys(std::size_t layer, std::size_t row, const float* heads,
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
  if (!cache_.config_.is_float16) return store(heads, pool.data.as<float>() + at);
  thread_local std::vector<std::uint16_t> halves;
  halves.resize(c_.num_key_value_heads * stride);
  kernels_.to_float16(heads, halves.size(), halves.data());
  store(halves.data(), pool.data.as<std::uint16_t>() + at);
}

// Moves the rows whose logits are wanted to the front; the others are done.
void Gemma3n::Step::keep_logit_rows() {
  std::size_t kept = 0;
  const auto move = [&](float* base, std::size_t stride, std::size_t row) {
    if (row != kept) std::memcpy(base + kept * stride, base + row * stride, stride * sizeof(float));
  };
  for (std::size_t row = 0; row < num_rows_; ++row) {
    if (ws_.is_logit_row[row] == 0) continue;
    for (Outputs* outputs : {&ws_.streams, &ws_.predictions, &ws_.queries, &ws_.rope[0][0],
                             &ws_.rope[0][1], &ws_.rope[1][0], &ws_.rope[1][1]}) {
      move(outputs->floats.data(), outputs->stride, row);
    }
    for (Activations* inputs : {&ws_.embedding, &ws_.normed}) {
      move(inputs->floats.data(), inputs->stride, row);
    }
    ws_.row_position[kept] = ws_.row_position[row];
    ws_.row_sequence[kept] = ws_.row_sequence[row];
    ws_.source_row[kept] = ws_.source_row[row];
    ++kept;
  }
  num_rows_ = kept;
  for_rows([&](std::size_t row) {
    quantize(ws_.embedding, row);
    quantize(ws_.normed, row);
  });
}

// Attention and LAuReL, back into the residual; the input of the feed-forward.
void Gemma3n::Step::attend(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  const LayerConfig& config = model_.layers_[layer];
  const std::size_t head = padded(c_.head_dim);
  const std::size_t num_queries = c_.num_attention_heads / c_.num_key_value_heads;
  const std::size_t block_size = cache_.config_.block_size;
  const KvCache::Pool& pool = cache_.pools_[config.is_sliding ? 1 : 0];
  const bool is_padded = head != c_.head_dim;
  Outputs& out_heads = ws_.attended_heads;
  {
    const PartTimer timer(times_.attention);
    ws_.attention_tiles.clear();
    for (std::size_t row = 0; row < num_rows_;) {
      std::size_t end = row + 1;
      while (end < num_rows_ && end - row < ws_.attention_rows &&
             ws_.row_sequence[end] == ws_.row_sequence[row] &&
             ws_.row_position[end] == ws_.row_position[end - 1] + 1) {
        ++end;
      }
      ws_.attention_tiles.push_back(row);
      row = end;
    }
    const std::size_t num_tiles = ws_.attention_tiles.size();
    ws_.attention_tiles.push_back(num_rows_);
    AttentionTask task{};
    task.q_stride = ws_.queries.stride;
    task.out_stride = is_padded ? out_heads.stride : ws_.attended.stride;
    task.num_queries = num_queries;
    task.head_stride = head;
    task.num_kv_heads = c_.num_key_value_heads;
    task.window = config.is_sliding ? static_cast<std::int64_t>(c_.sliding_window) : 0;
    task.cache.is_float16 = cache_.config_.is_float16;
    task.cache.block_stride = pool.block_elements;
    task.cache.group_stride = cache_.group_elements_;
    task.cache.groups_per_block = block_size / kTile;
    task.cache.base = pool.data.as<std::byte>() +
                      cache_.layer_offset_[config.kv_source_layer] * cache_.element_bytes();
    const auto& table = config.is_sliding ? batch_.sliding_block_table : batch_.full_block_table;
    const std::size_t num_tasks = num_tiles * c_.num_key_value_heads;
    pool_.parallel_for(num_tasks, 1, [&](std::size_t begin, std::size_t end, std::size_t thread) {
      for (std::size_t i = begin; i < end; ++i) {
        const std::size_t row = ws_.attention_tiles[i / c_.num_key_value_heads];
        AttentionTask piece = task;
        piece.kv_head = i % c_.num_key_value_heads;
        const std::size_t offset = piece.kv_head * num_queries * head;
        piece.num_rows = ws_.attention_tiles[i / c_.num_key_value_heads + 1] - row;
        piece.q = ws_.queries.row(row) + offset;
        piece.out = (is_padded ? out_heads.row(row) : ws_.attended.row(row)) + offset;
        piece.first_position = ws_.row_position[row];
        piece.block_table = table.data() + ws_.row_sequence[row] * batch_.blocks_per_sequence;
        piece.scratch = ws_.thread_scratch[thread].data();
        kernels_.attention(piece);
      }
    });
  }
  const PartTimer timer(times_.projections);
  const bool is_quantized_out = is_quantized(w.o_proj->format());
  for_rows([&](std::size_t row) {
    if (is_padded) {
      for (std::size_t i = 0; i < c_.num_attention_heads; ++i) {
        std::memcpy(ws_.attended.row(row) + i * c_.head_dim, out_heads.row(row) + i * head,
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
  for_rows([&](std::size_t row) { mix_row(layer, row); });
}

void Gemma3n::Step::mix_row(std::size_t layer, std::size_t row) {
  const LayerWeights& w = w_.layers[layer];
  const float* attention = ws_.attention_out.row(row);
  const float* laurel = ws_.laurel_out.row(row);
  float* hidden = ws_.hidden.row(row);
  kernels_.add_normed(hidden, stream(ws_.predictions, row, c_.altup_active_idx), attention,
                      inverse_rms(kernels_.sum_squares(attention, hidden_), c_.hidden_size),
                      w.post_attention_layernorm.data(), hidden_);
  kernels_.add_normed(hidden, hidden, laurel,
                      inverse_rms(kernels_.sum_squares(laurel, hidden_), c_.hidden_size),
                      w.post_laurel_norm.data(), hidden_);
  const float* inputs[] = {hidden, ws_.normed.row(row)};
  const float half_root = std::sqrt(0.5f);
  const float coefs[] = {half_root, half_root};
  kernels_.combine(hidden, inputs, coefs, 2, hidden_);
  kernels_.add_normed(ws_.ffn_in.row(row), nullptr, hidden,
                      inverse_rms(kernels_.sum_squares(hidden, hidden_), c_.hidden_size),
                      w.pre_feedforward_layernorm.data(), hidden_);
  if (any_quantized({w.gate_proj.get(), w.up_proj.get()})) quantize(ws_.ffn_in, row);
  if (w.up_rows != nullptr && (refines(w) || is_quantized(w.up_rows->format()))) {
    const std::size_t groups = ws_.dot_padded / kGroup;
    kernels_.quantize_dot(ws_.ffn_in.row(row), ws_.ffn_in.stride, ws_.dot_padded,
                          ws_.dot_bytes.data() + row * ws_.dot_padded,
                          is_wide_ ? ws_.dot_low_bytes.data() + row * ws_.dot_padded : nullptr,
                          ws_.dot_scales.data() + row * groups, ws_.dot_sums.data() + row * groups);
  }
}

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
      if (tile_end < 2 * end) std::fill(gates, gates + rows * width, 0.0f);
      const Rows x = ws_.ffn_in.from(row, is_alone());
      kernels_.linear({w.gate_proj.get(), x, rows, tile_begin, tile_end, gates, width});
      kernels_.linear({w.up_proj.get(), x, rows, tile_begin, tile_end, ups, width});
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
  if (w.up_rows == nullptr) {
    dense_after_gate(layer);
  } else {
    compute_neurons(layer);
    add_columns(layer);
  }
  std::size_t num_live = 0;
  for (std::size_t row = 0; row < num_rows_; ++row) num_live += ws_.num_live[row];
  const std::size_t size = model_.layers_[layer].intermediate_size;
  times_.num_live_neurons += num_live;
  times_.num_sparse_neurons += num_rows_ * size;
  if (w.up_rows == nullptr) return;
  times_.weight_bytes += (w.up_rows->num_bytes() + w.down_columns->num_bytes()) *
                         std::min<std::size_t>(num_live, size) / size;
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
  pool_.parallel_for(num_chunks, 1, [&](std::size_t chunk, std::size_t, std::size_t thread) {
    float* const dots = ws_.thread_scratch[thread].data();
    for (std::size_t row = 0; row < num_rows_; ++row) {
      const DotRow x{ws_.ffn_in.row(row), ws_.dot_bytes.data() + row * padded_in,
                     is_wide_ ? ws_.dot_low_bytes.data() + row * padded_in : nullptr,
                     ws_.dot_scales.data() + row * groups, ws_.dot_sums.data() + row * groups};
      const std::size_t from = marks(row)[chunk];
      const std::size_t count = marks(row)[chunk + 1] - from;
      std::uint32_t* const indices = live_indices(row) + from;
      float* const values = live_values(row) + from;
      if (refines(w)) kernels_.row_dots(*w.gate_rows, x, indices, count, values);
      const std::size_t num_live = kernels_.keep_live(indices, values, count, ws_.cutoff[row]);
      kernels_.row_dots(*w.up_rows, x, indices, num_live, dots);
      for (std::size_t i = 0; i < num_live; ++i) values[i] *= dots[i];
      ws_.live_counts.data()[row * ws_.marks_stride + chunk] = static_cast<std::uint32_t>(num_live);
    }
  });
  if (!refines(w)) return;
  for (std::size_t row = 0; row < num_rows_; ++row) {
    times_.num_refined_neurons += ws_.num_live[row];
  }
  for_rows([&](std::size_t row) {
    std::uint32_t num_live = 0;
    for (std::size_t chunk = 0; chunk < num_chunks; ++chunk) {
      const std::size_t count = ws_.live_counts.data()[row * ws_.marks_stride + chunk];
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
  const std::size_t num_pieces = (down.padded_out() + slice - 1) / slice;
  pool_.parallel_for(num_pieces, 1, [&](std::size_t piece, std::size_t, std::size_t thread) {
    const std::size_t begin = piece * slice;
    const std::size_t end = std::min(begin + slice, down.padded_out());
    float* const decoded = ws_.thread_scratch[thread].data();
    LiveRow* const rows = ws_.thread_live_rows[thread].data();
    for (std::size_t chunk = 0; chunk < num_chunks; ++chunk) {
      for (std::size_t row = 0; row < num_rows_; ++row) {
        const std::size_t from = marks(row)[chunk];
        rows[row] = {.indices = live_indices(row) + from,
                     .values = live_values(row) + from,
                     .count = marks(row)[chunk + 1] - from,
                     .num_known = ws_.num_live[row] - from,
                     .out = ws_.ffn_out.row(row) + begin};
      }
      if (!decodes) {
        kernels_.add_columns(down, begin, end, rows, num_rows_);
        continue;
      }
      const std::size_t first = chunk * kChunk;
      const std::size_t last = std::min(first + kChunk, size);
      if (first >= last) break;  // a layer narrower than the widest
      kernels_.decode_columns(down, first, last, begin, end, decoded);
      kernels_.add_decoded({decoded, first, end - begin}, rows, num_rows_);
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
    if (to_bytes) {
      kernels_.quantize(up, ws_.up.stride, row, ws_.ffn_act.byte_rows(is_alone()));
    } else {
      std::memcpy(ws_.ffn_act.row(row), up, ws_.ffn_act.stride * sizeof(float));
    }
  });
  products({{w.down_proj.get(), &ws_.ffn_act, &ws_.ffn_out}});
}

// AltUp's correction and the per-layer input.
void Gemma3n::Step::finish(std::size_t layer) {
  const LayerWeights& w = w_.layers[layer];
  {
    const PartTimer timer(times_.altup);
    for_rows([&](std::size_t row) { correct_row(layer, row); });
  }
  const PartTimer timer(times_.per_layer_inputs);
  products({{w.per_layer_input_gate.get(), &ws_.gate_in, &ws_.gate_out}});
  const std::size_t stride = padded(c_.hidden_size_per_layer_input);
  const bool is_quantized_update = is_quantized(w.per_layer_projection->format());
  for_rows([&](std::size_t row) {
    float* gated = ws_.gated.row(row);
    std::memcpy(gated, ws_.gate_out.row(row), stride * sizeof(float));
    kernels_.gelu_times(gated, ws_.per_layer.row(row) + layer * stride, stride);
    if (is_quantized_update) quantize(ws_.gated, row);
  });
  products({{w.per_layer_projection.get(), &ws_.gated, &ws_.update}});
  for_rows([&](std::size_t row) {
    const float* update = ws_.update.row(row);
    const float inverse = inverse_rms(kernels_.sum_squares(update, hidden_), c_.hidden_size);
    for (std::size_t i = 1; i < num_streams_; ++i) {
      float* to = stream(ws_.streams, row, i);
      kernels_.add_normed(to, to, update, inverse, w.post_per_layer_input_norm.data(), hidden_);
    }
  });
}

void Gemma3n::Step::correct_row(std::size_t layer, std::size_t row) {
  const LayerWeights& w = w_.layers[layer];
  const std::size_t n = num_streams_;
  const std::size_t active = c_.altup_active_idx;
  const float* out = ws_.ffn_out.row(row);
  float* z = ws_.hidden.row(row);
  kernels_.add_normed(z, z, out, inverse_rms(kernels_.sum_squares(out, hidden_), c_.hidden_size),
                      w.post_feedforward_layernorm.data(), hidden_);
  float modalities[kMostStreams + 1];
  kernels_.dots(z, w.router.data(), n, hidden_, modalities);
  const float inverse = inverse_rms(modalities[n], c_.hidden_size);
  for (std::size_t i = 0; i < n; ++i) modalities[i] = std::tanh(modalities[i] * inverse);
  for (std::size_t o = 0; o < n; ++o) {
    float coef = 1.0f;
    for (std::size_t i = 0; i < n; ++i) coef += w.correction_coefs[o * n + i] * modalities[i];
    const float* inputs[] = {stream(ws_.predictions, row, o), z,
                             stream(ws_.predictions, row, active)};
    const float coefs[] = {1.0f, coef, -coef};
    kernels_.combine(stream(ws_.streams, row, o), inputs, coefs, 3, hidden_);
  }
  kernels_.add_normed(ws_.gate_in.row(row), nullptr, stream(ws_.streams, row, active), 1.0f,
                      w.correct_output_scale.data(), hidden_);
  if (is_quantized(w.per_layer_input_gate->format())) quantize(ws_.gate_in, row);
}

// --- what goes out -------------------------------------------------------------------------------

void Gemma3n::Step::exit(float* logits) {
  const PartTimer timer(times_.head);
  const float size = static_cast<float>(c_.hidden_size);
  for_rows([&](std::size_t row) {
    std::memcpy(ws_.total.row(row), stream(ws_.streams, row, 0), hidden_ * sizeof(float));
  });
  for (std::size_t i = 1; i < num_streams_; ++i) {
    const Matrix& weight = *w_.altup_unembed_projections[i - 1];
    for_rows([&](std::size_t row) {
      std::memcpy(ws_.last.row(row), stream(ws_.streams, row, i), hidden_ * sizeof(float));
      if (is_quantized(weight.format())) quantize(ws_.last, row);
    });
    products({{&weight, &ws_.last, &ws_.update}});
    for_rows([&](std::size_t row) {
      const float* first = stream(ws_.streams, row, 0);
      const float magnitude = std::sqrt(kernels_.sum_squares(first, hidden_) / size);
      const float mean = kernels_.sum_squares(ws_.update.row(row), hidden_) / size;
      const float* inputs[] = {ws_.total.row(row), ws_.update.row(row)};
      const float coefs[] = {1.0f, magnitude / std::sqrt(std::max(mean, kLeastMeanSquare))};
      kernels_.combine(ws_.total.row(row), inputs, coefs, 2, hidden_);
    });
  }
  for_rows([&](std::size_t row) {
    float* total = ws_.total.row(row);
    const float* input = total;
    const float share = 1.0f / static_cast<float>(num_streams_);
    kernels_.combine(total, &input, &share, 1, hidden_);
    kernels_.add_normed(ws_.last.row(row), nullptr, total,
                        inverse_rms(kernels_.sum_squares(total, hidden_), c_.hidden_size),
                        w_.norm.data(), hidden_);
    if (is_quantized(w_.head->format())) quantize(ws_.last, row);
  });
  const std::size_t num_logits = batch_.num_logits;
  const std::size_t num_tiles = (num_logits + kTile - 1) / kTile;
  const std::size_t grain = std::min(tiles_at_once(num_tiles), kHeadTiles);
  pool_.parallel_for(num_tiles, grain, [&](std::size_t begin, std::size_t end, std::size_t thread) {
    float* const out = ws_.thread_scratch[thread].data();
    const std::size_t width = (end - begin) * kTile;
    const std::size_t wanted = std::min(width, num_logits - begin * kTile);
    for (std::size_t row = 0; row < num_rows_; row += kFeedForwardRows) {
      const std::size_t rows = std::min(kFeedForwardRows, num_rows_ - row);
      kernels_.linear(
          {w_.head.get(), ws_.last.from(row, is_alone()), rows, begin, end, out, width});
      for (std::size_t r = 0; r < rows; ++r) {
        float* values = out + r * width;
        if (c_.final_logit_softcapping > 0) {
          kernels_.soft_cap(values, width, c_.final_logit_softcapping);
        }
        std::memcpy(logits + (row + r) * num_logits + begin * kTile, values,
                    wanted * sizeof(float));
      }
    }
  });
  times_.weight_bytes += w_.head->num_bytes();
}

// --- products ------------------------------------------------------------------------------------

// With many rows, pieces whose weights stay in the second-level cache while the rows go by; with
// few, long runs of memory, several for each thread.
std::size_t Gemma3n::Step::tiles_at_once(std::size_t num_tiles) const {
  if (num_rows_ > kPanelRows) return kFeedForwardTiles;
  const auto num_pieces = static_cast<std::size_t>(pool_.num_threads()) * 8;
  return std::clamp<std::size_t>(num_tiles / num_pieces, 1, 64);
}

void Gemma3n::Step::linear(const Matrix& weight, const Rows& x, std::size_t tile_begin,
                           std::size_t tile_end, float* out, std::size_t out_stride) {
  const std::size_t num_tiles = tile_end - tile_begin;
  pool_.parallel_for(num_tiles, tiles_at_once(num_tiles), [&](std::size_t begin, std::size_t end) {
    kernels_.linear({&weight, x, num_rows_, tile_begin + begin, tile_begin + end,
                     out + begin * kTile, out_stride});
  });
  times_.weight_bytes += weight.num_bytes() * num_tiles / weight.num_tiles();
}

void Gemma3n::Step::products(std::initializer_list<Product> products) {
  std::size_t num_tiles = 0;
  for (const Product& product : products) {
    num_tiles += product.weight->num_tiles();
    times_.weight_bytes += product.weight->num_bytes();
  }
  pool_.parallel_for(num_tiles, tiles_at_once(num_tiles), [&](std::size_t begin, std::size_t end) {
    std::size_t first = 0;
    for (const Product& product : products) {
      const std::size_t count = product.weight->num_tiles();
      const std::size_t from = std::max(begin, first);
      const std::size_t to = std::min(end, first + count);
      if (from < to) {
        kernels_.linear({product.weight, product.x->from(0, is_alone()), num_rows_, from - first,
                         to - first, product.out->row(0) + (from - first) * kTile,
                         product.out->stride});
      }
      first += count;
    }
  });
}

}  // namespace nestling
