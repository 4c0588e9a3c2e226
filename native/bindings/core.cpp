// The extension module nestling.native._core: checks arguments, releases the GIL, calls a kernel.

#include <nanobind/nanobind.h>

#include "nestling/thread_pool.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

NB_MODULE(_core, module) {
  nb::class_<nestling::ThreadPool>(module, "ThreadPool")
      .def(nb::init<int>(), "num_threads"_a)
      .def_prop_ro("num_threads", &nestling::ThreadPool::num_threads);
}
