// The parts of the extension module, one source file each, and what they share.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "nestling/variant.h"

namespace nestling::bindings {

// "best" or a name that `variants` lists; raises ValueError.
Variant variant_of(const std::string& name);

void bind_gemma3n(nanobind::module_& module);
void bind_weights(nanobind::module_& module);

}  // namespace nestling::bindings
