// Every variant that this processor runs against Portable and, to the bit, against Portable's lanes
// with fused multiply-add; on random and on extreme numbers, on odd shapes. So variants of
// different processors agree too.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "fused_lanes.h"
#include "kernels/step_kernels.h"
#include "kernels/step_table.h"
#include "nestling/matrix.h"
#include "nestling/thread_pool.h"
#include "numbers.h"
#include "weights/half.h"

namespace nestling {

namespace {

constexpr StepKernels kUnfused = step_table<Portable>();
constexpr StepKernels kFused = step_table<Fused>();

// What a test runs: the variant, what it equals to the bit, and what only rounds otherwise.
struct Tables {
  const StepKernels& variant;
  const StepKernels& exact;
  const StepKernels& otherwise;
};

Tables tables_of(Variant variant) {
  if (variant == Variant::kPortable) return {step_kernels(variant), kUnfused, kFused};
  return {step_kernels(variant), kFused, kUnfused};
}

std::size_t round_up(std::size_t x, std::size_t unit) { return (x + unit - 1) / unit * unit; }

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a == b;
}
bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_bits);
}

// Sums of a few thousand products in the two roundings, beside the largest of them.
bool near(const std::vector<float>& a, const std::vector<float>& b) {
  float largest = 1.0f;
  for (const float value : b) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!(std::abs(a[i] - b[i]) <= 2e-5f * largest)) return false;
  }
  return a.size() == b.size();
}

// Calls f(table) -> vector<float> for each table and compares.
template <class F>
void compare(const Tables& tables, Numbers numbers, const F& f) {
  const std::vector<float> got = f(tables.variant);
  CHECK(same(got, f(tables.exact)));
  if (numbers == Numbers::kRandom) CHECK(near(got, f(tables.otherwise)));
}

// ---- weights ----

constexpr StoredType kTypes[] = {StoredType::kF32,  StoredType::kF16,  StoredType::kBF16,
                                 StoredType::kQ4_0, StoredType::kQ4_1, StoredType::kQ8_0,
                                 StoredType::kQ5_1, StoredType::kQ6_K};
constexpr ActivationQuant kQuants[] = {ActivationQuant::kInt8Pow2, ActivationQuant::kInt8,
                                       ActivationQuant::kInt16};

// A stored matrix of any codes and of scales that are random or extreme.
class Weights {
 public:
  Weights(StoredType type, std::size_t num_rows, std::size_t row_size, Numbers numbers)
      : stored_{type, nullptr, num_rows, row_size} {
    memory_.resize(num_rows * stored_.row_bytes());
    for (std::byte& byte : memory_) byte = static_cast<std::byte>(generator());
    if (is_quantized(natural_format(type))) {
      const std::size_t size = block_bytes(type);
      for (std::size_t at = 0; at < memory_.size(); at += size) {
        put(type == StoredType::kQ6_K ? at + 208 : at, scale(numbers));
        if (type == StoredType::kQ4_1 || type == StoredType::kQ5_1) put(at + 2, scale(numbers));
        if (type == StoredType::kQ8_0 && generator() % 4 == 0) {
          std::fill_n(memory_.begin() + static_cast<std::ptrdiff_t>(at) + 2, 32, std::byte{0x80});
        }
      }
    } else if (type == StoredType::kF32) {
      for (std::size_t at = 0; at < memory_.size(); at += 4) put(at, number(numbers));
    } else {
      for (std::size_t at = 0; at < memory_.size(); at += 2) {
        const float value = number(numbers);
        put(at, type == StoredType::kF16 ? half_of_float(std::clamp(value, -65504.0f, 65504.0f))
                                         : bfloat16_of_float(value));
      }
    }
    stored_.data = memory_.data();
  }

  template <class Packed>
  Packed packed(ThreadPool& pool) const {
    return Packed::pack(stored_, Packed::natural_format(stored_.type), pool);
  }

 private:
  template <class T>
  void put(std::size_t at, T value) {
    std::memcpy(memory_.data() + at, &value, sizeof(value));
  }
  static float number(Numbers numbers) { return floats(1, numbers)[0]; }
  static std::uint16_t scale(Numbers numbers) {
    static constexpr std::uint16_t kExtremes[] = {0x0000, 0x8000, 0x0001, 0x83ff, 0x7bff, 0xfbff};
    const auto which = generator() % 6;
    return numbers == Numbers::kExtreme ? kExtremes[which] : half_of_float(random_float() / 16.0f);
  }

  StoredMatrix stored_;
  std::vector<std::byte> memory_;
};

// Inputs of a token: whole groups for quantised weights.
std::size_t fitting(StoredType type, std::size_t size) {
  return round_up(size, block_elements(type));
}

// ---- products ----

struct QuantizedTokens {
  std::vector<std::int8_t> values;
  std::vector<std::int8_t> low_values;  // empty unless kInt16
  std::vector<GroupScale> groups;
  std::vector<HalfBiases> halves;

  std::int8_t* low() { return low_values.empty() ? nullptr : low_values.data(); }
};

// Of x [num_tokens][padded].
QuantizedTokens quantized(const StepKernels& table, const std::vector<float>& x, std::size_t size,
                          std::size_t padded, ActivationQuant quant,
                          std::size_t panel_tokens = kPanelTokens) {
  const std::size_t num_tokens = x.size() / padded;
  const std::size_t num_bytes = round_up(num_tokens, panel_tokens) * padded;
  QuantizedTokens tokens;
  tokens.values.resize(num_bytes);
  tokens.low_values.resize(quant == ActivationQuant::kInt16 ? num_bytes : 0);
  tokens.groups.resize(num_bytes / kGroup);
  tokens.halves.resize(num_bytes / kGroup);
  for (std::size_t token = 0; token < num_tokens; ++token) {
    table.quantize(&x[token * padded], size, token,
                   {.values = tokens.values.data(),
                    .low_values = tokens.low(),
                    .groups = tokens.groups.data(),
                    .halves = tokens.halves.data(),
                    .padded_in = padded,
                    .panel_tokens = panel_tokens,
                    .quant = quant});
  }
  return tokens;
}

bool same(const QuantizedTokens& a, const QuantizedTokens& b) {
  const auto is_same = [](const GroupScale& x, const GroupScale& y) {
    return same_bits(x.scale, y.scale) && same_bits(x.exponent, y.exponent) &&
           same_bits(x.scaled_sum, y.scaled_sum) && x.nibble_bias == y.nibble_bias;
  };
  const auto is_same_half = [](const HalfBiases& x, const HalfBiases& y) {
    return x.of[0] == y.of[0] && x.of[1] == y.of[1];
  };
  return a.values == b.values && a.low_values == b.low_values &&
         std::equal(a.halves.begin(), a.halves.end(), b.halves.begin(), b.halves.end(),
                    is_same_half) &&
         std::equal(a.groups.begin(), a.groups.end(), b.groups.begin(), b.groups.end(), is_same);
}

// x [num_tokens][padded], zero from `size` on.
std::vector<float> padded_tokens(std::size_t num_tokens, std::size_t size, std::size_t padded,
                                 Numbers numbers) {
  std::vector<float> x = floats(num_tokens * padded, numbers);
  for (std::size_t token = 0; token < num_tokens; ++token) {
    std::fill_n(&x[token * padded] + size, padded - size, 0.0f);
  }
  return x;
}

struct Shape {
  std::size_t in;
  std::size_t out;
  std::size_t num_tokens;
};

void test_linear(const Tables& tables, StoredType type, const Shape& shape, Numbers numbers,
                 ActivationQuant quant) {
  ThreadPool pool(1);
  const std::size_t size = fitting(type, shape.in);
  const std::size_t padded = round_up(size, 128);
  const auto weight = Weights(type, shape.out, size, numbers).packed<Matrix>(pool);
  const std::vector<float> x = padded_tokens(shape.num_tokens, size, padded, numbers);
  const auto tokens_of = [&](const StepKernels& table) {
    return quantized(table, x, size, padded, quant);
  };
  CHECK(same(tokens_of(tables.variant), tokens_of(tables.exact)));
  CHECK(same(tokens_of(tables.variant), tokens_of(tables.otherwise)));
  const std::size_t stride = weight.num_tiles() * kTile + 16;
  for (const std::size_t first_tile : {std::size_t{0}, weight.num_tiles() / 2}) {
    const auto product = [&](const StepKernels& table, std::size_t panel_tokens) {
      QuantizedTokens tokens = quantized(table, x, size, padded, quant, panel_tokens);
      std::vector<float> result(shape.num_tokens * stride, 7.0f);  // what is not of the tiles stays
      table.linear({.weight = &weight,
                    .x = {.floats = x.data(),
                          .stride = padded,
                          .values = tokens.values.data(),
                          .low_values = tokens.low(),
                          .groups = tokens.groups.data(),
                          .halves = tokens.halves.data(),
                          .padded_in = padded,
                          .panel_tokens = panel_tokens,
                          .quant = quant},
                    .num_tokens = shape.num_tokens,
                    .tile_begin = first_tile,
                    .tile_end = weight.num_tiles(),
                    .out = result.data(),
                    .out_stride = stride});
      return result;
    };
    compare(tables, numbers,
            [&](const StepKernels& table) { return product(table, kPanelTokens); });
    if (shape.num_tokens > 1) continue;
    CHECK(same(product(tables.variant, 1), product(tables.variant, kPanelTokens)));
  }
}

void test_products(const Tables& tables, StoredType type, Numbers numbers, ActivationQuant quant) {
  for (const std::size_t in : {1u, 33u, 200u}) {
    for (const std::size_t num_tokens :
         {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 11u, 12u, 14u, 15u, 16u, 20u}) {
      test_linear(tables, type, {in, in + 15, num_tokens}, numbers, quant);
    }
  }
  for (const std::size_t num_tokens : {1u, 2u}) {
    test_linear(tables, type, {4200, 16, num_tokens}, numbers, quant);
  }
  test_linear(tables, type, {4160, 33, 26}, numbers, quant);
}

// What is not finite does not become a number, be it a whole group or one value of it.
void test_not_finite(const Tables& tables, ActivationQuant quant) {
  ThreadPool pool(1);
  const auto weight = Weights(StoredType::kQ4_0, 32, 128, Numbers::kRandom).packed<Matrix>(pool);
  for (int i = 0; i < 6; ++i) {
    const float value = std::array{kNaN, kInfinity, -kInfinity}[static_cast<std::size_t>(i) / 2];
    std::vector<float> x = padded_tokens(1, 128, 128, Numbers::kRandom);
    std::fill_n(x.begin() + 32 + 5 * (i % 2), i % 2 == 0 ? 32 : 1, value);
    for (const StepKernels* table : {&tables.variant, &tables.exact, &tables.otherwise}) {
      QuantizedTokens tokens = quantized(*table, x, 128, 128, quant, 1);
      std::vector<float> result(32);
      table->linear({.weight = &weight,
                     .x = {.floats = x.data(),
                           .stride = 128,
                           .values = tokens.values.data(),
                           .low_values = tokens.low(),
                           .groups = tokens.groups.data(),
                           .halves = tokens.halves.data(),
                           .padded_in = 128,
                           .panel_tokens = 1,
                           .quant = quant},
                     .num_tokens = 1,
                     .tile_begin = 0,
                     .tile_end = 2,
                     .out = result.data(),
                     .out_stride = 32});
      for (const float y : result) CHECK(!std::isfinite(y));
    }
  }
}

void test_dots(const Tables& tables, StoredType type, Numbers numbers, ActivationQuant quant) {
  ThreadPool pool(1);
  for (const std::size_t in : {1u, 33u, 100u, 700u}) {
    const std::size_t size = fitting(type, in);
    const auto weight = Weights(type, 3, size, numbers).packed<RowMatrix>(pool);
    const std::size_t padded = round_up(size, kRowBlock);
    const std::vector<float> x = padded_tokens(1, size, padded, numbers);
    compare(tables, numbers, [&](const StepKernels& table) {
      std::vector<std::int8_t> values(padded, 99);
      std::vector<std::int8_t> low(padded, 99);
      std::vector<float> scales(padded / kGroup, kNaN);
      std::vector<float> sums(padded / kGroup, kNaN);
      std::int8_t* const low_values = quant == ActivationQuant::kInt16 ? low.data() : nullptr;
      table.quantize_dot(x.data(), size, padded, values.data(), low_values, scales.data(),
                         sums.data());
      const DotInput token{.floats = x.data(),
                           .values = values.data(),
                           .low_values = low_values,
                           .scales = scales.data(),
                           .scaled_sums = sums.data()};
      const std::uint32_t indices[] = {2, 0, 1, 2, 1, 0};
      std::vector<float> results(6, kNaN);
      table.row_dots(weight, token, {indices, 6, indices, 6}, results.data());
      results.insert(results.end(), values.begin(), values.end());
      results.insert(results.end(), low.begin(), low.end());
      results.insert(results.end(), scales.begin(), scales.end());
      results.insert(results.end(), sums.begin(), sums.end());
      return results;
    });
  }
}

// ---- sparse columns ----

void test_columns(const Tables& tables, StoredType type, std::size_t out, Numbers numbers) {
  ThreadPool pool(1);
  const std::size_t num_columns = fitting(type, 70);
  const auto weight = Weights(type, out, num_columns, numbers).packed<ColumnMatrix>(pool);
  const std::size_t padded = weight.padded_out();
  std::vector<std::uint32_t> indices;
  for (std::uint32_t n = 0; n < num_columns; n += 1 + generator() % 5) indices.push_back(n);
  const std::vector<float> values = floats(indices.size(), numbers);
  const std::vector<float> start = floats(padded, numbers);
  const auto sparse = [&](const StepKernels& table) {
    std::vector<float> result = start;
    const ActiveNeurons token{indices.data(), values.data(), indices.size(), indices.size(),
                              result.data()};
    std::vector<float> scratch(column_scratch(num_columns, padded), 7.0f);
    table.add_columns({&weight, 0, num_columns, 0, padded, &token, 1, scratch.data()});
    return result;
  };
  // In blocks of columns and slices of outputs, as a step takes them.
  const auto in_parts = [&](const StepKernels& table) {
    std::vector<float> result = start;
    std::size_t from = 0;
    for (std::size_t first = 0; first < num_columns; first += 32) {
      const std::size_t last = std::min<std::size_t>(first + 32, num_columns);
      std::size_t to = from;
      while (to < indices.size() && indices[to] < last) ++to;
      for (std::size_t begin = 0; begin < padded; begin += 32) {
        const ActiveNeurons token{indices.data() + from, values.data() + from, to - from,
                                  indices.size() - from, &result[begin]};
        std::vector<float> scratch(column_scratch(last - first, 32), 7.0f);
        table.add_columns({&weight, first, last, begin, begin + 32, &token, 1, scratch.data()});
      }
      from = to;
    }
    return result;
  };
  const auto decoded = [&](const StepKernels& table) {
    std::vector<float> result = start;
    for (std::size_t begin = 0; begin < padded; begin += 64) {
      const std::size_t width = std::min<std::size_t>(64, padded - begin);
      std::vector<float> columns(num_columns * width, 7.0f);
      table.decode_columns(weight, 0, num_columns, begin, begin + width, columns.data());
      const ActiveNeurons token{indices.data(), values.data(), indices.size(), indices.size(),
                                &result[begin]};
      table.add_decoded({columns.data(), 0, width}, &token, 1);
    }
    return result;
  };
  compare(tables, numbers, sparse);
  compare(tables, numbers, decoded);
  CHECK(same(sparse(tables.variant), decoded(tables.variant)));
  CHECK(same(sparse(tables.variant), in_parts(tables.variant)));
}

// ---- attention ----

struct AttentionShape {
  std::size_t num_tokens;
  std::size_t num_queries;
  std::size_t head_stride;
  std::int64_t first_position;
  std::int64_t window;
};

// The same results by other ways, which must not matter: each block by itself, each token by
// itself.
std::vector<float> attended_in_parts(const StepKernels& table, AttentionTask task) {
  const std::size_t num_vectors = task.num_tokens * task.num_queries;
  const std::size_t size = num_vectors * attention_part_size(task.head_stride);
  const std::size_t begin = task.block_begin;
  const std::size_t end = task.block_end;
  std::vector<float> parts((end - begin) * size, 7.0f);
  std::vector<float> out(num_vectors * task.head_stride, 7.0f);
  task.out = out.data();
  for (std::size_t block = end; block-- > begin;) {
    task.block_begin = block;
    task.block_end = block + 1;
    task.parts = parts.data() + (block - begin) * size;
    table.attention(task);
  }
  task.block_begin = begin;
  task.block_end = end;
  task.parts = parts.data();
  table.join_attention(task);
  return out;
}

std::vector<float> attended_token_by_token(const StepKernels& table, AttentionTask task) {
  const std::size_t num_tokens = task.num_tokens;
  std::vector<float> out(num_tokens * task.out_stride, 7.0f);
  task.num_tokens = 1;
  for (std::size_t token = 0; token < num_tokens; ++token) {
    task.out = out.data() + token * task.out_stride;
    task.block_begin = attention_block_begin(task.first_position, task.window);
    task.block_end = attention_block_end(task.first_position);
    table.attention(task);
    task.q += task.q_stride;
    ++task.first_position;
  }
  return out;
}

template <class Element>
void test_attention(const Tables& tables, const AttentionShape& shape, Numbers numbers) {
  constexpr std::size_t kKvHeads = 2;
  constexpr std::size_t kGroupsPerBlock = 2;
  const std::size_t num_keys = static_cast<std::size_t>(shape.first_position) + shape.num_tokens;
  const std::size_t num_blocks = num_keys / (kTile * kGroupsPerBlock) + 1;
  const std::size_t group_stride = 2 * kKvHeads * shape.head_stride * kTile;
  std::vector<Element> cache(num_blocks * kGroupsPerBlock * group_stride);
  for (Element& element : cache) {
    float value = random_float();
    if (numbers == Numbers::kExtreme) value = std::clamp(extreme_float(), -65504.0f, 65504.0f);
    if constexpr (sizeof(Element) == 2) {
      element = half_of_float(value);
    } else {
      element = value;
    }
  }
  std::vector<std::int32_t> block_table(num_blocks);
  std::iota(block_table.rbegin(), block_table.rend(), 0);
  const std::size_t num_vectors = shape.num_tokens * shape.num_queries;
  std::vector<float> q = floats(num_vectors * shape.head_stride, numbers);
  for (float& value : q) value = std::clamp(value, -1e10f, 1e10f);
  compare(tables, numbers, [&](const StepKernels& table) {
    std::vector<float> out(q.size(), 7.0f);
    std::vector<float> scratch(attention_scratch(num_vectors, shape.head_stride));
    AttentionTask task{.q = q.data(),
                       .q_stride = shape.num_queries * shape.head_stride,
                       .out = out.data(),
                       .out_stride = shape.num_queries * shape.head_stride,
                       .num_tokens = shape.num_tokens,
                       .num_queries = shape.num_queries,
                       .head_stride = shape.head_stride,
                       .kv_head = 1,
                       .num_kv_heads = kKvHeads,
                       .first_position = shape.first_position,
                       .window = shape.window,
                       .cache = {cache.data(), sizeof(Element) == 2, kGroupsPerBlock * group_stride,
                                 group_stride, kGroupsPerBlock},
                       .block_table = block_table.data(),
                       .block_begin = attention_block_begin(shape.first_position, shape.window),
                       .block_end = attention_block_end(static_cast<std::int64_t>(num_keys) - 1),
                       .parts = nullptr,
                       .scratch = scratch.data()};
    table.attention(task);
    CHECK(same(attended_in_parts(table, task), out));
    CHECK(same(attended_token_by_token(table, task), out));
    return out;
  });
}

void test_attention(const Tables& tables) {
  for (const Numbers numbers : {Numbers::kRandom, Numbers::kExtreme}) {
    for (const AttentionShape& shape : {AttentionShape{1, 1, 16, 0, 0},
                                        {1, 4, 64, 15, 0},
                                        {3, 4, 80, 16, 0},
                                        {7, 2, 32, 100, 20},
                                        {2, 5, 256, 63, 1},
                                        {16, 2, 16, 5, 8},
                                        {6, 4, 64, 252, 0},
                                        {1, 4, 256, 1030, 0},
                                        {9, 3, 32, 700, 0},
                                        {5, 4, 48, 1021, 512},
                                        {12, 2, 32, 507, 250},
                                        {29, 1, 48, 40, 33}}) {
      test_attention<float>(tables, shape, numbers);
      test_attention<std::uint16_t>(tables, shape, numbers);
    }
  }
}

// ---- tokens ----

void test_sums(const Tables& tables, std::size_t n, Numbers numbers) {
  const std::vector<float> x = floats(n, numbers);
  const std::vector<float> tokens = floats(3 * n, numbers);
  compare(tables, numbers, [&](const StepKernels& table) {
    std::vector<float> sums{table.sum(x.data(), n), table.sum_squares(x.data(), n),
                            table.sum_squared_distances(x.data(), n, 0.25f),
                            table.sum_squared_distances(x.data(), n - 5, 0.25f)};
    sums.resize(8);
    table.dots(x.data(), tokens.data(), 3, n, &sums[4]);
    return sums;
  });
}

void test_combinations(const Tables& tables, std::size_t n, Numbers numbers) {
  const std::vector<float> x = floats(n, numbers);
  const std::vector<float> y = floats(n, numbers);
  compare(tables, numbers, [&](const StepKernels& table) {
    std::vector<float> out = x;
    const float* const inputs[] = {y.data(), out.data(), x.data()};
    const float coefs[] = {0.7f, -1.3f, 0.01f};
    table.combine(out.data(), inputs, coefs, 3, n);
    return out;
  });
  for (const std::size_t num_altup_inputs : {1, 3, 4, 16}) {
    const std::vector<float> altup_inputs = floats(num_altup_inputs * n, numbers);
    const std::vector<float> coefs = floats(num_altup_inputs * num_altup_inputs, Numbers::kRandom);
    const std::vector<float> gains = floats(num_altup_inputs, Numbers::kRandom);
    compare(tables, numbers, [&](const StepKernels& table) {
      std::vector<float> out = altup_inputs;
      table.altup_correct({.altup_inputs = out.data(),
                           .num_altup_inputs = num_altup_inputs,
                           .active_idx = num_altup_inputs / 2,
                           .prediction_coefs = coefs.data(),
                           .activated = y.data(),
                           .gains = gains.data(),
                           .size = n});
      return out;
    });
  }
  for (const float* base : {static_cast<const float*>(nullptr), x.data()}) {
    compare(tables, numbers, [&](const StepKernels& table) {
      std::vector<float> out(n);
      table.add_normed(out.data(), base, y.data(), 0.3f, x.data(), n);
      return out;
    });
  }
  compare(tables, numbers, [&](const StepKernels& table) {
    std::vector<float> out = x;
    const std::size_t half = n / 2 - 1;
    table.rotate(out.data(), y.data(), y.data() + half, half);
    return out;
  });
  const auto halves = [&](const StepKernels& table) {
    std::vector<std::uint16_t> out(n);
    table.to_float16(x.data(), n, out.data());
    return out;
  };
  CHECK(same(halves(tables.variant), halves(tables.otherwise)));
}

void test_functions(const Tables& tables, std::size_t n, Numbers numbers) {
  const std::vector<float> x = floats(n, numbers);
  const std::vector<float> y = floats(n, numbers);
  compare(tables, numbers, [&](const StepKernels& table) {
    std::vector<float> out = x;
    table.gelu_times(out.data(), y.data(), n);
    return out;
  });
  for (const std::size_t size : {n, n - 5}) {
    compare(tables, numbers, [&](const StepKernels& table) {
      std::vector<float> out = x;
      table.soft_cap(out.data(), size, 30.0f);
      return out;
    });
    for (const float cutoff : {-kMost, 0.0f, 1.5f, kMost}) {
      compare(tables, numbers, [&](const StepKernels& table) {
        std::vector<std::uint32_t> indices(size + 16);
        std::vector<float> values(size + 16);
        const std::size_t count = table.keep_active(
            indices.data(), values.data(),
            table.select_above(x.data(), size, cutoff - 0.5f, indices.data(), values.data()),
            cutoff);
        values.resize(count);
        values.insert(values.end(), indices.begin(),
                      indices.begin() + static_cast<std::ptrdiff_t>(count));
        return values;
      });
    }
  }
}

void test_variant(Variant variant) {
  const Tables tables = tables_of(variant);
  for (const ActivationQuant quant : kQuants) test_not_finite(tables, quant);
  for (const Numbers numbers : {Numbers::kRandom, Numbers::kExtreme}) {
    for (const StoredType type : kTypes) {
      for (const ActivationQuant quant : kQuants) {
        test_products(tables, type, numbers, quant);
        if (quant != ActivationQuant::kInt8Pow2) test_dots(tables, type, numbers, quant);
      }
      for (const std::size_t out : {1u, 32u, 100u, 290u}) test_columns(tables, type, out, numbers);
    }
    for (const std::size_t n : {16u, 64u, 80u, 2048u}) {
      test_sums(tables, n, numbers);
      test_combinations(tables, n, numbers);
      test_functions(tables, n, numbers);
    }
  }
  test_attention(tables);
}

}  // namespace

void run_all(const std::string& expected) {
  std::printf("best variant: %s\n", name_of(best_variant()));
  if (!expected.empty()) CHECK(expected == name_of(best_variant()));
  for (const Variant variant : kVariants) {
    if (is_supported(variant)) {
      test_variant(variant);
    } else {
      CHECK(testing::throws<std::invalid_argument>([&] { step_kernels(variant); }));
    }
  }
}

}  // namespace nestling

// An argument names the variant that must be the best here, as where a processor is emulated.
int main(int argc, char** argv) {
  nestling::run_all(argc > 1 ? argv[1] : "");
  return nestling::testing::num_failures == 0 ? 0 : 1;
}
