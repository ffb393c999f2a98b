// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

#include "limelight/limelight.h"

namespace limelight::bindings {

enum class ScalarType {
    kFloat16,
    kBFloat16,
    kFloat32,
    kFloat8E4M3,
    kUInt8,
    kInt32,
    kInt64,
    kOther
};

// What a call needs to know of a tensor; the Python object keeps the memory alive.
struct TensorView {
    static constexpr int kMaxDims = 5;

    void* data = nullptr;
    int ndim = 0;
    int64_t shape[kMaxDims] = {};
    int64_t stride[kMaxDims] = {};  // in elements
    ScalarType dtype = ScalarType::kOther;
};

// Reads a tensor through DLPack's C exchange table where its type has one, else through
// data_ptr(), shape, stride() and dtype. Raises ValueError, naming `name`, for what is no tensor.
TensorView view(const pybind11::handle& tensor, const char* name);

// nullopt for None.
std::optional<TensorView> optional_view(const pybind11::handle& tensor, const char* name);

// ValueError unless the view has this dtype and, where ndim >= 0, this many dimensions.
void require(const TensorView& tensor, const char* name, ScalarType dtype, int ndim);

Dtype element_dtype(const TensorView& tensor, const char* name);

}  // namespace limelight::bindings
