// The parts of a step. step.cpp has their order, what comes in and what goes out; layer.cpp has
// AltUp, the attention heads, LAuReL and the per-layer inputs; attention.cpp and feed_forward.cpp
// have what their names say.
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

// Adds the time between its construction and its destruction to a part.
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

// One of several products that one parallel loop computes.
struct Product {
  const Matrix* weight;
  const Activations* x;
  Outputs* out;
};

// Returns whether any of them is quantised. Null is not.
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
        num_altup_inputs_(c_.altup_num_inputs),
        num_tokens_(batch.input_ids.size()) {}

  void run(float* logits, const OnLayer& on_layer);

 private:
  void check() const;
  void check_tables(std::size_t sequence, std::int64_t first, std::int64_t last) const;
  void embed();
  void embed_token(std::size_t token);
  void project_per_layer_inputs(std::size_t layer_begin, std::size_t layer_end);
  void combine_per_layer_inputs(std::size_t layer_begin, std::size_t layer_end, std::size_t token,
                                std::size_t thread);
  void fill_rope();
  void choose_quants(std::size_t layer);
  void altup_router(const LayerWeights& w, const float* x, float* modalities) const;
  void compute_prediction_coefs(const LayerWeights& w, std::size_t token);
  void predict_active(std::size_t token);
  template <class Before>
  void altup_predict(std::size_t layer, const Before& before);
  void altup_predict_first();
  void project_qkv(std::size_t layer);
  void normalise_heads(std::size_t layer, std::size_t token, std::size_t thread);
  void store_kv(std::size_t layer, std::size_t token, std::size_t thread, bool are_values);
  void keep_logit_tokens();
  void attend(std::size_t layer);
  void attention(std::size_t layer);
  void tile_attention(std::size_t layer);
  void cut_attention();
  void add_residuals(std::size_t layer);
  void quantize_dot(std::size_t token);
  void feed_forward(std::size_t layer);
  void dense_feed_forward(const LayerWeights& w);
  void sparse_feed_forward(std::size_t layer);
  void select_neurons(std::size_t layer);
  void compute_neurons(std::size_t layer);
  std::size_t num_selected() const;
  void add_columns(std::size_t layer);
  void dense_after_gate(std::size_t layer);
  void altup_correct(const LayerWeights& w);
  void correct_token(const LayerWeights& w, std::size_t token);
  void add_per_layer_inputs(std::size_t layer);
  void compute_logits(float* logits);

  // Calls body(token) or body(token, thread) for every token. If there are enough of them, a thread
  // takes whole panels, whose int8 values share cache lines.
  template <class Body>
  void for_tokens(const Body& body) {
    const std::size_t num_panels = (num_tokens_ + kPanelTokens - 1) / kPanelTokens;
    const auto num_threads = static_cast<std::size_t>(pool_.num_threads());
    const std::size_t at_once = num_panels < num_threads ? 1 : kPanelTokens;
    const std::size_t count = (num_tokens_ + at_once - 1) / at_once;
    pool_.parallel_for(count, 1, [&](std::size_t begin, std::size_t end, std::size_t thread) {
      for (std::size_t token = begin * at_once; token < std::min(end * at_once, num_tokens_);
           ++token) {
        if constexpr (std::is_invocable_v<const Body&, std::size_t, std::size_t>) {
          body(token, thread);
        } else {
          body(token);
        }
      }
    });
  }
  // Calls all passes of a token one after the other while it is in the caches. If that is switched
  // off, calls each pass for all tokens.
  template <class... Passes>
  void in_passes(const Passes&... passes) {
    if (model_.switches_.fused_passes) {
      for_tokens([&](std::size_t token) { (passes(token), ...); });
    } else {
      (for_tokens(passes), ...);
    }
  }
  void products(std::initializer_list<Product> products);
  void linear(const Matrix& weight, const TokenInputs& x, std::size_t tile_begin,
              std::size_t tile_end, float* out, std::size_t out_stride);
  void quantize(Activations& x, std::size_t token) {
    kernels_.quantize(x.token(token), x.width, token, x.int8_tokens(is_alone()));
  }
  bool is_alone() const { return num_tokens_ == 1; }
  float inverse_rms(float sum_squares, std::size_t size) const {
    return 1.0f / std::sqrt(sum_squares / static_cast<float>(size) + c_.rms_norm_eps);
  }
  // out = base + x / rms(x) * weight; base may be null (0) or out.
  void norm(float* out, const float* base, const float* x, const Vector& weight) const {
    kernels_.add_normed(out, base, x, inverse_rms(kernels_.sum_squares(x, hidden_), c_.hidden_size),
                        weight.data(), hidden_);
  }
  float* altup_input(std::size_t token, std::size_t index) const {
    return ws_.altup_inputs.token(token) + index * hidden_;
  }
  float* prediction_coefs(std::size_t token) const {
    return ws_.prediction_coefs.data() + token * num_altup_inputs_ * num_altup_inputs_;
  }
  // Returns how many positions a token sees; 0 means all.
  std::size_t window_of(std::size_t layer) const {
    return model_.layers_[layer].is_sliding ? c_.sliding_window : 0;
  }
  std::size_t tiles_at_once(std::size_t num_tiles) const;
  // Returns where a thread's next piece of a loop begins if each other thread takes one meanwhile.
  std::size_t likely_next(std::size_t end, std::size_t grain) const {
    return end + (static_cast<std::size_t>(pool_.num_threads()) - 1) * grain;
  }
  // Returns whether gates near the cutoff are computed a second time.
  bool refines(const LayerWeights& w) const { return has_int16_dots_ && w.gate_rows != nullptr; }
  // The active neurons of a token in ascending order, and their values.
  std::uint32_t* active_indices(std::size_t token) const {
    return ws_.active_indices.data() + token * (ws_.gate.stride + kTile);
  }
  float* active_values(std::size_t token) const { return ws_.gate.token(token); }
  // Where the active neurons of each block of neurons begin among them.
  std::uint32_t* active_begins(std::size_t token) const {
    return ws_.active_begins.data() + token * ws_.begins_stride;
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
  const std::size_t num_altup_inputs_;
  std::size_t num_tokens_;
  bool has_int16_dots_ = false;  // of the layer's neurons
};

}  // namespace nestling
