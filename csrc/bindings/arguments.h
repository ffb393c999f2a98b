// SPDX-License-Identifier: BSD-3-Clause
// Arguments that several attention calls take, from tensors to fields of Params. ValueError names
// what does not fit.
#pragma once

#include "bindings/tensor.h"

namespace limelight::bindings {

// (batch, seqlen, heads, headdim), or (total, heads, headdim) when varlen.
TensorStrides strides_of(const TensorView& tensor, const char* name, bool varlen);

// A (batch,) or (batch + 1,) vector of lengths, or null for None.
const int32_t* lengths(const pybind11::handle& object, const char* name, int64_t expected);

// Factors of float8 tensors, (batch, heads_kv) of any strides, or null for None.
const float* descale(const pybind11::handle& object, const char* name,
                     const AttentionParams& params, DescaleStrides& strides);

void fill_alibi(AttentionParams& params, const pybind11::handle& object);
void fill_sink(AttentionParams& params, const pybind11::handle& object);

}  // namespace limelight::bindings
