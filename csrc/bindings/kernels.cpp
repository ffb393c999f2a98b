// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/kernels.h"

#include "limelight/limelight.h"

namespace py = pybind11;

namespace limelight::bindings {

namespace {

void append_kernels(py::list& result, const KernelInfo* infos, int count) {
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
}

py::list kernels() {
    py::list result;
    for (const auto list : {attention_forward_kernels, attention_backward_kernels,
                            attention_decode_kernels, flat_gemm_kernels}) {
        int count = 0;
        const KernelInfo* const infos = list(&count);
        append_kernels(result, infos, count);
    }
    return result;
}

// Of dense tensors total_q is 0; scores_by_head: ALiBi slopes or a bias.
size_t attention_forward_workspace(bool fp8, int batch, int heads_q, int heads_kv, int headdim,
                                   int headdim_v, int64_t total_q, int max_seqlen_q,
                                   int max_seqlen_k, bool scores_by_head, float softmax_scale,
                                   bool causal, int window_left, int window_right, float softcap,
                                   double dropout_p, int num_splits, bool batch_invariant) {
    const int32_t present = 0;  // of pointers only whether they are null is looked at
    AttentionParams params;
    params.dtype = fp8 ? Dtype::kFloat8E4M3 : Dtype::kBFloat16;
    params.batch = batch;
    params.heads_q = heads_q;
    params.heads_kv = heads_kv;
    params.headdim = headdim;
    params.headdim_v = headdim_v;
    params.seqlen_q = max_seqlen_q;
    params.seqlen_k = max_seqlen_k;
    params.total_rows_q = total_q;
    params.cu_seqlens_q = total_q > 0 ? &present : nullptr;
    params.bias = scores_by_head ? &present : nullptr;
    params.q_strides = params.out_strides = {1, 1, 1};
    params.softmax_scale = softmax_scale;
    params.causal = causal;
    params.window_left = window_left;
    params.window_right = window_right;
    params.softcap = softcap;
    params.dropout_p = dropout_p;
    params.num_splits = num_splits;
    params.batch_invariant = batch_invariant;
    return limelight::attention_forward_workspace(params);
}

}  // namespace

void bind_kernels(py::module_& module) {
    module.def("kernels", &kernels);
    module.def("attention_forward_workspace", &attention_forward_workspace);
}

}  // namespace limelight::bindings
