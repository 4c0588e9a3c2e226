// A small random model of odd sizes, stepped with three threads under the sanitizers: every format
// and variant, mixed batches, hostile batches. What the numbers should be is tested from Python.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "allocations.h"
#include "check.h"
#include "nestling/gemma3n.h"

namespace nestling {

namespace {

using testing::throws;

constexpr std::size_t kLayers =
    kFirstInt8Pow2Layer + 2;  // the last two have kInt8Pow2 activations only
constexpr std::size_t kVocab = 50;
constexpr std::size_t kMaxRows = 40;
constexpr std::size_t kMaxModelLen = 600;  // three blocks of attention

Gemma3nConfig config() {
  Gemma3nConfig c;
  c.vocab_size = kVocab;
  c.vocab_size_per_layer_input = 40;
  c.hidden_size = 70;
  c.hidden_size_per_layer_input = 9;
  c.num_attention_heads = 6;
  c.num_key_value_heads = 2;
  c.head_dim = 14;
  c.sliding_window = 20;
  c.laurel_rank = 3;
  c.altup_num_inputs = 3;
  c.altup_active_idx = 1;
  c.rope_theta = 1e6f;
  c.rope_local_base_freq = 1e4f;
  c.rms_norm_eps = 1e-6f;
  c.final_logit_softcapping = 30.0f;
  return c;
}

std::vector<LayerConfig> layer_configs() {
  std::vector<LayerConfig> layers = {
      {150, true, 0, 0.5f}, {101, false, 1, {}}, {129, true, 0, 1.6f}, {130, false, 1, {}}};
  while (layers.size() < kLayers) layers.push_back(layers[layers.size() % 4]);
  return layers;
}

// Random weights in one format, and the memory of the tables.
class Model {
 public:
  Model(Format format, ThreadPool& pool, bool is_sparse) : format_(format), pool_(pool) {
    const Gemma3nConfig c = config();
    embed_ = floats(kVocab * c.hidden_size, 1.0f);
    per_layer_ = floats(kVocab * kLayers * c.hidden_size_per_layer_input, 1.0f);
    weights.embed_tokens = stored(embed_, c.hidden_size);
    weights.embed_tokens_per_layer = stored(per_layer_, kLayers * c.hidden_size_per_layer_input);
    weights.head = packed<Matrix>(kVocab, c.hidden_size);
    weights.per_layer_model_projection =
        packed<Matrix>(kLayers * c.hidden_size_per_layer_input, c.hidden_size);
    weights.per_layer_projection_norm = vector(c.hidden_size_per_layer_input);
    for (std::size_t i = 0; i + 1 < c.altup_num_inputs; ++i) {
      weights.altup_projections.push_back(packed<Matrix>(c.hidden_size, c.hidden_size));
      weights.altup_unembed_projections.push_back(packed<Matrix>(c.hidden_size, c.hidden_size));
    }
    weights.norm = vector(c.hidden_size);
    for (std::size_t i = 0; i < kLayers; ++i) weights.layers.push_back(layer(i, is_sparse));
  }

  Gemma3nWeights weights;

 private:
  std::vector<float> floats(std::size_t count, float scale) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> values(count);
    for (float& value : values) value = normal(generator_);
    return values;
  }
  Vector vector(std::size_t size) {
    Vector values = floats(size, 0.1f);
    for (float& value : values) value += 1.0f;
    return values;
  }
  static StoredMatrix stored(const std::vector<float>& values, std::size_t row_size) {
    return {StoredType::kF32, reinterpret_cast<const std::byte*>(values.data()),
            values.size() / row_size, row_size};
  }
  template <class Packed>
  Shared<Packed> packed(std::size_t out, std::size_t in) {
    const auto values = floats(out * in, 1.0f / std::sqrt(static_cast<float>(in)));
    return std::make_shared<Packed>(Packed::pack(stored(values, in), format_, pool_));
  }
  LayerWeights layer(std::size_t index, bool is_sparse) {
    const Gemma3nConfig c = config();
    const LayerConfig l = layer_configs()[index];
    const std::size_t hidden = c.hidden_size;
    LayerWeights w;
    w.q_proj = packed<Matrix>(c.num_attention_heads * c.head_dim, hidden);
    if (l.kv_source_layer == index) {
      w.k_proj = packed<Matrix>(c.num_key_value_heads * c.head_dim, hidden);
      w.v_proj = packed<Matrix>(c.num_key_value_heads * c.head_dim, hidden);
      w.k_norm = vector(c.head_dim);
    }
    w.o_proj = packed<Matrix>(hidden, c.num_attention_heads * c.head_dim);
    w.laurel_left = packed<Matrix>(c.laurel_rank, hidden);
    w.laurel_right = packed<Matrix>(hidden, c.laurel_rank);
    w.gate_proj = packed<Matrix>(l.intermediate_size, hidden);
    if (is_sparse && l.std_multiplier) {
      w.up_rows = packed<RowMatrix>(l.intermediate_size, hidden);
      w.down_columns = packed<ColumnMatrix>(hidden, l.intermediate_size);
      const auto gate = floats(l.intermediate_size * hidden, 0.12f);
      w.gate_proj = std::make_shared<Matrix>(Matrix::pack(stored(gate, hidden), format_, pool_));
      if (is_quantized(format_)) {
        w.gate_rows =
            std::make_shared<RowMatrix>(RowMatrix::pack(stored(gate, hidden), format_, pool_));
      }
    } else {
      w.up_proj = packed<Matrix>(l.intermediate_size, hidden);
      w.down_proj = packed<Matrix>(hidden, l.intermediate_size);
    }
    w.per_layer_input_gate = packed<Matrix>(c.hidden_size_per_layer_input, hidden);
    w.per_layer_projection = packed<Matrix>(hidden, c.hidden_size_per_layer_input);
    for (Vector* norm :
         {&w.input_layernorm, &w.post_attention_layernorm, &w.pre_feedforward_layernorm,
          &w.post_feedforward_layernorm, &w.post_laurel_norm, &w.post_per_layer_input_norm,
          &w.router_norm, &w.correct_output_scale}) {
      *norm = vector(hidden);
    }
    w.q_norm = vector(c.head_dim);
    const std::size_t n = c.altup_num_inputs;
    w.router = floats(n * hidden, 6.0f);
    w.prediction_coefs = floats(n * n * n, 0.1f);
    w.correction_coefs = floats(n * n, 0.1f);
    return w;
  }

  Format format_;
  ThreadPool& pool_;
  std::mt19937 generator_{1};
  std::vector<float> embed_, per_layer_;
};

// Tokens of sequences. Each sequence has its own cache blocks: sequence s has those from s *
// kBlocks on.
constexpr std::size_t kBlocks = kMaxModelLen / 16 + 1;

struct Batch {
  std::vector<std::int32_t> input_ids, positions, query_start_loc{0}, table, logit_rows;

  void add(std::int32_t sequence, std::int32_t begin, std::int32_t end) {
    for (std::int32_t p = begin; p < end; ++p) {
      input_ids.push_back((sequence * 7 + p * 13) % static_cast<std::int32_t>(kVocab));
      positions.push_back(p);
      logit_rows.push_back(static_cast<std::int32_t>(logit_rows.size()));
    }
    query_start_loc.push_back(static_cast<std::int32_t>(positions.size()));
    for (std::size_t i = 0; i < kBlocks; ++i) {
      table.push_back(sequence * static_cast<std::int32_t>(kBlocks) + static_cast<std::int32_t>(i));
    }
  }
  StepBatch view() const {
    return {input_ids, positions, query_start_loc, table, table, kBlocks, logit_rows, kVocab};
  }
};

std::vector<float> step(Gemma3n& model, KvCache& cache, const Batch& batch) {
  std::vector<float> logits(batch.logit_rows.size() * kVocab);
  model.step(batch.view(), cache, logits.data());
  return logits;
}

void append(std::vector<float>& to, const std::vector<float>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Two sequences, as one pass each and as a mixture of blocks and single tokens.
void test_steps(Format format, Variant variant, bool is_float16, bool is_sparse) {
  auto pool = std::make_shared<ThreadPool>(3);
  const Model made(format, *pool, is_sparse);
  Gemma3n model(config(), layer_configs(), made.weights, kMaxRows, kMaxModelLen, {}, pool, variant);
  KvCache cache(config(), layer_configs(), {16, 3 * kBlocks, 3 * kBlocks, is_float16});
  Batch first;
  first.add(0, 0, 40);
  const std::vector<float> whole = step(model, cache, first);
  for (const float logit : whole) CHECK(std::isfinite(logit) && std::abs(logit) <= 30.0f);

  std::vector<float> pieces;
  Batch mixed;
  mixed.add(1, 0, 5);
  mixed.add(2, 0, 30);
  step(model, cache, mixed);
  for (std::int32_t begin = 0; begin < 40;) {
    const std::int32_t end = std::min(begin + (begin < 26 ? 13 : 1), 40);
    Batch batch;
    batch.add(0, begin, end);
    batch.add(2, 30 + begin / 13, 31 + begin / 13);
    std::vector<float> logits = step(model, cache, batch);
    logits.resize(static_cast<std::size_t>(end - begin) * kVocab);
    append(pieces, logits);
    begin = end;
  }
  CHECK(same_bits(whole, pieces));

  Batch skipping = first;  // only some tokens go beyond the last keys and values
  skipping.logit_rows = {3, 39};
  std::vector<float> expected(whole.begin() + 3 * kVocab, whole.begin() + 4 * kVocab);
  expected.insert(expected.end(), whole.begin() + 39 * kVocab, whole.end());
  CHECK(same_bits(step(model, cache, skipping), expected));
  skipping.logit_rows.clear();
  step(model, cache, skipping);
  CHECK(model.weight_bytes_per_token() > 0);
  CHECK(model.times().num_steps > 10);
}

// A context of several blocks of attention, in large pieces and in small ones.
void test_long_context(Format format, Variant variant) {
  auto pool = std::make_shared<ThreadPool>(3);
  const Model made(format, *pool, true);
  Gemma3n model(config(), layer_configs(), made.weights, kMaxRows, kMaxModelLen, {}, pool, variant);
  KvCache cache(config(), layer_configs(), {16, 2 * kBlocks, 2 * kBlocks, true});
  constexpr auto kEnd = static_cast<std::int32_t>(kMaxModelLen);
  const auto run = [&](std::int32_t sequence, std::int32_t most) {
    std::vector<float> logits;
    for (std::int32_t begin = 0; begin < kEnd; begin += most) {
      Batch batch;
      batch.add(0, begin, std::min(begin + most, kEnd));
      for (std::int32_t& block : batch.table)
        block += sequence * static_cast<std::int32_t>(kBlocks);
      append(logits, step(model, cache, batch));
    }
    return logits;
  };
  const std::vector<float> whole = run(0, static_cast<std::int32_t>(kMaxRows));
  CHECK(same_bits(run(1, 13), whole));
  for (const std::int32_t position : {0, 255, 256, 300, 511, 512, kEnd - 1}) {
    Batch alone;
    alone.add(0, position, position + 1);
    const std::vector<float> logits = step(model, cache, alone);
    CHECK(std::memcmp(logits.data(), whole.data() + static_cast<std::size_t>(position) * kVocab,
                      kVocab * sizeof(float)) == 0);
  }
}

// From the second step on, whatever thread comes to work in it.
void test_no_allocations(Format format, bool is_float16) {
  auto pool = std::make_shared<ThreadPool>(3);
  const Model made(format, *pool, true);
  Gemma3n model(config(), layer_configs(), made.weights, kMaxRows, kMaxModelLen, {}, pool);
  KvCache cache(config(), layer_configs(), {16, 2 * kBlocks, 2 * kBlocks, is_float16});
  std::vector<float> logits(kMaxRows * kVocab);
  // What the cache holds there does not matter.
  for (std::int32_t position = 0; position < 560; position += position % 256 < 30 ? 1 : 14) {
    Batch batch;
    batch.add(0, position, position + 1);
    batch.add(1, position, position + 1 + position % 20);
    const StepBatch view = batch.view();
    const int before = testing::num_allocations();
    model.step(view, cache, logits.data());
    CHECK(position == 0 || testing::num_allocations() == before);
  }
}

void test_hostile_batches() {
  auto pool = std::make_shared<ThreadPool>(2);
  const Model made(Format::kQ4, *pool, true);
  Gemma3n model(config(), layer_configs(), made.weights, kMaxRows, kMaxModelLen, {}, pool);
  KvCache cache(config(), layer_configs(), {16, kBlocks, kBlocks, true});
  Batch good;
  good.add(0, 0, 20);
  step(model, cache, good);
  const auto refused = [&](const auto& change) {
    Batch bad = good;
    change(bad);
    CHECK(throws<std::invalid_argument>([&] { step(model, cache, bad); }));
  };
  constexpr std::int32_t kHuge = std::numeric_limits<std::int32_t>::max();
  constexpr std::int32_t kLeast = std::numeric_limits<std::int32_t>::min();
  for (const std::int32_t number : {kHuge, kLeast, -1, 50, 100, 1000}) {
    refused([&](Batch& b) { b.input_ids[7] = number; });
    refused([&](Batch& b) { b.positions[0] = number; });
    refused([&](Batch& b) { b.positions[19] = number; });
    refused([&](Batch& b) { b.logit_rows[4] = number; });
    refused([&](Batch& b) { b.query_start_loc[1] = number; });
    refused([&](Batch& b) { b.query_start_loc = {0, number, 20}; });
    refused([&](Batch& b) { b.query_start_loc = {number, 20}; });
    refused([&](Batch& b) { b.table[0] = number; });
    refused([&](Batch& b) { b.table[1] = number; });
  }
  refused([](Batch& b) { b.table.clear(); });
  refused([](Batch& b) { b.query_start_loc.clear(); });
  refused([](Batch& b) { b.positions.pop_back(); });
  refused([](Batch& b) { b.add(0, 20, 41); });  // more tokens than there is room for
  StepBatch narrow = good.view();
  narrow.blocks_per_sequence = 1;
  CHECK(throws<std::invalid_argument>([&] { model.step(narrow, cache, nullptr); }));
  std::vector<LayerConfig> others = layer_configs();
  others[2].kv_source_layer = 2;
  KvCache other(config(), others, {16, kBlocks, kBlocks, true});
  CHECK(!other.fits(model.config(), model.layers()));
  CHECK(throws<std::invalid_argument>([&] { step(model, other, good); }));
  CHECK(throws<std::invalid_argument>(
      [] { KvCache(config(), layer_configs(), {16, ~std::size_t{0} / 4, 1, true}); }));
  step(model, cache, good);
}

void test_models_that_do_not_fit() {
  auto pool = std::make_shared<ThreadPool>(1);
  const Model made(Format::kFloat16, *pool, true);
  const auto build = [&](const Gemma3nConfig& c, const Gemma3nWeights& weights) {
    Gemma3n(c, layer_configs(), weights, 1, 1, {}, pool);
  };
  build(config(), made.weights);
  for (const auto field :
       {&Gemma3nConfig::vocab_size, &Gemma3nConfig::hidden_size, &Gemma3nConfig::head_dim,
        &Gemma3nConfig::num_key_value_heads, &Gemma3nConfig::num_attention_heads,
        &Gemma3nConfig::hidden_size_per_layer_input, &Gemma3nConfig::laurel_rank,
        &Gemma3nConfig::altup_num_inputs}) {
    for (const std::size_t value : {0u, 1u, 64u}) {
      Gemma3nConfig c = config();
      c.*field = value;
      CHECK(throws<std::invalid_argument>([&] { build(c, made.weights); }));
    }
  }
  Gemma3nWeights without = made.weights;
  without.layers[2].down_columns = nullptr;
  CHECK(throws<std::invalid_argument>([&] { build(config(), without); }));
}

}  // namespace

void run_all() {
  for (const Variant variant : kVariants) {
    if (!is_supported(variant)) continue;
    for (const Format format :
         {Format::kFloat32, Format::kFloat16, Format::kBfloat16, Format::kQ4, Format::kQ8}) {
      test_steps(format, variant, true, true);
    }
    test_steps(Format::kQ8, variant, false, false);
    test_long_context(Format::kQ4, variant);
  }
  for (const Format format : {Format::kFloat16, Format::kQ4, Format::kQ8}) {
    test_no_allocations(format, true);
    test_no_allocations(format, false);
  }
  test_hostile_batches();
  test_models_that_do_not_fit();
}

}  // namespace nestling

int main() {
  nestling::run_all();
  return nestling::testing::num_failures == 0 ? 0 : 1;
}
