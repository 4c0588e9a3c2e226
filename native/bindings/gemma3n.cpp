// The decoder and its cache for Python: a configuration and weights by checkpoint name go in.

#include "nestling/gemma3n.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <string>

#include "arrays.h"
#include "modules.h"

namespace nestling::bindings {

using nb::literals::operator""_a;

namespace {

template <class T>
T field(const nb::dict& from, const char* name) {
  if (!from.contains(name)) throw nb::key_error(name);
  return nb::cast<T>(from[name]);
}

Gemma3nConfig config_of(const nb::dict& from) {
  Gemma3nConfig c;
  c.vocab_size = field<std::size_t>(from, "vocab_size");
  c.vocab_size_per_layer_input = field<std::size_t>(from, "vocab_size_per_layer_input");
  c.hidden_size = field<std::size_t>(from, "hidden_size");
  c.hidden_size_per_layer_input = field<std::size_t>(from, "hidden_size_per_layer_input");
  c.num_attention_heads = field<std::size_t>(from, "num_attention_heads");
  c.num_key_value_heads = field<std::size_t>(from, "num_key_value_heads");
  c.head_dim = field<std::size_t>(from, "head_dim");
  c.sliding_window = field<std::size_t>(from, "sliding_window");
  c.laurel_rank = field<std::size_t>(from, "laurel_rank");
  c.altup_num_inputs = field<std::size_t>(from, "altup_num_inputs");
  c.altup_active_idx = field<std::size_t>(from, "altup_active_idx");
  c.rope_theta = field<float>(from, "rope_theta");
  c.rope_local_base_freq = field<float>(from, "rope_local_base_freq");
  c.rope_scaling_factor = field<float>(from, "rope_scaling_factor");
  c.rope_local_scaling_factor = field<float>(from, "rope_local_scaling_factor");
  c.rms_norm_eps = field<float>(from, "rms_norm_eps");
  c.final_logit_softcapping = field<float>(from, "final_logit_softcapping");
  return c;
}

std::vector<LayerConfig> layers_of(const nb::list& from) {
  std::vector<LayerConfig> layers;
  for (const nb::handle item : from) {
    const auto values = nb::cast<nb::dict>(item);
    LayerConfig layer;
    layer.intermediate_size = field<std::size_t>(values, "intermediate_size");
    layer.is_sliding = field<bool>(values, "is_sliding");
    layer.kv_source_layer = field<std::size_t>(values, "kv_source_layer");
    const nb::object multiplier = values["std_multiplier"];
    if (!multiplier.is_none()) layer.std_multiplier = nb::cast<float>(multiplier);
    layers.push_back(layer);
  }
  return layers;
}

// The weights of the dictionary, by name; what is missing stays null or empty, and the model says
// so.
class WeightReader {
 public:
  explicit WeightReader(const nb::dict& from) : from_(from) {}

  template <class AnyMatrix>
  Shared<AnyMatrix> matrix(const std::string& name) const {
    const nb::object value = get(name);
    if (value.is_none() || !nb::isinstance<AnyMatrix>(value)) return nullptr;
    return nb::cast<std::shared_ptr<AnyMatrix>>(value);
  }

  Vector vector(const std::string& name) const {
    const nb::object value = get(name);
    if (value.is_none()) return {};
    const auto array = nb::cast<AnyArray>(value);
    const float* data = checked<float, 1>(array, "weight: expected float32 [size]");
    return Vector(data, data + array.shape(0));
  }

  // A table stays in its file: (type name, uint8 [bytes], rows, row size).
  StoredMatrix table(const std::string& name) const {
    const nb::object found = get(name);
    if (!nb::isinstance<nb::tuple>(found) || nb::len(found) != 4) {
      throw nb::value_error((name + ": expected (dtype, bytes, rows, row_size)").c_str());
    }
    const auto value = nb::cast<nb::tuple>(found);
    const auto bytes = nb::cast<AnyArray>(value[1]);
    StoredMatrix stored;
    stored.type = stored_type_of(nb::cast<std::string>(value[0]));
    stored.data = reinterpret_cast<const std::byte*>(
        checked<std::uint8_t, 1>(bytes, "table: expected uint8 [num_bytes]"));
    stored.num_rows = nb::cast<std::size_t>(value[2]);
    stored.row_size = nb::cast<std::size_t>(value[3]);
    if (stored.row_size % block_elements(stored.type) != 0) {
      throw nb::value_error("table: expected rows of whole blocks");
    }
    require_extent("table: number of bytes", bytes.shape(0), stored.num_rows * stored.row_bytes());
    return stored;
  }

 private:
  nb::object get(const std::string& name) const {
    const nb::str key(name.c_str());
    return from_.contains(key) ? nb::object(from_[key]) : nb::none();
  }

  const nb::dict& from_;
};

LayerWeights layer_of(const WeightReader& read, const std::string& at) {
  LayerWeights w;
  w.q_proj = read.matrix<Matrix>(at + "self_attn.q_proj.weight");
  w.k_proj = read.matrix<Matrix>(at + "self_attn.k_proj.weight");
  w.v_proj = read.matrix<Matrix>(at + "self_attn.v_proj.weight");
  w.o_proj = read.matrix<Matrix>(at + "self_attn.o_proj.weight");
  w.laurel_left = read.matrix<Matrix>(at + "laurel.linear_left.weight");
  w.laurel_right = read.matrix<Matrix>(at + "laurel.linear_right.weight");
  w.gate_proj = read.matrix<Matrix>(at + "mlp.gate_proj.weight");
  w.up_proj = read.matrix<Matrix>(at + "mlp.up_proj.weight");
  w.down_proj = read.matrix<Matrix>(at + "mlp.down_proj.weight");
  w.up_rows = read.matrix<RowMatrix>(at + "mlp.up_proj.weight");
  w.down_columns = read.matrix<ColumnMatrix>(at + "mlp.down_proj.weight");
  w.gate_rows = read.matrix<RowMatrix>(at + "mlp.gate_rows.weight");
  w.per_layer_input_gate = read.matrix<Matrix>(at + "per_layer_input_gate.weight");
  w.per_layer_projection = read.matrix<Matrix>(at + "per_layer_projection.weight");
  w.input_layernorm = read.vector(at + "input_layernorm.weight");
  w.post_attention_layernorm = read.vector(at + "post_attention_layernorm.weight");
  w.pre_feedforward_layernorm = read.vector(at + "pre_feedforward_layernorm.weight");
  w.post_feedforward_layernorm = read.vector(at + "post_feedforward_layernorm.weight");
  w.post_laurel_norm = read.vector(at + "laurel.post_laurel_norm.weight");
  w.post_per_layer_input_norm = read.vector(at + "post_per_layer_input_norm.weight");
  w.q_norm = read.vector(at + "self_attn.q_norm.weight");
  w.k_norm = read.vector(at + "self_attn.k_norm.weight");
  w.router = read.vector(at + "altup.modality_router.weight");
  w.router_norm = read.vector(at + "altup.router_norm.weight");
  w.prediction_coefs = read.vector(at + "altup.prediction_coefs.weight");
  w.correction_coefs = read.vector(at + "altup.correction_coefs.weight");
  w.correct_output_scale = read.vector(at + "altup.correct_output_scale");
  return w;
}

Gemma3nWeights weights_of(const nb::dict& from, const Gemma3nConfig& config,
                          std::size_t num_layers) {
  const WeightReader read(from);
  Gemma3nWeights w;
  w.embed_tokens = read.table("embed_tokens.weight");
  w.embed_tokens_per_layer = read.table("embed_tokens_per_layer.weight");
  w.head = read.matrix<Matrix>("lm_head.weight");
  w.per_layer_model_projection = read.matrix<Matrix>("per_layer_model_projection.weight");
  w.per_layer_projection_norm = read.vector("per_layer_projection_norm.weight");
  w.norm = read.vector("norm.weight");
  for (std::size_t i = 0; i + 1 < config.altup_num_inputs; ++i) {
    const std::string end = std::to_string(i) + ".weight";
    w.altup_projections.push_back(read.matrix<Matrix>("altup_projections." + end));
    w.altup_unembed_projections.push_back(read.matrix<Matrix>("altup_unembed_projections." + end));
  }
  for (std::size_t i = 0; i < num_layers; ++i) {
    w.layers.push_back(layer_of(read, "layers." + std::to_string(i) + "."));
  }
  return w;
}

// The model, and the arrays whose memory it reads.
struct Model {
  nb::dict weights;
  std::unique_ptr<Gemma3n> model;
};

void make_model(Model* self, const nb::dict& config, const nb::list& layers,
                const nb::dict& weights, std::size_t max_num_batched_tokens,
                std::size_t max_model_len, bool prefill_skip, bool fused_passes,
                bool wanted_logits_only, bool int16_activations, std::shared_ptr<ThreadPool> pool,
                const std::string& variant) {
  const Gemma3nConfig c = config_of(config);
  std::vector<LayerConfig> layer_configs = layers_of(layers);
  Gemma3nWeights w = weights_of(weights, c, layer_configs.size());
  const Switches switches{.prefill_skip = prefill_skip,
                          .fused_passes = fused_passes,
                          .wanted_logits_only = wanted_logits_only,
                          .int16_activations = int16_activations};
  auto model =
      std::make_unique<Gemma3n>(c, std::move(layer_configs), std::move(w), max_num_batched_tokens,
                                max_model_len, switches, std::move(pool), variant_of(variant));
  new (self) Model{weights, std::move(model)};
}

template <std::size_t kDims>
std::span<const std::int32_t> ids(const AnyArray& array, const char* what) {
  return {checked<std::int32_t, kDims>(array, what), array.size()};
}

// The caller's memory, so that a step takes none.
using Logits = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void step(Model& self, KvCache& cache, const AnyArray& input_ids, const AnyArray& positions,
          const AnyArray& query_start_loc, const AnyArray& full_block_table,
          const AnyArray& sliding_block_table, const AnyArray& logit_rows, const Logits& logits,
          const nb::object& on_layer) {
  StepBatch batch;
  batch.input_ids = ids<1>(input_ids, "input_ids: expected int32 [num_tokens]");
  batch.positions = ids<1>(positions, "positions: expected int32 [num_tokens]");
  batch.query_start_loc = ids<1>(query_start_loc, "query_start_loc: expected int32 [num_seqs + 1]");
  batch.full_block_table =
      ids<2>(full_block_table, "full_block_table: expected int32 [num_seqs, max_blocks]");
  batch.sliding_block_table =
      ids<2>(sliding_block_table, "sliding_block_table: expected int32 [num_seqs, max_blocks]");
  batch.blocks_per_sequence = full_block_table.shape(1);
  require_extent("sliding_block_table: max_blocks", sliding_block_table.shape(1),
                 batch.blocks_per_sequence);
  for (const AnyArray* table : {&full_block_table, &sliding_block_table}) {
    require_extent("block table: num_seqs", table->shape(0) + 1, batch.query_start_loc.size());
  }
  batch.logit_rows = ids<1>(logit_rows, "logit_rows: expected int32 [num_logit_rows]");
  require_extent("logits: rows", logits.shape(0), batch.logit_rows.size());
  batch.num_logits = logits.shape(1);
  Gemma3n::OnLayer trace;
  if (!on_layer.is_none()) {
    trace = [&](std::size_t layer, const float* altup_inputs, std::size_t num_tokens,
                std::size_t token_stride, std::size_t input_stride) {
      const nb::gil_scoped_acquire acquire;
      const Gemma3nConfig& c = self.model->config();
      NewArray<float, 3> copy({num_tokens, c.altup_num_inputs, c.hidden_size});
      float* to = copy.data();
      for (std::size_t token = 0; token < num_tokens; ++token) {
        for (std::size_t i = 0; i < c.altup_num_inputs; ++i, to += c.hidden_size) {
          std::copy_n(altup_inputs + token * token_stride + i * input_stride, c.hidden_size, to);
        }
      }
      on_layer(layer, std::move(copy).release());
    };
  }
  const nb::gil_scoped_release release;
  self.model->step(batch, cache, logits.data(), trace);
}

nb::dict times(const Model& self) {
  const StepTimes& t = self.model->times();
  nb::dict out;
  out["embed_s"] = t.embed;
  out["altup_s"] = t.altup;
  out["projections_s"] = t.projections;
  out["attention_s"] = t.attention;
  out["feed_forward_s"] = t.feed_forward;
  out["per_layer_inputs_s"] = t.per_layer_inputs;
  out["head_s"] = t.head;
  out["total_s"] = t.total;
  out["num_steps"] = t.num_steps;
  out["num_tokens"] = t.num_tokens;
  out["num_logit_rows"] = t.num_logit_rows;
  out["num_active_neurons"] = t.num_active_neurons;
  out["num_sparse_neurons"] = t.num_sparse_neurons;
  out["num_refined_neurons"] = t.num_refined_neurons;
  out["weight_bytes"] = t.weight_bytes;
  return out;
}

void make_cache(KvCache* self, const Model& model, std::size_t block_size,
                std::size_t num_full_blocks, std::size_t num_sliding_blocks, bool is_float16) {
  new (self) KvCache(model.model->config(), model.model->layers(),
                     {block_size, num_full_blocks, num_sliding_blocks, is_float16});
}

}  // namespace

void bind_gemma3n(nb::module_& module) {
  module.attr("FIRST_INT8_POW2_LAYER") = kFirstInt8Pow2Layer;
  nb::class_<Model>(module, "Gemma3n")
      .def("__init__", &make_model, "config"_a, "layers"_a, "weights"_a, nb::kw_only(),
           "max_num_batched_tokens"_a, "max_model_len"_a, "prefill_skip"_a, "fused_passes"_a,
           "wanted_logits_only"_a, "int16_activations"_a, "pool"_a, "variant"_a,
           nb::sig("def __init__(self, config: dict[str, float], "
                   "layers: list[typing.Any], weights: dict[str, typing.Any], *, "
                   "max_num_batched_tokens: int, max_model_len: int, prefill_skip: bool, "
                   "fused_passes: bool, wanted_logits_only: bool, int16_activations: bool, "
                   "pool: ThreadPool, variant: str) -> None"))
      .def("step", &step, "cache"_a, "input_ids"_a, "positions"_a, "query_start_loc"_a,
           "full_block_table"_a, "sliding_block_table"_a, "logit_rows"_a, "logits"_a.noconvert(),
           "on_layer"_a.none() = nb::none(),
           nb::sig("def step(self, cache: KvCache, input_ids: numpy.typing.NDArray[numpy.int32], "
                   "positions: numpy.typing.NDArray[numpy.int32], "
                   "query_start_loc: numpy.typing.NDArray[numpy.int32], "
                   "full_block_table: numpy.typing.NDArray[numpy.int32], "
                   "sliding_block_table: numpy.typing.NDArray[numpy.int32], "
                   "logit_rows: numpy.typing.NDArray[numpy.int32], "
                   "logits: numpy.typing.NDArray[numpy.float32], "
                   "on_layer: collections.abc.Callable[[int, "
                   "numpy.typing.NDArray[numpy.float32]], None] | None = None) -> None"))
      .def("times", &times, nb::sig("def times(self) -> dict[str, float]"))
      .def("weight_bytes_per_token",
           [](const Model& self) { return self.model->weight_bytes_per_token(); });
  nb::class_<KvCache>(module, "KvCache")
      .def("__init__", &make_cache, "model"_a, nb::kw_only(), "block_size"_a, "num_full_blocks"_a,
           "num_sliding_blocks"_a, "is_float16"_a)
      .def_prop_ro("full_block_bytes", &KvCache::full_block_bytes)
      .def_prop_ro("sliding_block_bytes", &KvCache::sliding_block_bytes);
}

}  // namespace nestling::bindings
