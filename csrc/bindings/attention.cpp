// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/attention.h"

#include <string>

#include "bindings/tensor.h"

namespace py = pybind11;

namespace limelight::bindings {

namespace {

void raise(const Status& status) {
    if (status.ok()) {
        return;
    }
    if (status.code() == Status::Code::kInvalidArgument) {
        throw py::value_error(status.message());
    }
    throw std::runtime_error(status.message());
}

void expect(bool holds, const char* name, const std::string& problem) {
    if (!holds) {
        throw py::value_error(std::string(name) + " " + problem);
    }
}

// (batch, seqlen, heads, headdim), or (total, heads, headdim) when varlen.
TensorStrides strides_of(const TensorView& tensor, const char* name, bool varlen) {
    const int ndim = varlen ? 3 : 4;
    expect(tensor.ndim == ndim, name,
           "has " + std::to_string(tensor.ndim) + " dimensions, allowed: " + std::to_string(ndim));
    expect(tensor.stride[ndim - 1] == 1 || tensor.shape[ndim - 1] <= 1, name,
           "must be contiguous in its last dimension");
    return {varlen ? 0 : tensor.stride[0], tensor.stride[ndim - 3], tensor.stride[ndim - 2]};
}

// A (batch,) or (batch + 1,) vector of lengths, or null for None.
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

// (batch, heads_q, seqlen_q, seqlen_k), each extent 1 or full.
void fill_bias(AttentionParams& params, const py::handle& object) {
    const auto bias = optional_view(object, "bias");
    if (!bias) {
        return;
    }
    expect(bias->ndim == 4, "bias",
           "has " + std::to_string(bias->ndim) + " dimensions, allowed: 4");
    const int64_t full[] = {params.batch, params.heads_q, params.seqlen_q, params.seqlen_k};
    int64_t strides[4];
    for (int i = 0; i < 4; ++i) {
        expect(bias->shape[i] == 1 || bias->shape[i] == full[i], "bias",
               "has extent " + std::to_string(bias->shape[i]) + " in dimension " +
                   std::to_string(i) + ", allowed: 1 or " + std::to_string(full[i]));
        strides[i] = bias->shape[i] == 1 ? 0 : bias->stride[i];
    }
    params.bias = bias->data;
    params.bias_dtype = element_dtype(*bias, "bias");
    params.bias_strides = {strides[0], strides[1], strides[2], strides[3]};
}

void attention_forward(const py::object& q_object, const py::object& k_object,
                       const py::object& v_object, const py::object& out_object,
                       const py::object& lse_object, const py::object& cu_seqlens_q,
                       const py::object& cu_seqlens_k, const py::object& seqused_q,
                       const py::object& seqused_k, const py::object& alibi_slopes,
                       const py::object& sink, const py::object& bias, float softmax_scale,
                       bool causal, int window_left, int window_right, float softcap,
                       int max_seqlen_q, int max_seqlen_k, uintptr_t stream) {
    const bool varlen_q = !cu_seqlens_q.is_none();
    const bool varlen_k = !cu_seqlens_k.is_none();
    const TensorView q = view(q_object, "q");
    const TensorView k = view(k_object, "k");
    const TensorView v = view(v_object, "v");
    const TensorView out = view(out_object, "out");
    const TensorView lse = view(lse_object, "lse");

    AttentionParams params;
    params.dtype = element_dtype(q, "q");
    params.q_strides = strides_of(q, "q", varlen_q);
    params.k_strides = strides_of(k, "k", varlen_k);
    params.v_strides = strides_of(v, "v", varlen_k);
    params.out_strides = strides_of(out, "out", varlen_q);
    expect(k.dtype == q.dtype && v.dtype == q.dtype && out.dtype == q.dtype, "q, k, v, out",
           "must share one dtype");
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
    if (varlen_q) {
        params.batch = static_cast<int32_t>(view(cu_seqlens_q, "cu_seqlens_q").shape[0] - 1);
    } else {
        params.batch = static_cast<int32_t>(q.shape[0]);
    }
    expect(k.shape[k.ndim - 1] == params.headdim, "k", "must have the headdim of q");
    expect(v.shape[v.ndim - 2] == params.heads_kv, "v", "must have the heads of k");
    expect(varlen_k || (k.shape[0] == params.batch && v.shape[0] == params.batch), "k and v",
           "must have the batch of q");
    for (int i = 0; i < k.ndim - 2; ++i) {
        expect(v.shape[i] == k.shape[i], "v", "must have the sequence lengths of k");
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

    params.cu_seqlens_q = lengths(cu_seqlens_q, "cu_seqlens_q", int64_t{params.batch} + 1);
    params.cu_seqlens_k = lengths(cu_seqlens_k, "cu_seqlens_k", int64_t{params.batch} + 1);
    params.seqused_q = lengths(seqused_q, "seqused_q", params.batch);
    params.seqused_k = lengths(seqused_k, "seqused_k", params.batch);
    fill_alibi(params, alibi_slopes);
    fill_sink(params, sink);
    fill_bias(params, bias);
    params.softmax_scale = softmax_scale;
    params.causal = causal;
    params.window_left = window_left;
    params.window_right = window_right;
    params.softcap = softcap;
    raise(limelight::attention_forward(params, reinterpret_cast<CUstream_st*>(stream)));
}

py::list kernels() {
    int count = 0;
    const KernelInfo* const infos = attention_forward_kernels(&count);
    py::list result;
    for (int i = 0; i < count; ++i) {
        const KernelInfo& info = infos[i];
        py::dict entry;
        entry["name"] = info.name;
        entry["op"] = info.op;
        entry["family"] = info.family;
        entry["headdim"] = info.headdim;
        entry["block_q"] = info.block_q;
        entry["block_kv"] = info.block_kv;
        entry["warps"] = info.warps;
        entry["stages"] = info.stages;
        entry["smem_bytes"] = info.smem_bytes;
        entry["tiles"] = info.tiles;
        result.append(entry);
    }
    return result;
}

}  // namespace

void bind_attention(py::module_& module) {
    module.def("attention_forward", &attention_forward);
    module.def("kernels", &kernels);
}

}  // namespace limelight::bindings
