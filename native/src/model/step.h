// What a step is made of. Its parts: step.cpp has the order and what goes in and out,
// layer.cpp AltUp and heads, attention.cpp attention, feed_forward.cpp the
// rest of a layer.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "kernels/step_kernels.h"
#include "model/workspace.h"
#include "nestling/gemma3n.h"

namespace nestling {

// Adds the time until its end to a part.
class PartTimer {
 public:
  explicit PartTimer(double& part) : part_(part), begin_(std::chrono::steady_clock::now()) {}
  PartTimer(const PartTimer&) = delete;
  PartTimer& operator=(const PartTimer&) = delete;
  ~PartTimer() {
    part_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  double& part_;
  std::chrono::steady_clock::time_point begin_;
};

// One product of a parallel loop over several.
struct Product {
  const Matrix* weight;
  const Activations* x;
  Outputs* out;
};

// Whether any of them is quantised; null is not.
bool any_quantized(std::initializer_list<const Matrix*> matrices);

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
  void mix_per_layer_inputs(std::size_t layer_begin, std::size_t layer_end, std::size_t row,
                            std::size_t thread);
  void fill_rope();
  void choose_rounding(std::size_t layer);
  void weigh(const LayerWeights& w, const float* x, float* modalities) const;
  void weigh_streams(const LayerWeights& w, std::size_t row);
  void predict_active(std::size_t row);
  template <class Before>
  void enter(std::size_t layer, const Before& before);
  void enter_first_layer();
  void make_heads(std::size_t layer);
  void heads_row(std::size_t layer, std::size_t row, std::size_t thread);
  void store_keys(std::size_t layer, std::size_t row, std::size_t thread, bool are_values);
  void keep_logit_rows();
  void attend(std::size_t layer);
  void attention(std::size_t layer);
  void tile_attention(std::size_t layer);
  void cut_attention();
  void mix(std::size_t layer);
  void quantize_dot(std::size_t row);
  void feed_forward(std::size_t layer);
  void dense_feed_forward(const LayerWeights& w);
  void sparse_feed_forward(std::size_t layer);
  void select_neurons(std::size_t layer);
  void compute_neurons(std::size_t layer);
  std::size_t num_selected() const;
  void add_columns(std::size_t layer);
  void dense_after_gate(std::size_t layer);
  void finish(std::size_t layer);
  void correct(const LayerWeights& w);
  void correct_row(const LayerWeights& w, std::size_t row);
  void exit(float* logits);

  // Calls body(row) or body(row, thread). If there are enough of them a thread takes whole panels,
  // whose rows' bytes share cache lines.
  template <class Body>
  void for_rows(const Body& body) {
    const std::size_t num_panels = (num_rows_ + kPanelRows - 1) / kPanelRows;
    const auto num_threads = static_cast<std::size_t>(pool_.num_threads());
    const std::size_t at_once = num_panels < num_threads ? 1 : kPanelRows;
    const std::size_t count = (num_rows_ + at_once - 1) / at_once;
    pool_.parallel_for(count, 1, [&](std::size_t begin, std::size_t end, std::size_t thread) {
      for (std::size_t row = begin * at_once; row < std::min(end * at_once, num_rows_); ++row) {
        if constexpr (std::is_invocable_v<const Body&, std::size_t, std::size_t>) {
          body(row, thread);
        } else {
          body(row);
        }
      }
    });
  }
  // Calls all passes of a row one after the other while it is in the caches; or, switched off,
  // each pass for all rows.
  template <class... Passes>
  void in_passes(const Passes&... passes) {
    if (model_.switches_.fused_passes) {
      for_rows([&](std::size_t row) { (passes(row), ...); });
    } else {
      (for_rows(passes), ...);
    }
  }
  void products(std::initializer_list<Product> products);
  void linear(const Matrix& weight, const Rows& x, std::size_t tile_begin, std::size_t tile_end,
              float* out, std::size_t out_stride);
  void quantize(Activations& x, std::size_t row) {
    kernels_.quantize(x.row(row), x.width, row, x.byte_rows(is_alone()));
  }
  bool is_alone() const { return num_rows_ == 1; }
  float inverse_rms(float sum_squares, std::size_t size) const {
    return 1.0f / std::sqrt(sum_squares / static_cast<float>(size) + c_.rms_norm_eps);
  }
  // out = base + x / rms(x) * weight; base may be null (0) or out.
  void norm(float* out, const float* base, const float* x, const Vector& weight) const {
    kernels_.add_normed(out, base, x, inverse_rms(kernels_.sum_squares(x, hidden_), c_.hidden_size),
                        weight.data(), hidden_);
  }
  float* stream(std::size_t row, std::size_t index) const {
    return ws_.streams.row(row) + index * hidden_;
  }
  float* prediction_coefs(std::size_t row) const {
    return ws_.prediction_coefs.data() + row * num_streams_ * num_streams_;
  }
  // Positions that a row sees; 0: all.
  std::size_t window_of(std::size_t layer) const {
    return model_.layers_[layer].is_sliding ? c_.sliding_window : 0;
  }
  std::size_t tiles_at_once(std::size_t num_tiles) const;
  // Where a thread's next piece of a loop begins if the others take one each meanwhile.
  std::size_t likely_next(std::size_t end, std::size_t grain) const {
    return end + (static_cast<std::size_t>(pool_.num_threads()) - 1) * grain;
  }
  bool refines(const LayerWeights& w) const { return has_wide_dots_ && w.gate_rows != nullptr; }
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
  bool has_wide_dots_ = false;  // of the layer's neurons
};

}  // namespace nestling
