// The text decoder of Gemma 3n. One call computes one step of the engine.
//
// docs/model.md has the formulas. A step changes nothing but the cache slots that its batch names.
// The logits of a token have the same bits whatever else the step holds, however the sequence was
// cut into steps, and for any number of threads.
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
  float rope_scaling_factor = 1;  // by which full layers divide their angles
  float rope_local_scaling_factor = 1;
  float rms_norm_eps = 0;
  float final_logit_softcapping = 0;  // 0 means none
};

struct LayerConfig {
  std::size_t intermediate_size = 0;
  bool is_sliding = false;
  std::size_t kv_source_layer = 0;      // itself if it owns keys and values
  std::optional<float> std_multiplier;  // of the sparse activation; none if dense
};

// All later layers amplify an early rounding error. So inputs of attention are kInt16 in the layers
// before kFirstInt8Layer, then kInt8, and kInt8Pow2 from kFirstInt8Pow2Layer on, as all others are
// (ActivationQuant in step_kernels.h). Before kFirstInt8Pow2Layer, kInt16 dots decide which neurons
// are active: those near the cutoff, if gates are packed a second time. LAuReL's inner activations
// and the embedding are always kInt16: they are few, and much depends on them.
inline constexpr std::size_t kFirstInt8Layer = 6;
inline constexpr std::size_t kFirstInt8Pow2Layer = 12;

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
  StoredMatrix embed_tokens;            // rows are gathered from the mapped file
  StoredMatrix embed_tokens_per_layer;  // as embed_tokens
  Shared<Matrix> head;                  // embed_tokens, packed
  Shared<Matrix> per_layer_model_projection;
  Vector per_layer_projection_norm;
  std::vector<Shared<Matrix>> altup_projections, altup_unembed_projections;
  Vector norm;
  std::vector<LayerWeights> layers;
};

// Each can be switched off, to measure it. Whether the feed-forward is sparse is decided when
// weights are packed (LayerWeights).
struct Switches {
  bool prefill_skip = true;  // tokens without logits stop at the last keys and values
  bool fused_passes = true;  // AltUp, norms and per-layer inputs of a token in one loop
  // Logits only of tokens whose logits are wanted, and of ids that text has. Other tokens end at
  // the last layer, if not at the last keys and values.
  bool wanted_logits_only = true;
  // kInt16 activations in the first layers, which cost time for exactness.
  bool int16_activations = true;
};

struct CacheConfig {
  std::size_t block_size = 16;  // positions; a multiple of 16
  std::size_t num_full_blocks = 0;
  std::size_t num_sliding_blocks = 0;
  bool is_float16 = true;
};

// Keys and values of all layers that own some, in two pools of blocks, for full and
// for sliding layers. A block holds its positions for all layers of its pool.
class KvCache {
 public:
  KvCache(const Gemma3nConfig& config, std::span<const LayerConfig> layers,
          const CacheConfig& cache);

  const CacheConfig& config() const { return config_; }
  std::size_t full_block_bytes() const { return pools_[0].block_elements * element_bytes(); }
  std::size_t sliding_block_bytes() const { return pools_[1].block_elements * element_bytes(); }
  // Returns whether such a model would lay it out in the same way.
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

// The tokens of all sequences, one sequence after another. Gemma3n::step checks everything and
// throws std::invalid_argument that names the field.
struct StepBatch {
  std::span<const std::int32_t> input_ids;         // [num_tokens]
  std::span<const std::int32_t> positions;         // [num_tokens], ascending by one in a sequence
  std::span<const std::int32_t> query_start_loc;   // [num_seqs + 1]
  std::span<const std::int32_t> full_block_table;  // [num_seqs, max_blocks]
  std::span<const std::int32_t> sliding_block_table;  // [num_seqs, max_blocks]
  std::size_t blocks_per_sequence = 0;                // max_blocks
  std::span<const std::int32_t> logit_rows;           // ascending
  std::size_t num_logits = 0;                         // ids below this get logits
};

// Seconds by part, tokens and bytes since the model was made.
struct StepTimes {
  double embed = 0, altup = 0, projections = 0, attention = 0, feed_forward = 0;
  double per_layer_inputs = 0, head = 0, total = 0;
  std::uint64_t num_steps = 0, num_tokens = 0, num_logit_rows = 0;
  std::uint64_t num_active_neurons = 0, num_sparse_neurons = 0;  // of the sparse layers
  std::uint64_t num_refined_neurons = 0;                         // gates computed again as kInt16
  std::uint64_t weight_bytes = 0;                                // read, each matrix once a step
};

class Gemma3n {
 public:
  // A step has at most max_num_batched_tokens, at positions below max_model_len. Throws
  // std::invalid_argument if shapes do not fit each other, std::bad_alloc.
  Gemma3n(const Gemma3nConfig& config, std::vector<LayerConfig> layers, Gemma3nWeights weights,
          std::size_t max_num_batched_tokens, std::size_t max_model_len, Switches switches,
          std::shared_ptr<ThreadPool> pool, Variant variant = best_variant());
  Gemma3n(const Gemma3n&) = delete;
  Gemma3n& operator=(const Gemma3n&) = delete;
  ~Gemma3n();

  const Gemma3nConfig& config() const { return config_; }
  const Gemma3nWeights& weights() const { return weights_; }
  const std::vector<LayerConfig>& layers() const { return layers_; }
  const StepTimes& times() const { return times_; }
  std::size_t max_num_batched_tokens() const { return max_num_batched_tokens_; }
  // Returns the bytes of weights that one decoded token reads, without the embedding tables. Sparse
  // layers count by the share of active neurons so far.
  double weight_bytes_per_token() const;

  // Fills logits [logit_rows.size(), batch.num_logits]. For tests, `on_layer` gets the AltUp inputs
  // [num_tokens, altup_num_inputs, hidden_size] after every layer, with the floats from one token
  // and from one input to the next. One thread at a time.
  using OnLayer =
      std::function<void(std::size_t layer, const float* altup_inputs, std::size_t num_tokens,
                         std::size_t token_stride, std::size_t input_stride)>;
  void step(const StepBatch& batch, KvCache& cache, float* logits, const OnLayer& on_layer = {});

 private:
  struct Workspace;
  class Step;

  Gemma3nConfig config_;
  std::vector<LayerConfig> layers_;
  Gemma3nWeights weights_;
  std::size_t max_num_batched_tokens_;
  std::size_t max_model_len_;
  Switches switches_;
  std::shared_ptr<ThreadPool> pool_;
  Variant variant_;
  std::unique_ptr<Workspace> workspace_;
  StepTimes times_;
};

}  // namespace nestling
