// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/attention.h"

#include <algorithm>
#include <string>

#include "bindings/arguments.h"
#include "bindings/errors.h"
#include "bindings/tensor.h"

namespace py = pybind11;

namespace limelight::bindings {

namespace {

// Strides of (batch, heads_q, seqlen_q, seqlen_k), each extent 1 or full; 0 where it is 1.
BiasStrides bias_strides(const AttentionParams& params, const TensorView& bias, const char* name) {
    expect(bias.ndim == 4, name, "has " + std::to_string(bias.ndim) + " dimensions, allowed: 4");
    const int64_t full[] = {params.batch, params.heads_q, params.seqlen_q, params.seqlen_k};
    int64_t strides[4];
    for (int i = 0; i < 4; ++i) {
        expect(bias.shape[i] == 1 || bias.shape[i] == full[i], name,
               "has extent " + std::to_string(bias.shape[i]) + " in dimension " +
                   std::to_string(i) + ", allowed: 1 or " + std::to_string(full[i]));
        strides[i] = bias.shape[i] == 1 ? 0 : bias.stride[i];
    }
    return {strides[0], strides[1], strides[2], strides[3]};
}

void fill_bias(AttentionParams& params, const py::handle& object) {
    if (const auto bias = optional_view(object, "bias")) {
        params.bias = bias->data;
        params.bias_dtype = element_dtype(*bias, "bias");
        params.bias_strides = bias_strides(params, *bias, "bias");
    }
}

// The arguments that forward and backward share, in the order of the Python functions.
struct Call {
    const py::object& q;
    const py::object& k;
    const py::object& v;
    const py::object& out;
    const py::object& lse;
    const py::object& cu_seqlens_q;
    const py::object& cu_seqlens_k;
    const py::object& seqused_q;
    const py::object& seqused_k;
    const py::object& leftpad_k;
    const py::object& cache_batch_idx;
    const py::object& block_table;
    const py::object& alibi_slopes;
    const py::object& sink;
    const py::object& bias;
    const py::object& rng_state;
    float softmax_scale;
    bool causal;
    int window_left;
    int window_right;
    int attention_chunk;
    float softcap;
    double dropout_p;
    int max_seqlen_q;
    int max_seqlen_k;
};

AttentionParams read_call(const Call& call) {
    const bool varlen_q = !call.cu_seqlens_q.is_none();
    const bool paged = !call.block_table.is_none();
    const bool varlen_k = !call.cu_seqlens_k.is_none() && !paged;
    const TensorView q = view(call.q, "q");
    const TensorView k = view(call.k, "k");
    const TensorView v = view(call.v, "v");
    const TensorView out = view(call.out, "out");
    const TensorView lse = view(call.lse, "lse");

    AttentionParams params;
    params.dtype = element_dtype(q, "q");
    params.q_strides = strides_of(q, "q", varlen_q);
    params.k_strides = strides_of(k, "k", varlen_k);
    params.v_strides = strides_of(v, "v", varlen_k);
    params.out_strides = strides_of(out, "out", varlen_q);
    const bool fp8 = params.dtype == Dtype::kFloat8E4M3;
    expect(k.dtype == q.dtype && v.dtype == q.dtype && (fp8 || out.dtype == q.dtype),
           "q, k, v, out", "must share one dtype");
    if (fp8) {
        params.out_dtype = element_dtype(out, "out");
    }
    params.q = q.data;
    params.k = k.data;
    params.v = v.data;
    params.out = out.data;
    params.heads_q = static_cast<int32_t>(q.shape[q.ndim - 2]);
    params.heads_kv = static_cast<int32_t>(k.shape[k.ndim - 2]);
    params.headdim = static_cast<int32_t>(q.shape[q.ndim - 1]);
    params.headdim_v = static_cast<int32_t>(v.shape[v.ndim - 1]);
    params.seqlen_q = varlen_q ? call.max_seqlen_q : static_cast<int32_t>(q.shape[1]);
    params.seqlen_k = varlen_k ? call.max_seqlen_k : static_cast<int32_t>(k.shape[1]);
    params.total_rows_q = varlen_q ? q.shape[0] : 0;
    params.total_rows_k = varlen_k ? k.shape[0] : 0;
    if (varlen_q) {
        params.batch = static_cast<int32_t>(view(call.cu_seqlens_q, "cu_seqlens_q").shape[0] - 1);
    } else {
        params.batch = static_cast<int32_t>(q.shape[0]);
    }
    expect(k.shape[k.ndim - 1] == params.headdim, "k", "must have the headdim of q");
    expect(v.shape[v.ndim - 2] == params.heads_kv, "v", "must have the heads of k");
    expect(varlen_k || paged || !call.cache_batch_idx.is_none() || k.shape[0] == params.batch, "k",
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
    expect(lse.shape[lse.ndim - 1] == rows && lse.shape[lse.ndim - 2] == params.heads_q, "lse",
           "must have the shape (batch, heads_q, seqlen_q) or (heads_q, total_q)");
    expect(lse.stride[lse.ndim - 1] == 1 || rows <= 1, "lse",
           "must be contiguous in its last dimension");
    params.lse = static_cast<float*>(lse.data);
    params.lse_batch_stride = varlen_q ? 0 : lse.stride[0];
    params.lse_head_stride = lse.stride[lse.ndim - 2];

    params.cu_seqlens_q = lengths(call.cu_seqlens_q, "cu_seqlens_q", int64_t{params.batch} + 1);
    params.cu_seqlens_k = lengths(call.cu_seqlens_k, "cu_seqlens_k", int64_t{params.batch} + 1);
    params.seqused_q = lengths(call.seqused_q, "seqused_q", params.batch);
    params.seqused_k = lengths(call.seqused_k, "seqused_k", params.batch);
    fill_places(params, k, call.leftpad_k, call.cache_batch_idx, call.block_table);
    fill_alibi(params, call.alibi_slopes);
    fill_sink(params, call.sink);
    fill_bias(params, call.bias);
    fill_dropout(params, call.rng_state, call.dropout_p);
    params.softmax_scale = call.softmax_scale;
    params.causal = call.causal;
    params.window_left = call.window_left;
    params.window_right = call.window_right;
    params.attention_chunk = call.attention_chunk;
    params.softcap = call.softcap;
    return params;
}

// The view of a gradient, which has the shape and dtype of the tensor that it belongs to.
TensorView gradient(const py::object& object, const char* name, const TensorView& like,
                    const char* like_name) {
    const TensorView view = bindings::view(object, name);
    expect(view.dtype == like.dtype, name, std::string("must have the dtype of ") + like_name);
    expect(view.ndim == like.ndim && std::equal(view.shape, view.shape + view.ndim, like.shape),
           name, std::string("must have the shape of ") + like_name);
    return view;
}

// A contiguous float32 tensor of `count` elements.
float* contiguous_floats(const TensorView& tensor, const char* name, int64_t count) {
    require(tensor, name, ScalarType::kFloat32, -1);
    int64_t elements = 1;
    for (int i = tensor.ndim - 1; i >= 0; --i) {
        expect(tensor.stride[i] == elements || tensor.shape[i] <= 1, name, "must be contiguous");
        elements *= tensor.shape[i];
    }
    expect(elements == count, name,
           "has " + std::to_string(elements) + " elements, allowed: " + std::to_string(count));
    return static_cast<float*>(tensor.data);
}

void attention_forward(const py::object& q, const py::object& k, const py::object& v,
                       const py::object& out, const py::object& lse, const py::object& cu_seqlens_q,
                       const py::object& cu_seqlens_k, const py::object& seqused_q,
                       const py::object& seqused_k, const py::object& leftpad_k,
                       const py::object& cache_batch_idx, const py::object& block_table,
                       const py::object& alibi_slopes, const py::object& sink,
                       const py::object& bias, const py::object& rng_state,
                       const py::object& q_descale, const py::object& k_descale,
                       const py::object& v_descale, const py::object& workspace,
                       float softmax_scale, bool causal, int window_left, int window_right,
                       int attention_chunk, float softcap, double dropout_p, int max_seqlen_q,
                       int max_seqlen_k, int num_splits, bool batch_invariant, uintptr_t stream) {
    AttentionParams params = read_call({q,
                                        k,
                                        v,
                                        out,
                                        lse,
                                        cu_seqlens_q,
                                        cu_seqlens_k,
                                        seqused_q,
                                        seqused_k,
                                        leftpad_k,
                                        cache_batch_idx,
                                        block_table,
                                        alibi_slopes,
                                        sink,
                                        bias,
                                        rng_state,
                                        softmax_scale,
                                        causal,
                                        window_left,
                                        window_right,
                                        attention_chunk,
                                        softcap,
                                        dropout_p,
                                        max_seqlen_q,
                                        max_seqlen_k});
    fill_descales(params, q_descale, k_descale, v_descale);
    fill_split_workspace(params, workspace);
    params.num_splits = num_splits;
    params.batch_invariant = batch_invariant;
    raise(limelight::attention_forward(params, reinterpret_cast<CUstream_st*>(stream)));
}

void attention_backward(const py::object& dout_object, const py::object& dlse_object,
                        const py::object& dq_object, const py::object& dk_object,
                        const py::object& dv_object, const py::object& dbias_object,
                        const py::object& workspace, const py::object& q, const py::object& k,
                        const py::object& v, const py::object& out, const py::object& lse,
                        const py::object& cu_seqlens_q, const py::object& cu_seqlens_k,
                        const py::object& seqused_q, const py::object& seqused_k,
                        const py::object& alibi_slopes, const py::object& sink,
                        const py::object& bias, const py::object& rng_state, float softmax_scale,
                        bool causal, int window_left, int window_right, int attention_chunk,
                        float softcap, double dropout_p, int max_seqlen_q, int max_seqlen_k,
                        uintptr_t stream) {
    const py::object none = py::none();
    AttentionBackwardParams params;
    static_cast<AttentionParams&>(params) = read_call({q,
                                                       k,
                                                       v,
                                                       out,
                                                       lse,
                                                       cu_seqlens_q,
                                                       cu_seqlens_k,
                                                       seqused_q,
                                                       seqused_k,
                                                       none,
                                                       none,
                                                       none,
                                                       alibi_slopes,
                                                       sink,
                                                       bias,
                                                       rng_state,
                                                       softmax_scale,
                                                       causal,
                                                       window_left,
                                                       window_right,
                                                       attention_chunk,
                                                       softcap,
                                                       dropout_p,
                                                       max_seqlen_q,
                                                       max_seqlen_k});
    const bool varlen_q = params.cu_seqlens_q != nullptr;
    const bool varlen_k = params.cu_seqlens_k != nullptr;
    const TensorView dout = gradient(dout_object, "dout", view(out, "out"), "out");
    const TensorView dq = gradient(dq_object, "dq", view(q, "q"), "q");
    const TensorView dk = gradient(dk_object, "dk", view(k, "k"), "k");
    const TensorView dv = gradient(dv_object, "dv", view(v, "v"), "v");
    params.dout = dout.data;
    params.dq = dq.data;
    params.dk = dk.data;
    params.dv = dv.data;
    params.dout_strides = strides_of(dout, "dout", varlen_q);
    params.dq_strides = strides_of(dq, "dq", varlen_q);
    params.dk_strides = strides_of(dk, "dk", varlen_k);
    params.dv_strides = strides_of(dv, "dv", varlen_k);

    if (const auto dbias = optional_view(dbias_object, "dbias")) {
        expect(params.bias != nullptr, "dbias", "must be None without a bias");
        const TensorView like = view(bias, "bias");
        expect(dbias->dtype == like.dtype, "dbias", "must have the dtype of bias");
        params.dbias = dbias->data;
        params.dbias_strides = bias_strides(params, *dbias, "dbias");
        for (int i = 0; i < 4; ++i) {
            expect(like.shape[i] == 1 || dbias->shape[i] == like.shape[i], "dbias",
                   "must have the extents of bias where those are not 1");
        }
    }

    params.total_q = varlen_q ? dq.shape[0] : 0;
    const int64_t head_rows = varlen_q ? params.total_q : params.seqlen_q;
    const int64_t rows = head_rows * params.heads_q * (varlen_q ? 1 : params.batch);
    if (const auto dlse = optional_view(dlse_object, "dlse")) {
        params.dlse = contiguous_floats(*dlse, "dlse", rows);
        params.dlse_head_stride = head_rows;
        params.dlse_batch_stride = varlen_q ? 0 : head_rows * params.heads_q;
    }
    params.workspace = contiguous_floats(view(workspace, "workspace"), "workspace", 2 * rows);
    raise(limelight::attention_backward(params, reinterpret_cast<CUstream_st*>(stream)));
}

}  // namespace

void bind_attention(py::module_& module) {
    module.def("attention_forward", &attention_forward);
    module.def("attention_backward", &attention_backward);
}

}  // namespace limelight::bindings
