// The extension module nestling.native._core: checks arguments, releases the GIL, calls a kernel.
//
// std::invalid_argument from a kernel arrives in Python as ValueError. `make stub` writes the types
// of this module to _core.pyi; nb::sig says them where nanobind cannot derive them.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <optional>

#include "arrays.h"
#include "modules.h"
#include "nestling/bandwidth.h"
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

double measured_bandwidth(std::size_t num_bytes, ThreadPool& pool) {
  const nb::gil_scoped_release release;
  return read_bandwidth(num_bytes, pool);
}

// One number in memory that Python owns and another process may watch.
using Counter = nb::ndarray<std::int64_t, nb::shape<1>, nb::c_contig, nb::device::cpu>;

// From slow to fast.
nb::tuple supported_variants() {
  nb::list names;
  for (const Variant variant : kVariants) {
    if (is_supported(variant)) names.append(name_of(variant));
  }
  return nb::tuple(names);
}

void bind(nb::module_& module) {
  module.attr("MAX_THREADS") = ThreadPool::kMaxThreads;
  nb::class_<ThreadPool>(module, "ThreadPool")
      .def(nb::init<int>(), "num_threads"_a)
      .def_prop_ro("num_threads", &ThreadPool::num_threads)
      .def(
          "count_pieces_in",
          [](ThreadPool& self, const Counter& counter) { self.count_pieces_in(counter.data()); },
          "counter"_a.noconvert(), nb::keep_alive<1, 2>(),
          nb::sig("def count_pieces_in(self, counter: numpy.typing.NDArray[numpy.int64]) -> None"));
  module.def("sample", &sample_token, "logits"_a, nb::kw_only(), "temperature"_a, "top_k"_a,
             "top_p"_a, "top_a"_a, "min_p"_a, "uniform"_a,
             nb::sig("def sample(logits: numpy.typing.NDArray[numpy.float32], *, "
                     "temperature: float, top_k: int, top_p: float, top_a: float, min_p: float, "
                     "uniform: float) -> int"));
  module.def("top_logprobs", &best_logprobs, "logits"_a, "count"_a,
             nb::sig("def top_logprobs(logits: numpy.typing.NDArray[numpy.float32], count: int) -> "
                     "tuple[float, numpy.typing.NDArray[numpy.int32], "
                     "numpy.typing.NDArray[numpy.float32]]"));
  module.def("read_bandwidth", &measured_bandwidth, "num_bytes"_a, "pool"_a);
  module.def("variants", &supported_variants, nb::sig("def variants() -> tuple[str, ...]"));
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
