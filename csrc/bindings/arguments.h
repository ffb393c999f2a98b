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

// leftpad_k, cache_batch_idx and block_table, each a tensor or None; `k` has the rows or pages that
// they name. seqlen_k becomes what a row of the table holds.
void fill_places(AttentionParams& params, const TensorView& k, const pybind11::handle& leftpad_k,
                 const pybind11::handle& cache_batch_idx, const pybind11::handle& block_table);

// Factors of float8 tensors, (batch, heads_kv) of any strides, or null for None.
const float* descale(const pybind11::handle& object, const char* name,
                     const AttentionParams& params, DescaleStrides& strides);

// The factors of float8 q, k and v, of which none is for other tensors.
void fill_descales(AttentionParams& params, const pybind11::handle& q_descale,
                   const pybind11::handle& k_descale, const pybind11::handle& v_descale);

void fill_alibi(AttentionParams& params, const pybind11::handle& object);
void fill_sink(AttentionParams& params, const pybind11::handle& object);
void fill_dropout(AttentionParams& params, const pybind11::handle& object, double dropout_p);
void fill_split_workspace(AttentionParams& params, const pybind11::handle& object);

}  // namespace limelight::bindings
