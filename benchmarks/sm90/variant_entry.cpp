// SPDX-License-Identifier: BSD-3-Clause
// csrc/sm90's forward launch behind a plain C function: what each variant's library exports.
// Tensors are contiguous, (batch, seqlen, heads, headdim) or packed (total, heads, headdim).
#include <cstdint>

#include "host/forward_sm90.h"

namespace {

using limelight::TensorStrides;

TensorStrides contiguous(int64_t rows, int64_t heads, int64_t columns) {
    return {rows * heads * columns, heads * columns, columns};
}

}  // namespace

// variant_run.py has the same fields in the same order.
struct VariantCall {
    const void* q;
    const void* k;
    const void* v;
    void* out;
    float* lse;                   // (batch, heads_q, seqlen_q) or (heads_q, total_q)
    const int32_t* cu_seqlens_q;  // null: not packed
    const int32_t* cu_seqlens_k;
    int64_t total_q;
    int64_t total_k;
    void* stream;
    int32_t dtype;
    int32_t batch;
    int32_t seqlen_q;
    int32_t seqlen_k;
    int32_t heads_q;
    int32_t heads_kv;
    int32_t headdim;
    int32_t headdim_v;
    int32_t causal;
    int32_t window_left;
    int32_t window_right;
    int32_t sm_count;
    float softmax_scale;
};

// Null, or what is wrong: valid until the thread's next call.
extern "C" __attribute__((visibility("default"))) const char* variant_forward(
    const VariantCall* c) {
    limelight::AttentionParams call;
    call.dtype = static_cast<limelight::Dtype>(c->dtype);
    call.batch = c->batch;
    call.heads_q = c->heads_q;
    call.heads_kv = c->heads_kv;
    call.headdim = c->headdim;
    call.headdim_v = c->headdim_v;
    call.seqlen_q = c->seqlen_q;
    call.seqlen_k = c->seqlen_k;
    call.q = c->q;
    call.k = c->k;
    call.v = c->v;
    call.out = c->out;
    call.lse = c->lse;
    call.q_strides = contiguous(c->seqlen_q, c->heads_q, c->headdim);
    call.k_strides = contiguous(c->seqlen_k, c->heads_kv, c->headdim);
    call.v_strides = contiguous(c->seqlen_k, c->heads_kv, c->headdim_v);
    call.out_strides = contiguous(c->seqlen_q, c->heads_q, c->headdim_v);
    const bool packed = c->cu_seqlens_q != nullptr;
    call.lse_head_stride = packed ? c->total_q : c->seqlen_q;
    call.lse_batch_stride = packed ? 0 : call.lse_head_stride * c->heads_q;
    call.cu_seqlens_q = c->cu_seqlens_q;
    call.cu_seqlens_k = c->cu_seqlens_k;
    call.total_rows_q = c->total_q;
    call.total_rows_k = c->total_k;
    call.softmax_scale = c->softmax_scale;
    call.causal = c->causal != 0;
    call.window_left = c->window_left;
    call.window_right = c->window_right;
    limelight::Device device{};
    device.sm_count = c->sm_count;
    static thread_local limelight::Status status;
    status = limelight::launch_sm90_forward(call, device, static_cast<cudaStream_t>(c->stream));
    return status.ok() ? nullptr : status.message();
}
