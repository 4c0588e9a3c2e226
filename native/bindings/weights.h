// Registers what weights.cpp offers.
#pragma once

#include <nanobind/nanobind.h>

namespace nestling::bindings {

void bind_weights(nanobind::module_& module);

}  // namespace nestling::bindings
