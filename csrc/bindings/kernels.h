// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <pybind11/pybind11.h>

namespace limelight::bindings {

// kernels(): the table of what the build holds.
void bind_kernels(pybind11::module_& module);

}  // namespace limelight::bindings
