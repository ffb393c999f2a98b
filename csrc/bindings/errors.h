// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "limelight/status.h"

namespace limelight::bindings {

// ValueError for arguments that contradict each other, RuntimeError for what a kernel or the CUDA
// runtime refuses.
inline void raise(const Status& status) {
    if (status.ok()) {
        return;
    }
    if (status.code() == Status::Code::kInvalidArgument) {
        throw pybind11::value_error(status.message());
    }
    throw std::runtime_error(status.message());
}

// ValueError "<name> <problem>" unless the condition holds.
inline void expect(bool holds, const char* name, const std::string& problem) {
    if (!holds) {
        throw pybind11::value_error(std::string(name) + " " + problem);
    }
}

}  // namespace limelight::bindings
