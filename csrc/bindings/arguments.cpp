// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/arguments.h"

#include <string>

#include "bindings/errors.h"

namespace py = pybind11;

namespace limelight::bindings {

TensorStrides strides_of(const TensorView& tensor, const char* name, bool varlen) {
    const int ndim = varlen ? 3 : 4;
    expect(tensor.ndim == ndim, name,
           "has " + std::to_string(tensor.ndim) + " dimensions, allowed: " + std::to_string(ndim));
    expect(tensor.stride[ndim - 1] == 1 || tensor.shape[ndim - 1] <= 1, name,
           "must be contiguous in its last dimension");
    return {varlen ? 0 : tensor.stride[0], tensor.stride[ndim - 3], tensor.stride[ndim - 2]};
}

const int32_t* lengths(const py::handle& object, const char* name, int64_t expected) {
    const auto tensor = optional_view(object, name);
    if (!tensor) {
        return nullptr;
    }
    require(*tensor, name, ScalarType::kInt32, 1);
    expect(tensor->shape[0] == expected, name,
           "has " + std::to_string(tensor->shape[0]) +
               " elements, allowed: " + std::to_string(expected));
    expect(tensor->stride[0] == 1 || expected <= 1, name, "must be contiguous");
    return static_cast<const int32_t*>(tensor->data);
}

void fill_places(AttentionParams& params, const TensorView& k, const py::handle& leftpad_k,
                 const py::handle& cache_batch_idx, const py::handle& block_table) {
    params.leftpad_k = lengths(leftpad_k, "leftpad_k", params.batch);
    params.cache_batch_idx = lengths(cache_batch_idx, "cache_batch_idx", params.batch);
    const auto table = optional_view(block_table, "block_table");
    if (table) {
        require(*table, "block_table", ScalarType::kInt32, 2);
        expect(table->shape[0] == params.batch, "block_table",
               "must have the shape (batch, max_pages)");
        expect(table->stride[1] == 1 || table->shape[1] <= 1, "block_table",
               "must be contiguous in its last dimension");
        params.block_table = static_cast<const int32_t*>(table->data);
        params.block_table_stride = table->stride[0];
        params.page_size = static_cast<int32_t>(k.shape[1]);
        const int64_t tokens = table->shape[1] * k.shape[1];
        expect(tokens < (int64_t{1} << 28), "block_table",
               "holds " + std::to_string(tokens) + " tokens a sequence, allowed: below 2^28");
        params.seqlen_k = static_cast<int32_t>(tokens);
    }
    if (table || params.cache_batch_idx != nullptr) {
        params.total_rows_k = k.shape[0] * k.shape[1];
    }
}

const float* descale(const py::handle& object, const char* name, const AttentionParams& params,
                     DescaleStrides& strides) {
    const auto tensor = optional_view(object, name);
    if (!tensor) {
        return nullptr;
    }
    require(*tensor, name, ScalarType::kFloat32, 2);
    expect(tensor->shape[0] == params.batch && tensor->shape[1] == params.heads_kv, name,
           "must have the shape (batch, heads_kv)");
    strides = {tensor->stride[0], tensor->stride[1]};
    return static_cast<const float*>(tensor->data);
}

void fill_descales(AttentionParams& params, const py::handle& q_descale,
                   const py::handle& k_descale, const py::handle& v_descale) {
    expect(params.dtype == Dtype::kFloat8E4M3 ||
               (q_descale.is_none() && k_descale.is_none() && v_descale.is_none()),
           "q_descale, k_descale and v_descale", "are for float8 tensors only");
    params.q_descale = descale(q_descale, "q_descale", params, params.q_descale_strides);
    params.k_descale = descale(k_descale, "k_descale", params, params.k_descale_strides);
    params.v_descale = descale(v_descale, "v_descale", params, params.v_descale_strides);
}

void fill_alibi(AttentionParams& params, const py::handle& object) {
    const auto slopes = optional_view(object, "alibi_slopes");
    if (!slopes) {
        return;
    }
    require(*slopes, "alibi_slopes", ScalarType::kFloat32, -1);
    const bool per_batch = slopes->ndim == 2;
    expect((slopes->ndim == 1 || per_batch) && slopes->shape[slopes->ndim - 1] == params.heads_q &&
               (!per_batch || slopes->shape[0] == params.batch),
           "alibi_slopes", "must have the shape (heads_q,) or (batch, heads_q)");
    expect(slopes->stride[slopes->ndim - 1] == 1 || params.heads_q == 1, "alibi_slopes",
           "must be contiguous in its last dimension");
    params.alibi_slopes = static_cast<const float*>(slopes->data);
    params.alibi_batch_stride = per_batch ? slopes->stride[0] : 0;
}

void fill_sink(AttentionParams& params, const py::handle& object) {
    const auto sink = optional_view(object, "sink");
    if (!sink) {
        return;
    }
    require(*sink, "sink", ScalarType::kFloat32, 1);
    expect(sink->shape[0] == params.heads_q, "sink", "must have the shape (heads_q,)");
    expect(sink->stride[0] == 1 || params.heads_q == 1, "sink", "must be contiguous");
    params.sink = static_cast<const float*>(sink->data);
}

void fill_dropout(AttentionParams& params, const py::handle& object, double dropout_p) {
    params.dropout_p = dropout_p;
    if (const auto state = optional_view(object, "rng_state")) {
        require(*state, "rng_state", ScalarType::kInt64, 1);
        expect(state->shape[0] == 2 && state->stride[0] == 1, "rng_state",
               "must be contiguous and hold a seed and an offset");
        params.rng_state = static_cast<const uint64_t*>(state->data);
    }
}

void fill_split_workspace(AttentionParams& params, const py::handle& object) {
    if (const auto memory = optional_view(object, "workspace")) {
        require(*memory, "workspace", ScalarType::kUInt8, 1);
        expect(memory->stride[0] == 1 || memory->shape[0] <= 1, "workspace", "must be contiguous");
        params.split_workspace = memory->data;
        params.split_workspace_bytes = static_cast<size_t>(memory->shape[0]);
    }
}

}  // namespace limelight::bindings
