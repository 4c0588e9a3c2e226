// The extension module nestling.native._core: checks arguments, releases the GIL, calls a kernel.
//
// std::invalid_argument from a kernel arrives in Python as ValueError.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <optional>

#include "arrays.h"
#include "modules.h"
#include "nestling/attention.h"
#include "nestling/bandwidth.h"
#include "nestling/linear.h"
#include "nestling/sampling.h"
#include "nestling/thread_pool.h"
#include "nestling/variant.h"

namespace nestling::bindings {

using nb::literals::operator""_a;

namespace {

std::span<const float> checked_logits(const AnyArray& logits) {
  const float* data = checked<float, 1>(logits, "logits: expected float32 [vocab_size]");
  return {data, logits.shape(0)};
}

std::int32_t sample_token(const AnyArray& logits, double temperature, std::int64_t top_k,
                          double top_p, double top_a, double min_p, double uniform) {
  const std::span<const float> view = checked_logits(logits);
  const SamplingSettings settings{temperature, top_k, top_p, top_a, min_p};
  const nb::gil_scoped_release release;
  return sample(view, settings, uniform);
}

nb::tuple best_logprobs(const AnyArray& logits, std::int64_t count) {
  const std::span<const float> view = checked_logits(logits);
  TopLogprobs top;
  {
    const nb::gil_scoped_release release;
    top = top_logprobs(view, count);
  }
  NewArray<std::int32_t, 1> ids({top.ids.size()});
  NewArray<float, 1> logprobs({top.logprobs.size()});
  std::ranges::copy(top.ids, ids.data());
  std::ranges::copy(top.logprobs, logprobs.data());
  return nb::make_tuple(top.logsumexp, std::move(ids).release(), std::move(logprobs).release());
}

WeightType weight_type_of(const std::string& name) {
  if (name == "float32") return WeightType::kFloat32;
  if (name == "bfloat16") return WeightType::kBfloat16;
  throw nb::value_error(
      ("dtype: expected \"float32\" or \"bfloat16\", got \"" + name + "\"").c_str());
}

std::unique_ptr<PackedLinear> pack(const AnyArray& weight, const std::string& dtype) {
  const float* data =
      checked<float, 2>(weight, "weight: expected float32 [out_features, in_features]");
  const WeightType type = weight_type_of(dtype);
  const nb::gil_scoped_release release;
  return std::make_unique<PackedLinear>(data, weight.shape(0), weight.shape(1), type);
}

nb::ndarray<nb::numpy, float> apply_linear(const AnyArray& x, const PackedLinear& weight,
                                           ThreadPool& pool, const std::string& variant) {
  const float* data = checked<float, 2>(x, "x: expected float32 [num_rows, in_features]");
  require_extent("x: number of columns (in_features)", x.shape(1), weight.in_features());
  const Variant chosen = variant_of(variant);
  NewArray<float, 2> out({x.shape(0), weight.out_features()});
  {
    const nb::gil_scoped_release release;
    linear(data, x.shape(0), weight, out.data(), pool, chosen);
  }
  return std::move(out).release();
}

// Every index that the kernel will follow stays inside its array, or an IndexError or ValueError.
void check_ranges(const AttentionInput& input, std::size_t num_positions, std::size_t num_slots) {
  for (std::size_t i = 0; i < num_positions; ++i) {
    if (input.slots[i] >= 0 && static_cast<std::size_t>(input.slots[i]) < num_slots) continue;
    throw nb::index_error(("slots[" + std::to_string(i) + "]: expected 0 to " +
                           std::to_string(num_slots) + " (excluded), got " +
                           std::to_string(input.slots[i]))
                              .c_str());
  }
  const auto most = static_cast<std::int64_t>(num_positions);
  for (std::size_t row = 0; row < input.num_rows; ++row) {
    const std::int64_t begin = input.row_begin[row];
    const std::int64_t end = input.row_end[row];
    if (begin >= 0 && begin < end && end <= most) continue;
    throw nb::index_error(("row_begin[" + std::to_string(row) + "], row_end[" +
                           std::to_string(row) +
                           "]: expected 0 <= begin < end <= " + std::to_string(most) + ", got " +
                           std::to_string(begin) + " and " + std::to_string(end))
                              .c_str());
  }
}

void check_heads(const AnyArray& q, const AnyArray& k_cache, const AnyArray& v_cache) {
  require_extent("k_cache: head_dim", k_cache.shape(2), q.shape(2));
  for (std::size_t i = 0; i < 3; ++i) {
    require_extent("v_cache: extent that k_cache has", v_cache.shape(i), k_cache.shape(i));
  }
  if (q.shape(2) == 0 || k_cache.shape(1) == 0 || q.shape(1) % k_cache.shape(1) != 0) {
    throw nb::value_error(("q: expected a head_dim above 0 and a multiple of the " +
                           std::to_string(k_cache.shape(1)) + " kv heads as heads, got " +
                           shape_text(q))
                              .c_str());
  }
}

nb::ndarray<nb::numpy, float> apply_attention(const AnyArray& q, const AnyArray& k_cache,
                                              const AnyArray& v_cache, const AnyArray& slots,
                                              const AnyArray& row_begin, const AnyArray& row_end,
                                              ThreadPool& pool, const std::string& variant) {
  AttentionInput input{};
  input.q = checked<float, 3>(q, "q: expected float32 [num_rows, num_heads, head_dim]");
  input.k_cache =
      checked<float, 3>(k_cache, "k_cache: expected float32 [num_slots, num_kv_heads, head_dim]");
  input.v_cache =
      checked<float, 3>(v_cache, "v_cache: expected float32 [num_slots, num_kv_heads, head_dim]");
  input.slots = checked<std::int64_t, 1>(slots, "slots: expected int64 [num_positions]");
  input.row_begin = checked<std::int64_t, 1>(row_begin, "row_begin: expected int64 [num_rows]");
  input.row_end = checked<std::int64_t, 1>(row_end, "row_end: expected int64 [num_rows]");
  check_heads(q, k_cache, v_cache);
  require_extent("row_begin: number of rows", row_begin.shape(0), q.shape(0));
  require_extent("row_end: number of rows", row_end.shape(0), q.shape(0));
  input.num_rows = q.shape(0);
  input.num_heads = q.shape(1);
  input.num_kv_heads = k_cache.shape(1);
  input.head_dim = q.shape(2);
  check_ranges(input, slots.shape(0), k_cache.shape(0));
  const Variant chosen = variant_of(variant);
  NewArray<float, 3> out({q.shape(0), q.shape(1), q.shape(2)});
  {
    const nb::gil_scoped_release release;
    attention(input, out.data(), pool, chosen);
  }
  return std::move(out).release();
}

double measured_bandwidth(std::size_t num_bytes, ThreadPool& pool) {
  const nb::gil_scoped_release release;
  return read_bandwidth(num_bytes, pool);
}

void bind(nb::module_& module) {
  nb::class_<ThreadPool>(module, "ThreadPool")
      .def(nb::init<int>(), "num_threads"_a)
      .def_prop_ro("num_threads", &ThreadPool::num_threads);
  nb::class_<PackedLinear>(module, "PackedLinear")
      .def_static("pack", &pack, "weight"_a, "dtype"_a)
      .def_prop_ro("out_features", &PackedLinear::out_features)
      .def_prop_ro("in_features", &PackedLinear::in_features)
      .def_prop_ro("nbytes", &PackedLinear::num_bytes)
      .def_prop_ro("dtype", [](const PackedLinear& packed) {
        return packed.type() == WeightType::kFloat32 ? "float32" : "bfloat16";
      });
  module.def("sample", &sample_token, "logits"_a, nb::kw_only(), "temperature"_a, "top_k"_a,
             "top_p"_a, "top_a"_a, "min_p"_a, "uniform"_a);
  module.def("top_logprobs", &best_logprobs, "logits"_a, "count"_a);
  module.def("linear", &apply_linear, "x"_a, "packed"_a, "pool"_a, "variant"_a = "best");
  module.def("attention", &apply_attention, "q"_a, "k_cache"_a, "v_cache"_a, "slots"_a,
             "row_begin"_a, "row_end"_a, "pool"_a, "variant"_a = "best");
  module.def("read_bandwidth", &measured_bandwidth, "num_bytes"_a, "pool"_a);
  module.def("variants", [] {
    nb::list names;
    for (const Variant variant : kVariants) {
      if (is_supported(variant)) names.append(name_of(variant));
    }
    return nb::tuple(names);
  });
}

}  // namespace

Variant variant_of(const std::string& name) {
  if (name == "best") return best_variant();
  for (const Variant variant : kVariants) {
    if (name == name_of(variant)) return variant;
  }
  throw nb::value_error(
      ("variant: expected \"best\" or one of variants(), got \"" + name + "\"").c_str());
}

}  // namespace nestling::bindings

NB_MODULE(_core, module) {
  // A model that is still loaded when the interpreter ends is no leak worth a report.
  nanobind::set_leak_warnings(false);
  nestling::bindings::bind(module);
  nestling::bindings::bind_weights(module);
  nestling::bindings::bind_gemma3n(module);
}
