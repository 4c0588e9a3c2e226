// The text decoder of Gemma 3n: one call computes one step of the engine.
//
// Formulas: docs/model.md. A step changes nothing but the cache slots that its batch names. A row's
// logits have the same bits whatever else the step holds, however the sequence was cut into steps,
// and for any number of threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "nestling/buffer.h"
#include "nestling/matrix.h"
#include "nestling/stored.h"
#include "nestling/thread_pool.h"
#include "nestling/variant.h"

namespace nestling {

using Vector = std::vector<float>;
template <class T>
using Shared = std::shared_ptr<const T>;

struct Gemma3nConfig {
  std::size_t vocab_size = 0;
  std::size_t vocab_size_per_layer_input = 0;  // ids from here on use row 0 of its table
  std::size_t hidden_size = 0;
  std::size_t hidden_size_per_layer_input = 0;
  std::size_t num_attention_heads = 0;
  std::size_t num_key_value_heads = 0;
  std::size_t head_dim = 0;
  std::size_t sliding_window = 0;
  std::size_t laurel_rank = 0;
  std::size_t altup_num_inputs = 0;
  std::size_t altup_active_idx = 0;
  float rope_theta = 0;
  float rope_local_base_freq = 0;
  float rms_norm_eps = 0;
  float final_logit_softcapping = 0;  // 0: none
};

struct LayerConfig {
  std::size_t intermediate_size = 0;
  bool is_sliding = false;
  std::size_t kv_source_layer = 0;      // itself if it owns keys and values
  std::optional<float> std_multiplier;  // of the sparse activation; none: dense
};

// What is rounded wrong early is amplified by all layers that follow. So inputs of attention are
// wide in the first layers, then fine, and from kFineLayers on coarse as all others are (Rounding
// in step_kernels.h). Before that, gates decide on living neurons by wide dots, near the cutoff if
// they are packed a second time. LAuReL's inner activations and the embedding are wide always: few,
// and much depends on them.
inline constexpr std::size_t kWideLayers = 6;
inline constexpr std::size_t kFineLayers = 12;

struct LayerWeights {
  Shared<Matrix> q_proj, k_proj, v_proj, o_proj;  // k and v are null in layers that share
  Shared<Matrix> laurel_left, laurel_right;
  Shared<Matrix> gate_proj;
  Shared<Matrix> up_proj, down_proj;  // dense, or
  Shared<RowMatrix> up_rows;          // sparse
  Shared<RowMatrix> gate_rows;        // or null; gate_proj again, for the neurons near the cutoff
  Shared<ColumnMatrix> down_columns;
  Shared<Matrix> per_layer_input_gate, per_layer_projection;
  Vector input_layernorm, post_attention_layernorm, pre_feedforward_layernorm;
  Vector post_feedforward_layernorm, post_laurel_norm, post_per_layer_input_norm;
  Vector q_norm, k_norm;
  Vector router;                // [altup_num_inputs, hidden_size]
  Vector router_norm;           // [hidden_size]
  Vector prediction_coefs;      // [altup_num_inputs^2, altup_num_inputs]
  Vector correction_coefs;      // [altup_num_inputs, altup_num_inputs]
  Vector correct_output_scale;  // [hidden_size], ones if the model has none
};

struct Gemma3nWeights {
  StoredMatrix embed_tokens;            // gathered by rows from the mapped file
  StoredMatrix embed_tokens_per_layer;  // likewise
  Shared<Matrix> head;                  // embed_tokens, packed
  Shared<Matrix> per_layer_model_projection;
  Vector per_layer_projection_norm;
  std::vector<Shared<Matrix>> altup_projections, altup_unembed_projections;
  Vector norm;
  std::vector<LayerWeights> layers;
};

// Each can be switched off to be measured. Sparse feed-forward is chosen when the weights are
// packed (LayerWeights).
struct Switches {
  bool prefill_skip = true;  // rows without logits stop at the last keys and values
  bool fused_passes = true;  // AltUp, norms and per-layer inputs of a row in one loop
  // Of rows whose logits are wanted, and of ids that text has. Rows without end at the last layer,
  // if not at the last keys and values.
  bool wanted_logits_only = true;
  // 16-bit activations in the first layers: not a saving but the price of exactness.
  bool wide_activations = true;
};

struct CacheConfig {
  std::size_t block_size = 16;  // positions; a multiple of 16
  std::size_t num_full_blocks = 0;
  std::size_t num_sliding_blocks = 0;
  bool is_float16 = true;
};

// Keys and values of all layers that own some, in two pools of blocks: of full and of sliding
// layers. A block holds its positions for all layers of its pool.
class KvCache {
 public:
  KvCache(const Gemma3nConfig& config, std::span<const LayerConfig> layers,
          const CacheConfig& cache);

  const CacheConfig& config() const { return config_; }
  std::size_t full_block_bytes() const { return pools_[0].block_elements * element_bytes(); }
  std::size_t sliding_block_bytes() const { return pools_[1].block_elements * element_bytes(); }
  // Whether such a model would lay it out in the same way.
  bool fits(const Gemma3nConfig& config, std::span<const LayerConfig> layers) const;

 private:
  friend class Gemma3n;

  struct Pool {
    std::size_t num_blocks = 0;
    std::size_t block_elements = 0;
    Buffer data;
  };

  std::size_t element_bytes() const { return config_.is_float16 ? 2 : 4; }
  std::size_t layer_elements() const { return config_.block_size / kTile * group_elements_; }

  CacheConfig config_;
  std::size_t group_elements_ = 0;         // keys and values of 16 positions in one layer
  std::vector<std::size_t> layer_offset_;  // [layer], elements into a block of its pool
  std::array<Pool, 2> pools_;              // full, sliding
};

// Rows of all sequences, concatenated. Everything is checked: Gemma3n::step throws
// std::invalid_argument that names the field.
struct StepBatch {
  std::span<const std::int32_t> input_ids;            // [num_rows]
  std::span<const std::int32_t> positions;            // [num_rows], ascending by one in a sequence
  std::span<const std::int32_t> query_start_loc;      // [num_seqs + 1]
  std::span<const std::int32_t> full_block_table;     // [num_seqs, max_blocks]
  std::span<const std::int32_t> sliding_block_table;  // [num_seqs, max_blocks]
  std::size_t blocks_per_sequence = 0;                // max_blocks
  std::span<const std::int32_t> logit_rows;           // ascending
  std::size_t num_logits = 0;                         // ids below this get logits
};

// Seconds since the model was made, by part; and rows and bytes.
struct StepTimes {
  double embed = 0, altup = 0, projections = 0, attention = 0, feed_forward = 0;
  double per_layer_inputs = 0, head = 0, total = 0;
  std::uint64_t num_steps = 0, num_rows = 0, num_logit_rows = 0;
  std::uint64_t num_live_neurons = 0, num_sparse_neurons = 0;  // of the sparse layers
  std::uint64_t num_refined_neurons = 0;                       // gates computed again, wide
  std::uint64_t weight_bytes = 0;                              // read, each matrix once a step
};

class Gemma3n {
 public:
  // Rows of a step are at most max_rows, positions below max_model_len. Throws
  // std::invalid_argument if shapes do not fit each other, std::bad_alloc.
  Gemma3n(const Gemma3nConfig& config, std::vector<LayerConfig> layers, Gemma3nWeights weights,
          std::size_t max_rows, std::size_t max_model_len, Switches switches,
          std::shared_ptr<ThreadPool> pool, Variant variant = best_variant());
  ~Gemma3n();

  const Gemma3nConfig& config() const { return config_; }
  const Gemma3nWeights& weights() const { return weights_; }
  const std::vector<LayerConfig>& layers() const { return layers_; }
  const StepTimes& times() const { return times_; }
  std::size_t max_rows() const { return max_rows_; }
  // Bytes of weights that one decoded token reads, embedding tables left out; sparse layers counted
  // by the neurons that lived so far.
  double weight_bytes_per_token() const;

  // logits [logit_rows.size(), batch.num_logits]. `on_layer`, if set, gets the streams
  // [num_rows, altup_num_inputs, hidden_size] after every layer (tests), rows and streams so many
  // floats apart. One thread at a time.
  using OnLayer = std::function<void(std::size_t layer, const float* streams, std::size_t num_rows,
                                     std::size_t row_stride, std::size_t stream_stride)>;
  void step(const StepBatch& batch, KvCache& cache, float* logits, const OnLayer& on_layer = {});

 private:
  struct Workspace;
  class Step;

  Gemma3nConfig config_;
  std::vector<LayerConfig> layers_;
  Gemma3nWeights weights_;
  std::size_t max_rows_;
  std::size_t max_model_len_;
  Switches switches_;
  std::shared_ptr<ThreadPool> pool_;
  Variant variant_;
  std::unique_ptr<Workspace> workspace_;
  StepTimes times_;
};

}  // namespace nestling
