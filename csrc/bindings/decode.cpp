// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/decode.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>

#include "bindings/arguments.h"
#include "bindings/errors.h"
#include "limelight/decode.h"

namespace py = pybind11;

namespace limelight::bindings {

namespace {

void fill_tree(DecodeParams& params, const py::handle& object) {
    const auto tree = optional_view(object, "tree_mask");
    if (!tree) {
        return;
    }
    require(*tree, "tree_mask", ScalarType::kInt32, 3);
    const int64_t words = (params.seqlen_q + 31) / 32;
    expect(tree->shape[0] == params.batch && tree->shape[1] == params.seqlen_q &&
               tree->shape[2] == words,
           "tree_mask", "must have the shape (batch, max_seqlen_q, ceil(max_seqlen_q / 32))");
    expect(tree->stride[2] == 1 || words <= 1, "tree_mask",
           "must be contiguous in its last dimension");
    params.tree_mask = static_cast<const uint32_t*>(tree->data);
    params.tree_batch_stride = tree->stride[0];
    params.tree_row_stride = tree->stride[1];
}

void fill_memory(DecodeParams& params, const py::handle& workspace_object,
                 const py::handle& schedule_object) {
    if (const auto workspace = optional_view(workspace_object, "workspace")) {
        require(*workspace, "workspace", ScalarType::kUInt8, 1);
        expect(workspace->stride[0] == 1 || workspace->shape[0] <= 1, "workspace",
               "must be contiguous");
        params.workspace = workspace->data;
        params.workspace_bytes = static_cast<size_t>(workspace->shape[0]);
    }
    if (const auto schedule = optional_view(schedule_object, "schedule")) {
        require(*schedule, "schedule", ScalarType::kInt32, 1);
        expect(schedule->stride[0] == 1 || schedule->shape[0] <= 1, "schedule",
               "must be contiguous");
        params.schedule = static_cast<int32_t*>(schedule->data);
        params.schedule_elements = static_cast<size_t>(schedule->shape[0]);
    }
}

void attention_decode(
    const py::object& q_object, const py::object& k_object, const py::object& v_object,
    const py::object& out_object, const py::object& lse_object, const py::object& cu_seqlens_q,
    const py::object& cu_seqlens_k, const py::object& seqused_q, const py::object& seqused_k,
    const py::object& leftpad_k, const py::object& cache_batch_idx, const py::object& block_table,
    const py::object& alibi_slopes, const py::object& sink, const py::object& k_descale,
    const py::object& v_descale, const py::object& tree_mask, const py::object& workspace,
    const py::object& schedule, float softmax_scale, bool causal, int window_left, int window_right,
    int attention_chunk, float softcap, int max_seqlen_q, int max_seqlen_k, int num_splits,
    bool batch_invariant, std::optional<float> unified_max, uintptr_t stream) {
    const bool varlen_q = !cu_seqlens_q.is_none();
    const bool paged = !block_table.is_none();
    const bool varlen_k = !cu_seqlens_k.is_none() && !paged;
    const TensorView q = view(q_object, "q");
    const TensorView k = view(k_object, "k");
    const TensorView v = view(v_object, "v");
    const TensorView out = view(out_object, "out");
    const TensorView lse = view(lse_object, "lse");

    DecodeParams params;
    params.dtype = element_dtype(q, "q");
    params.kv_dtype = element_dtype(k, "k");
    params.q_strides = strides_of(q, "q", varlen_q);
    params.k_strides = strides_of(k, "k", varlen_k);
    params.v_strides = strides_of(v, "v", varlen_k);
    params.out_strides = strides_of(out, "out", varlen_q);
    expect(v.dtype == k.dtype, "v", "must have the dtype of k");
    expect(out.dtype == q.dtype, "out", "must have the dtype of q");
    params.q = q.data;
    params.k = k.data;
    params.v = v.data;
    params.out = out.data;
    params.heads_q = static_cast<int32_t>(q.shape[q.ndim - 2]);
    params.heads_kv = static_cast<int32_t>(k.shape[k.ndim - 2]);
    params.headdim = static_cast<int32_t>(q.shape[q.ndim - 1]);
    params.headdim_v = static_cast<int32_t>(v.shape[v.ndim - 1]);
    params.seqlen_q = varlen_q ? max_seqlen_q : static_cast<int32_t>(q.shape[1]);
    params.seqlen_k = varlen_k ? max_seqlen_k : static_cast<int32_t>(k.shape[1]);
    params.batch = static_cast<int32_t>(varlen_q ? view(cu_seqlens_q, "cu_seqlens_q").shape[0] - 1
                                                 : q.shape[0]);
    expect(k.shape[k.ndim - 1] == params.headdim, "k", "must have the headdim of q");
    expect(v.shape[v.ndim - 2] == params.heads_kv, "v", "must have the heads of k");
    expect(varlen_k || paged || !cache_batch_idx.is_none() || k.shape[0] == params.batch, "k",
           "must have the batch of q");
    for (int i = 0; i < k.ndim - 2; ++i) {
        expect(v.shape[i] == k.shape[i], "v", "must have the extents of k");
    }
    for (int i = 0; i < q.ndim - 1; ++i) {
        expect(out.shape[i] == q.shape[i], "out", "must have the shape (..., headdim_v) of q");
    }
    expect(out.shape[out.ndim - 1] == params.headdim_v, "out", "must have the headdim of v");

    require(lse, "lse", ScalarType::kFloat32, varlen_q ? 2 : 3);
    const int64_t rows = varlen_q ? q.shape[0] : params.seqlen_q;
    expect(lse.shape[lse.ndim - 1] == rows && lse.shape[lse.ndim - 2] == params.heads_q &&
               (varlen_q || lse.shape[0] == params.batch),
           "lse", "must have the shape (batch, heads_q, seqlen_q) or (heads_q, total_q)");
    expect(lse.stride[lse.ndim - 1] == 1 || rows <= 1, "lse",
           "must be contiguous in its last dimension");
    params.lse = static_cast<float*>(lse.data);
    params.lse_batch_stride = varlen_q ? 0 : lse.stride[0];
    params.lse_head_stride = lse.stride[lse.ndim - 2];

    params.cu_seqlens_q = lengths(cu_seqlens_q, "cu_seqlens_q", int64_t{params.batch} + 1);
    params.cu_seqlens_k = lengths(cu_seqlens_k, "cu_seqlens_k", int64_t{params.batch} + 1);
    params.seqused_q = lengths(seqused_q, "seqused_q", params.batch);
    params.seqused_k = lengths(seqused_k, "seqused_k", params.batch);
    fill_places(params, k, leftpad_k, cache_batch_idx, block_table);
    fill_alibi(params, alibi_slopes);
    fill_sink(params, sink);
    params.k_descale = descale(k_descale, "k_descale", params, params.k_descale_strides);
    params.v_descale = descale(v_descale, "v_descale", params, params.v_descale_strides);
    fill_tree(params, tree_mask);
    fill_memory(params, workspace, schedule);
    params.softmax_scale = softmax_scale;
    params.causal = causal;
    params.window_left = window_left;
    params.window_right = window_right;
    params.attention_chunk = attention_chunk;
    params.softcap = softcap;
    params.num_splits = num_splits;
    params.batch_invariant = batch_invariant;
    params.unified_max_on = unified_max.has_value();
    params.unified_max = unified_max.value_or(0.0f);
    raise(limelight::attention_decode(params, reinterpret_cast<CUstream_st*>(stream)));
}

// What fixes a schedule and a workspace beside the lengths.
DecodeParams extents(int batch, int heads_q, int heads_kv, int headdim, int headdim_v,
                     int max_seqlen_q, int max_seqlen_k, int num_splits, bool batch_invariant) {
    DecodeParams params;
    params.batch = batch;
    params.heads_q = heads_q;
    params.heads_kv = heads_kv;
    params.headdim = headdim;
    params.headdim_v = headdim_v;
    params.seqlen_q = max_seqlen_q;
    params.seqlen_k = max_seqlen_k;
    params.num_splits = num_splits;
    params.batch_invariant = batch_invariant;
    return params;
}

size_t attention_decode_workspace(int batch, int heads_q, int heads_kv, int headdim, int headdim_v,
                                  int max_seqlen_q, int max_seqlen_k, int num_splits,
                                  bool batch_invariant) {
    size_t bytes = 0;
    raise(limelight::attention_decode_workspace(
        extents(batch, heads_q, heads_kv, headdim, headdim_v, max_seqlen_q, max_seqlen_k,
                num_splits, batch_invariant),
        &bytes));
    return bytes;
}

size_t attention_schedule_size(int batch, int heads_q, int heads_kv, int headdim, int headdim_v,
                               int max_seqlen_q, int max_seqlen_k, int num_splits,
                               bool batch_invariant) {
    size_t elements = 0;
    raise(limelight::attention_decode_schedule_size(
        extents(batch, heads_q, heads_kv, headdim, headdim_v, max_seqlen_q, max_seqlen_k,
                num_splits, batch_invariant),
        &elements));
    return elements;
}

void attention_schedule(const py::object& schedule, const py::object& cu_seqlens_q,
                        const py::object& cu_seqlens_k, const py::object& seqused_q,
                        const py::object& seqused_k, const py::object& leftpad_k, int batch,
                        int heads_q, int heads_kv, int headdim, int headdim_v, int max_seqlen_q,
                        int max_seqlen_k, bool causal, int window_left, int window_right,
                        int attention_chunk, int num_splits, bool batch_invariant,
                        uintptr_t stream) {
    DecodeParams params = extents(batch, heads_q, heads_kv, headdim, headdim_v, max_seqlen_q,
                                  max_seqlen_k, num_splits, batch_invariant);
    params.cu_seqlens_q = lengths(cu_seqlens_q, "cu_seqlens_q", int64_t{batch} + 1);
    params.cu_seqlens_k = lengths(cu_seqlens_k, "cu_seqlens_k", int64_t{batch} + 1);
    params.seqused_q = lengths(seqused_q, "seqused_q", batch);
    params.seqused_k = lengths(seqused_k, "seqused_k", batch);
    params.leftpad_k = lengths(leftpad_k, "leftpad_k", batch);
    params.causal = causal;
    params.window_left = window_left;
    params.window_right = window_right;
    params.attention_chunk = attention_chunk;
    fill_memory(params, py::none(), schedule);
    raise(limelight::attention_decode_schedule(params, reinterpret_cast<CUstream_st*>(stream)));
}

void attention_combine(const py::object& partial_out_object, const py::object& partial_lse_object,
                       const py::object& out_object, const py::object& lse_object,
                       uintptr_t stream) {
    const TensorView partial_out = view(partial_out_object, "partial_out");
    const TensorView partial_lse = view(partial_lse_object, "partial_lse");
    const TensorView out = view(out_object, "out");
    const TensorView lse = view(lse_object, "lse");
    expect(partial_out.ndim == 5 && partial_out.shape[0] > 0, "partial_out",
           "must have the shape (splits, batch, seqlen, heads, headdim)");
    CombineParams params;
    params.dtype = element_dtype(out, "out");
    params.partial_dtype = element_dtype(partial_out, "partial_out");
    params.splits = static_cast<int32_t>(partial_out.shape[0]);
    params.batch = static_cast<int32_t>(partial_out.shape[1]);
    params.seqlen = static_cast<int32_t>(partial_out.shape[2]);
    params.heads = static_cast<int32_t>(partial_out.shape[3]);
    params.headdim = static_cast<int32_t>(partial_out.shape[4]);
    const int64_t rows[] = {params.splits, params.batch, params.heads, params.seqlen};
    require(partial_lse, "partial_lse", ScalarType::kFloat32, 4);
    require(lse, "lse", ScalarType::kFloat32, 3);
    expect(std::equal(rows, rows + 4, partial_lse.shape), "partial_lse",
           "must have the shape (splits, batch, heads, seqlen)");
    expect(std::equal(rows + 1, rows + 4, lse.shape), "lse",
           "must have the shape (batch, heads, seqlen)");
    params.out_strides = strides_of(out, "out", false);
    expect(std::equal(out.shape, out.shape + 4, partial_out.shape + 1), "out",
           "must have the shape (batch, seqlen, heads, headdim)");
    expect(partial_out.stride[4] == 1 || params.headdim <= 1, "partial_out",
           "must be contiguous in its last dimension");
    params.partial_out = partial_out.data;
    params.partial_lse = static_cast<const float*>(partial_lse.data);
    params.out = out.data;
    params.lse = static_cast<float*>(lse.data);
    params.partial_split_stride = partial_out.stride[0];
    params.partial_strides = {partial_out.stride[1], partial_out.stride[2], partial_out.stride[3]};
    params.partial_lse_split_stride = partial_lse.stride[0];
    params.partial_lse_batch_stride = partial_lse.stride[1];
    params.partial_lse_head_stride = partial_lse.stride[2];
    params.partial_lse_row_stride = partial_lse.stride[3];
    params.lse_batch_stride = lse.stride[0];
    params.lse_head_stride = lse.stride[1];
    params.lse_row_stride = lse.stride[2];
    raise(limelight::attention_combine(params, reinterpret_cast<CUstream_st*>(stream)));
}

}  // namespace

void bind_decode(py::module_& module) {
    module.def("attention_decode", &attention_decode);
    module.def("attention_decode_workspace", &attention_decode_workspace);
    module.def("attention_schedule_size", &attention_schedule_size);
    module.def("attention_schedule", &attention_schedule);
    module.def("attention_combine", &attention_combine);
}

}  // namespace limelight::bindings
