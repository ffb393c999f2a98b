// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <pybind11/pybind11.h>

namespace limelight::bindings {

void bind_decode(pybind11::module_& module);

}  // namespace limelight::bindings
