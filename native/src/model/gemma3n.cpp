#include "nestling/gemma3n.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <stdexcept>
#include <string>

#include "kernels/step_kernels.h"
#include "model/workspace.h"

namespace nestling {

namespace {

void require(bool is_true, const std::string& what) {
  if (!is_true) throw std::invalid_argument(what);
}

void require_vector(const Vector& vector, std::size_t size, const char* name) {
  require(vector.size() == size, std::string(name) + ": expected " + std::to_string(size) +
                                     " values, got " + std::to_string(vector.size()));
}

template <class AnyMatrix>
void require_matrix(const Shared<AnyMatrix>& matrix, std::size_t out, std::size_t in,
                    const char* name) {
  require(matrix != nullptr, std::string(name) + ": missing");
  std::size_t rows = 0;
  std::size_t columns = 0;
  if constexpr (requires { matrix->num_columns(); }) {
    rows = matrix->out_features();
    columns = matrix->num_columns();
  } else if constexpr (requires { matrix->num_rows(); }) {
    rows = matrix->num_rows();
    columns = matrix->in_features();
  } else {
    rows = matrix->out_features();
    columns = matrix->in_features();
  }
  require(rows == out && columns == in,
          std::string(name) + ": expected [" + std::to_string(out) + ", " + std::to_string(in) +
              "], got [" + std::to_string(rows) + ", " + std::to_string(columns) + "]");
}

void check_layer(const Gemma3nConfig& c, const LayerConfig& layer, const LayerWeights& w,
                 bool owns_kv) {
  const std::size_t hidden = c.hidden_size;
  const std::size_t kv_size = c.num_key_value_heads * c.head_dim;
  require_matrix(w.q_proj, c.num_attention_heads * c.head_dim, hidden, "q_proj");
  require_matrix(w.o_proj, hidden, c.num_attention_heads * c.head_dim, "o_proj");
  if (owns_kv) {
    require_matrix(w.k_proj, kv_size, hidden, "k_proj");
    require_matrix(w.v_proj, kv_size, hidden, "v_proj");
    require_vector(w.k_norm, c.head_dim, "k_norm");
  }
  require_matrix(w.laurel_left, c.laurel_rank, hidden, "linear_left");
  require_matrix(w.laurel_right, hidden, c.laurel_rank, "linear_right");
  require_matrix(w.gate_proj, layer.intermediate_size, hidden, "gate_proj");
  if (w.up_rows != nullptr) {
    require(layer.std_multiplier.has_value(), "up_proj: rows in a dense layer");
    require_matrix(w.up_rows, layer.intermediate_size, hidden, "up_proj");
    require_matrix(w.down_columns, hidden, layer.intermediate_size, "down_proj");
    if (w.gate_rows != nullptr) {
      require_matrix(w.gate_rows, layer.intermediate_size, hidden, "gate_rows");
      require(is_quantized(w.gate_rows->format()) && is_quantized(w.gate_proj->format()),
              "gate_rows: expected with quantised gates only");
    }
  } else {
    require(w.gate_rows == nullptr, "gate_rows: expected with up_proj's rows only");
    require_matrix(w.up_proj, layer.intermediate_size, hidden, "up_proj");
    require_matrix(w.down_proj, hidden, layer.intermediate_size, "down_proj");
  }
  require_matrix(w.per_layer_input_gate, c.hidden_size_per_layer_input, hidden,
                 "per_layer_input_gate");
  require_matrix(w.per_layer_projection, hidden, c.hidden_size_per_layer_input,
                 "per_layer_projection");
  for (const auto& [vector, name] : {std::pair{&w.input_layernorm, "input_layernorm"},
                                     {&w.post_attention_layernorm, "post_attention_layernorm"},
                                     {&w.pre_feedforward_layernorm, "pre_feedforward_layernorm"},
                                     {&w.post_feedforward_layernorm, "post_feedforward_layernorm"},
                                     {&w.post_laurel_norm, "post_laurel_norm"},
                                     {&w.post_per_layer_input_norm, "post_per_layer_input_norm"},
                                     {&w.router_norm, "router_norm"},
                                     {&w.correct_output_scale, "correct_output_scale"}}) {
    require_vector(*vector, hidden, name);
  }
  const std::size_t n = c.altup_num_inputs;
  require_vector(w.q_norm, c.head_dim, "q_norm");
  require_vector(w.router, n * hidden, "modality_router");
  require_vector(w.prediction_coefs, n * n * n, "prediction_coefs");
  require_vector(w.correction_coefs, n * n, "correction_coefs");
}

void check_weights(const Gemma3nConfig& c, const std::vector<LayerConfig>& layers,
                   const Gemma3nWeights& w) {
  require(!layers.empty() && w.layers.size() == layers.size(), "layers: expected one set each");
  require(c.altup_num_inputs >= 1 && c.altup_num_inputs <= kMaxAltupInputs,
          "altup_num_inputs: expected 1 to " + std::to_string(kMaxAltupInputs) + ", got " +
              std::to_string(c.altup_num_inputs));
  require(c.altup_active_idx < c.altup_num_inputs,
          "altup_active_idx: expected less than altup_num_inputs, got " +
              std::to_string(c.altup_active_idx));
  require(c.num_key_value_heads > 0 && c.num_attention_heads % c.num_key_value_heads == 0,
          "heads: expected a multiple of the key-value heads");
  require(c.head_dim >= 2 && c.head_dim % 2 == 0, "head_dim: expected an even number");
  require(c.sliding_window >= 1, "sliding_window: expected at least 1, got 0");
  require(w.embed_tokens.num_rows == c.vocab_size && w.embed_tokens.row_size == c.hidden_size,
          "embed_tokens: bad shape");
  const std::size_t per_layer = layers.size() * c.hidden_size_per_layer_input;
  require(w.embed_tokens_per_layer.num_rows >= c.vocab_size_per_layer_input &&
              w.embed_tokens_per_layer.row_size == per_layer,
          "embed_tokens_per_layer: bad shape");
  require_matrix(w.head, c.vocab_size, c.hidden_size, "head");
  require_matrix(w.per_layer_model_projection, per_layer, c.hidden_size,
                 "per_layer_model_projection");
  require_vector(w.per_layer_projection_norm, c.hidden_size_per_layer_input,
                 "per_layer_projection_norm");
  require_vector(w.norm, c.hidden_size, "norm");
  require(w.altup_projections.size() + 1 == c.altup_num_inputs &&
              w.altup_unembed_projections.size() + 1 == c.altup_num_inputs,
          "altup_projections: expected one for each further altup_input");
  for (std::size_t i = 0; i + 1 < c.altup_num_inputs; ++i) {
    require_matrix(w.altup_projections[i], c.hidden_size, c.hidden_size, "altup_projections");
    require_matrix(w.altup_unembed_projections[i], c.hidden_size, c.hidden_size,
                   "altup_unembed_projections");
  }
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::size_t source = layers[i].kv_source_layer;
    require(source <= i && layers[source].kv_source_layer == source &&
                layers[source].is_sliding == layers[i].is_sliding,
            "kv_source_layer: expected an earlier layer of the same type that owns keys");
    check_layer(c, layers[i], w.layers[i], source == i);
  }
}

// Pads vectors with zeros, and multiplies the router by its norm's weight and 1 / hidden_size.
void pad_weights(const Gemma3nConfig& c, Gemma3nWeights& weights) {
  const std::size_t hidden = padded(c.hidden_size);
  const auto pad = [](Vector& vector, std::size_t size) { vector.resize(size, 0.0f); };
  pad(weights.norm, hidden);
  pad(weights.per_layer_projection_norm, padded(c.hidden_size_per_layer_input));
  for (LayerWeights& w : weights.layers) {
    Vector router(c.altup_num_inputs * hidden, 0.0f);
    for (std::size_t i = 0; i < c.altup_num_inputs; ++i) {
      for (std::size_t k = 0; k < c.hidden_size; ++k) {
        router[i * hidden + k] =
            w.router[i * c.hidden_size + k] * w.router_norm[k] / static_cast<float>(c.hidden_size);
      }
    }
    w.router = std::move(router);
    for (Vector* vector :
         {&w.input_layernorm, &w.post_attention_layernorm, &w.pre_feedforward_layernorm,
          &w.post_feedforward_layernorm, &w.post_laurel_norm, &w.post_per_layer_input_norm,
          &w.correct_output_scale}) {
      pad(*vector, hidden);
    }
    pad(w.q_norm, padded(c.head_dim));
    pad(w.k_norm, padded(c.head_dim));
  }
}

constexpr std::size_t kMaxCacheBytes = std::size_t{1} << 48;  // what an address can name

std::size_t key_group_elements(const Gemma3nConfig& config) {
  return 2 * kTile * config.num_key_value_heads * padded(config.head_dim);
}

}  // namespace

KvCache::KvCache(const Gemma3nConfig& config, std::span<const LayerConfig> layers,
                 const CacheConfig& cache)
    : config_(cache) {
  require(cache.block_size > 0 && cache.block_size % kTile == 0,
          "block_size: expected a multiple of 16, got " + std::to_string(cache.block_size));
  group_elements_ = key_group_elements(config);
  std::array<std::size_t, 2> num_layers{};
  layer_offset_.resize(layers.size());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].kv_source_layer != i) continue;
    std::size_t& count = num_layers[layers[i].is_sliding ? 1 : 0];
    layer_offset_[i] = count++ * layer_elements();
  }
  pools_[0].num_blocks = cache.num_full_blocks;
  pools_[1].num_blocks = cache.num_sliding_blocks;
  for (std::size_t i = 0; i < 2; ++i) {
    Pool& pool = pools_[i];
    pool.block_elements = num_layers[i] * layer_elements();
    require(pool.num_blocks <= kMaxCacheBytes / (pool.block_elements * element_bytes() + 1),
            std::string(i == 0 ? "num_full_blocks" : "num_sliding_blocks") +
                ": expected fewer, got " + std::to_string(pool.num_blocks));
    pool.data =
        Buffer(std::max<std::size_t>(pool.num_blocks * pool.block_elements, 1) * element_bytes());
  }
}

bool KvCache::fits(const Gemma3nConfig& config, std::span<const LayerConfig> layers) const {
  if (layers.size() != layer_offset_.size() || group_elements_ != key_group_elements(config)) {
    return false;
  }
  std::array<std::size_t, 2> end{};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].kv_source_layer != i) continue;
    std::size_t& next = end[layers[i].is_sliding ? 1 : 0];
    if (layer_offset_[i] != next) return false;
    next += layer_elements();
  }
  return end[0] == pools_[0].block_elements && end[1] == pools_[1].block_elements;
}

Gemma3n::Gemma3n(const Gemma3nConfig& config, std::vector<LayerConfig> layers,
                 Gemma3nWeights weights, std::size_t max_num_batched_tokens,
                 std::size_t max_model_len, Switches switches, std::shared_ptr<ThreadPool> pool,
                 Variant variant)
    : config_(config),
      layers_(std::move(layers)),
      weights_(std::move(weights)),
      max_num_batched_tokens_(max_num_batched_tokens),
      max_model_len_(max_model_len),
      switches_(switches),
      pool_(std::move(pool)),
      variant_(variant) {
  require(max_num_batched_tokens > 0, "max_num_batched_tokens: expected at least 1, got 0");
  require(max_model_len > 0, "max_model_len: expected at least 1, got 0");
  check_weights(config_, layers_, weights_);
  pad_weights(config_, weights_);
  workspace_ = std::make_unique<Workspace>(
      config_, layers_, weights_, max_num_batched_tokens_, max_model_len_,
      static_cast<std::size_t>(pool_->num_threads()), step_kernels(variant_));
}

Gemma3n::~Gemma3n() = default;

double Gemma3n::weight_bytes_per_token() const {
  double bytes = 0;
  const auto add = [&bytes](const auto& matrix) {
    if (matrix != nullptr) bytes += static_cast<double>(matrix->num_bytes());
  };
  add(weights_.head);
  add(weights_.per_layer_model_projection);
  for (const auto& matrix : weights_.altup_projections) add(matrix);
  for (const auto& matrix : weights_.altup_unembed_projections) add(matrix);
  const double active = times_.num_sparse_neurons > 0
                            ? static_cast<double>(times_.num_active_neurons) /
                                  static_cast<double>(times_.num_sparse_neurons)
                            : 0.05;
  double num_near = 0;  // neurons whose gates could have been computed again
  for (const LayerWeights& w : weights_.layers) {
    if (w.gate_rows == nullptr) continue;
    num_near +=
        static_cast<double>(times_.num_tokens) * static_cast<double>(w.gate_rows->num_rows());
  }
  const double near = times_.num_refined_neurons > 0
                          ? static_cast<double>(times_.num_refined_neurons) / num_near
                          : active;
  for (const LayerWeights& w : weights_.layers) {
    for (const auto* matrix :
         {&w.q_proj, &w.k_proj, &w.v_proj, &w.o_proj, &w.laurel_left, &w.laurel_right, &w.gate_proj,
          &w.up_proj, &w.down_proj, &w.per_layer_input_gate, &w.per_layer_projection}) {
      add(*matrix);
    }
    if (w.up_rows != nullptr) {
      bytes += active * static_cast<double>(w.up_rows->num_bytes() + w.down_columns->num_bytes());
      if (w.gate_rows != nullptr && switches_.int16_activations) {
        bytes += near * static_cast<double>(w.gate_rows->num_bytes());
      }
    }
  }
  return bytes;
}

}  // namespace nestling
