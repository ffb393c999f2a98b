// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/append.h"

#include "bindings/arguments.h"
#include "bindings/errors.h"
#include "bindings/tensor.h"

namespace py = pybind11;

namespace limelight::bindings {

namespace {

const float* scale(const py::handle& object, const char* name, const AppendParams& params,
                   ScaleStrides& strides) {
    const auto tensor = optional_view(object, name);
    if (!tensor) {
        return nullptr;
    }
    require(*tensor, name, ScalarType::kFloat32, 2);
    expect((tensor->shape[0] == params.batch || params.slot_mapping != nullptr) &&
               tensor->shape[1] == params.heads_kv,
           name, "must have the shape (batch, heads_kv)");
    strides = {params.slot_mapping != nullptr ? 0 : tensor->stride[0], tensor->stride[1]};
    return static_cast<const float*>(tensor->data);
}

void fill_rotary(AppendParams& params, const py::handle& cos_object, const py::handle& sin_object,
                 bool interleaved) {
    const auto cos = optional_view(cos_object, "rotary_cos");
    const auto sin = optional_view(sin_object, "rotary_sin");
    if (!cos || !sin) {
        expect(!cos && !sin, "rotary_cos and rotary_sin", "must be given together");
        return;
    }
    expect(cos->ndim == 2 && sin->ndim == 2 && cos->shape[0] == sin->shape[0] &&
               cos->shape[1] == sin->shape[1],
           "rotary_cos and rotary_sin", "must share one shape (seqlen_rotary, rotary_dim / 2)");
    expect((cos->stride[1] == 1 && sin->stride[1] == 1) || cos->shape[1] == 1,
           "rotary_cos and rotary_sin", "must be contiguous in their last dimension");
    expect(cos->dtype == sin->dtype, "rotary_sin", "must have the dtype of rotary_cos");
    params.rotary_cos = cos->data;
    params.rotary_sin = sin->data;
    params.rotary_dtype = element_dtype(*cos, "rotary_cos");
    params.rotary_cos_stride = cos->stride[0];
    params.rotary_sin_stride = sin->stride[0];
    params.rotary_rows = static_cast<int32_t>(cos->shape[0]);
    params.rotary_dim = static_cast<int32_t>(2 * cos->shape[1]);
    params.rotary_interleaved = interleaved;
}

void fill_query(AppendParams& params, const py::handle& q_object, const py::handle& out_object,
                const py::handle& cu_seqlens_q) {
    const auto q = optional_view(q_object, "q");
    if (!q) {
        return;
    }
    const TensorView out = view(out_object, "q_out");
    const bool varlen = !cu_seqlens_q.is_none();
    params.q_strides = strides_of(*q, "q", varlen);
    params.q_out_strides = strides_of(out, "q_out", varlen);
    expect(element_dtype(*q, "q") == params.dtype && out.dtype == q->dtype, "q and q_out",
           "must have the dtype of k");
    for (int i = 0; i < q->ndim; ++i) {
        expect(out.shape[i] == q->shape[i], "q_out", "must have the shape of q");
    }
    expect(q->shape[q->ndim - 1] == params.headdim, "q", "must have the headdim of k");
    expect(varlen || q->shape[0] == params.batch, "q", "must have the batch of cache_seqlens");
    params.q = q->data;
    params.q_out = out.data;
    params.heads_q = static_cast<int32_t>(q->shape[q->ndim - 2]);
    params.seqlen_q = varlen ? 0 : static_cast<int32_t>(q->shape[1]);
    params.total_q =
        static_cast<int32_t>(varlen ? q->shape[0] : int64_t{params.batch} * params.seqlen_q);
    params.cu_seqlens_q = lengths(cu_seqlens_q, "cu_seqlens_q", int64_t{params.batch} + 1);
}

void fill_places(AppendParams& params, const py::handle& cache_batch_idx,
                 const py::handle& table_object, const py::handle& slots_object) {
    params.cache_batch_idx = lengths(cache_batch_idx, "cache_batch_idx", params.batch);
    if (const auto table = optional_view(table_object, "block_table")) {
        require(*table, "block_table", ScalarType::kInt32, 2);
        expect(table->shape[0] == params.batch && (table->stride[1] == 1 || table->shape[1] <= 1),
               "block_table", "must be (batch, max_pages), contiguous in its last dimension");
        params.block_table = static_cast<const int32_t*>(table->data);
        params.block_table_stride = table->stride[0];
        params.max_pages = static_cast<int32_t>(table->shape[1]);
    } else if (const auto slots = optional_view(slots_object, "slot_mapping")) {
        require(*slots, "slot_mapping", ScalarType::kInt64, 1);
        expect(
            slots->shape[0] <= params.total_new && (slots->stride[0] == 1 || slots->shape[0] <= 1),
            "slot_mapping", "must be contiguous, with at most one slot for each token");
        params.slot_mapping = static_cast<const int64_t*>(slots->data);
        params.total_new = static_cast<int32_t>(slots->shape[0]);
    } else {
        expect(params.batch == 0 || params.cache_batch_idx != nullptr ||
                   params.cache_rows == params.batch,
               "k_cache", "must have one row for each sequence");
    }
}

void append_kv(const py::object& k_object, const py::object& v_object,
               const py::object& k_cache_object, const py::object& v_cache_object,
               const py::object& cache_seqlens, const py::object& cu_seqlens_k_new,
               const py::object& cache_batch_idx, const py::object& block_table,
               const py::object& slot_mapping, const py::object& k_scale, const py::object& v_scale,
               const py::object& rotary_cos, const py::object& rotary_sin, const py::object& q,
               const py::object& q_out, const py::object& cu_seqlens_q,
               const py::object& seqlens_out, bool rotary_interleaved, bool rotate_q_by_row,
               uintptr_t stream) {
    const TensorView k = view(k_object, "k");
    const TensorView v = view(v_object, "v");
    const TensorView k_cache = view(k_cache_object, "k_cache");
    const TensorView v_cache = view(v_cache_object, "v_cache");
    const bool varlen = !cu_seqlens_k_new.is_none() || !slot_mapping.is_none();

    AppendParams params;
    params.dtype = element_dtype(k, "k");
    params.cache_dtype = element_dtype(k_cache, "k_cache");
    expect(v.dtype == k.dtype, "v", "must have the dtype of k");
    expect(v_cache.dtype == k_cache.dtype, "v_cache", "must have the dtype of k_cache");
    params.k_strides = strides_of(k, "k", varlen);
    params.v_strides = strides_of(v, "v", varlen);
    params.k_cache_strides = strides_of(k_cache, "k_cache", false);
    params.v_cache_strides = strides_of(v_cache, "v_cache", false);
    params.k = k.data;
    params.v = v.data;
    params.k_cache = k_cache.data;
    params.v_cache = v_cache.data;
    params.heads_kv = static_cast<int32_t>(k.shape[k.ndim - 2]);
    params.headdim = static_cast<int32_t>(k.shape[k.ndim - 1]);
    params.headdim_v = static_cast<int32_t>(v.shape[v.ndim - 1]);
    for (int i = 0; i < k.ndim - 1; ++i) {
        expect(v.shape[i] == k.shape[i], "v", "must have the tokens and heads of k");
    }
    expect(k_cache.shape[2] == params.heads_kv && k_cache.shape[3] == params.headdim &&
               v_cache.shape[2] == params.heads_kv && v_cache.shape[3] == params.headdim_v,
           "k_cache and v_cache", "must have the heads and headdims of k and v");
    expect(v_cache.shape[0] == k_cache.shape[0] && v_cache.shape[1] == k_cache.shape[1], "v_cache",
           "must have the rows or pages of k_cache");
    params.cache_rows = static_cast<int32_t>(k_cache.shape[0]);
    params.cache_row_size = static_cast<int32_t>(k_cache.shape[1]);
    if (const auto given = optional_view(cache_seqlens, "cache_seqlens")) {
        params.batch = static_cast<int32_t>(given->shape[0]);
        params.cache_seqlens = lengths(cache_seqlens, "cache_seqlens", params.batch);
    }
    params.seqlen_new = varlen ? 0 : static_cast<int32_t>(k.shape[1]);
    params.total_new =
        static_cast<int32_t>(varlen ? k.shape[0] : int64_t{params.batch} * params.seqlen_new);
    expect(varlen || k.shape[0] == params.batch, "k", "must have the batch of cache_seqlens");
    params.cu_seqlens_k_new =
        lengths(cu_seqlens_k_new, "cu_seqlens_k_new", int64_t{params.batch} + 1);
    fill_places(params, cache_batch_idx, block_table, slot_mapping);
    params.k_scale = scale(k_scale, "k_scale", params, params.k_scale_strides);
    params.v_scale = scale(v_scale, "v_scale", params, params.v_scale_strides);
    fill_rotary(params, rotary_cos, rotary_sin, rotary_interleaved);
    fill_query(params, q, q_out, cu_seqlens_q);
    params.rotate_q_by_row = rotate_q_by_row;
    params.seqlens_out = const_cast<int32_t*>(lengths(seqlens_out, "seqlens_out", params.batch));
    raise(limelight::append_kv(params, reinterpret_cast<CUstream_st*>(stream)));
}

}  // namespace

void bind_append(py::module_& module) {
    module.def("append_kv", &append_kv);
}

}  // namespace limelight::bindings
