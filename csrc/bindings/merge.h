// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <pybind11/pybind11.h>

namespace limelight::bindings {

// merge_states(): two partial results that lie in tensors of their own.
void bind_merge(pybind11::module_& module);

}  // namespace limelight::bindings
