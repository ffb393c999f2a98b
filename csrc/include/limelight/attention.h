// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>

#include "limelight/export.h"
#include "limelight/status.h"

struct CUstream_st;

namespace limelight {

enum class Dtype : int32_t { kFloat16 = 0, kBFloat16 = 1, kFloat32 = 2, kFloat8E4M3 = 3 };

/// Strides in elements of a (batch, seqlen, heads, headdim) tensor; the last dimension is
/// contiguous. Varlen tensors (total, heads, headdim) use row and head only.
struct TensorStrides {
    int64_t batch;
    int64_t row;
    int64_t head;
};

/// Strides in elements of a (batch, heads, seqlen_q, seqlen_k) bias; 0 broadcasts.
struct BiasStrides {
    int64_t batch;
    int64_t head;
    int64_t row;
    int64_t col;
};

/// Strides in elements of a (batch, heads_kv) tensor of factors; 0 repeats one.
struct DescaleStrides {
    int64_t batch;
    int64_t head;
};

/// One attention call. Plain data: pointers are device memory owned by the caller, null where a
/// feature is not used.
///
/// Key j is visible to row i iff i + seqlen_k - seqlen_q - window_left <= j <= i + seqlen_k -
/// seqlen_q + window_right
/// (-1 = unbounded; causal sets window_right = 0). With attention_chunk > 0 rows and keys are cut
/// into chunks of so many tokens from the first key (leftpad_k) on, and j has to lie in the chunk
/// of i + seqlen_k - seqlen_q. Score: s = softmax_scale * q.k, then softcap * tanh(s / softcap),
/// then - alibi_slope * |i + seqlen_k - seqlen_q - j|, then + bias. `sink` is one more logit per
/// head in the denominator only. lse is the natural log of the denominator; a row that sees no key
/// gets out = 0, lse = -inf.
///
/// A field that a kernel does not serve makes the call return Status::Code::kUnsupported; none is
/// ignored.
struct AttentionParams {
    Dtype dtype = Dtype::kBFloat16;      ///< of q, k and v, and of out unless it is kFloat8E4M3
    Dtype out_dtype = Dtype::kBFloat16;  ///< of out where dtype is kFloat8E4M3: 16 bits
    int32_t batch = 0;
    int32_t heads_q = 0;
    int32_t heads_kv = 0;   ///< divides heads_q
    int32_t headdim = 0;    ///< of q and k: multiple of 8, at most 256
    int32_t headdim_v = 0;  ///< of v and out: multiple of 8, at most 256
    int32_t seqlen_q = 0;   ///< dense: extent; varlen: upper bound of every sequence
    int32_t seqlen_k = 0;   ///< dense: extent; varlen: upper bound of every sequence

    const void* q =
        nullptr;  ///< [batch, seqlen_q, heads_q, headdim] or [total_q, heads_q, headdim]
    const void* k =
        nullptr;  ///< [batch, seqlen_k, heads_kv, headdim] or [total_k, heads_kv, headdim]
    const void* v =
        nullptr;  ///< [batch, seqlen_k, heads_kv, headdim_v] or [total_k, heads_kv, headdim_v]
    void* out =
        nullptr;  ///< [batch, seqlen_q, heads_q, headdim_v] or [total_q, heads_q, headdim_v]
    TensorStrides q_strides{};
    TensorStrides k_strides{};
    TensorStrides v_strides{};
    TensorStrides out_strides{};
    int64_t total_rows_q = 0;  ///< varlen: rows that q and out hold; 0 (unknown) rules out kernels
                               ///< that copy by tensor map
    int64_t total_rows_k = 0;  ///< varlen, paged, cache_batch_idx: rows (of all pages, of all batch
                               ///< rows) that k and v hold, likewise

    float* lse = nullptr;  ///< [batch, heads_q, seqlen_q] or [heads_q, total_q]
    int64_t lse_batch_stride = 0;
    int64_t lse_head_stride = 0;

    const int32_t* cu_seqlens_q = nullptr;  ///< [batch + 1] prefix sums: q, out and lse are varlen
    const int32_t* cu_seqlens_k = nullptr;  ///< [batch + 1] prefix sums: k and v are varlen
    const int32_t* seqused_q = nullptr;  ///< [batch] only the first rows of each sequence take part
    const int32_t* seqused_k = nullptr;  ///< [batch] only the first keys of each sequence take part
    const int32_t* leftpad_k = nullptr;  ///< [batch] first valid key of each sequence
    const int32_t* cache_batch_idx =
        nullptr;  ///< [batch] row of k and v that belongs to a batch row
    const int32_t* block_table =
        nullptr;  ///< [batch, max_pages]: k and v are [num_pages, page_size, ...]
    int64_t block_table_stride = 0;
    int32_t page_size = 0;

    float softmax_scale = 0.0f;
    bool causal = false;
    int32_t window_left = -1;
    int32_t window_right = -1;
    int32_t attention_chunk = 0;  ///< 0: off
    float softcap = 0.0f;
    const float* alibi_slopes = nullptr;  ///< [heads_q] or [batch, heads_q]
    int64_t alibi_batch_stride = 0;       ///< 0: one slope per head for the whole batch
    const float* sink = nullptr;          ///< [heads_q]
    const void* bias =
        nullptr;  ///< [batch, heads_q, seqlen_q, seqlen_k], broadcast by zero strides
    Dtype bias_dtype = Dtype::kFloat32;
    BiasStrides bias_strides{};

    double dropout_p = 0.0;  ///< in [0, 1); double, so that every caller rounds it to one threshold
    const uint64_t* rng_state =
        nullptr;  ///< [2] Philox seed and offset, read on the device; needed when dropout_p > 0
    const float* q_descale = nullptr;  ///< [batch, heads_kv]: kFloat8E4M3 q times its own factor,
    const float* k_descale = nullptr;  ///< for the query heads that share the kv head; null for 1
    const float* v_descale = nullptr;
    DescaleStrides q_descale_strides{};
    DescaleStrides k_descale_strides{};
    DescaleStrides v_descale_strides{};
    int32_t num_splits = 0;  ///< 0: the library chooses
    bool deterministic = false;
    bool batch_invariant = false;

    void* split_workspace = nullptr;   ///< attention_forward only: 16-byte aligned memory for the
                                       ///< partial results of split keys; null: one split
    size_t split_workspace_bytes = 0;  ///< what attention_forward_workspace tells, or less
};

/// Exact attention after FlashAttention-2 (Dao, 2023, arXiv 2307.08691), asynchronous on `stream`
/// of the current device. Errors are found before anything is launched, except those that only the
/// device sees.
///
/// Where the tiles of a call do not fill the device and its keys are long, the keys of a tile are
/// split over several thread blocks (Flash-Decoding, Dao et al., 2023), whose partial results a
/// second kernel adds up in the order of the splits: equal inputs give equal bits. num_splits: 0
/// lets the library choose, 1 never splits, n asks for n where the kernel splits at all and a tile
/// has so many blocks of keys; batch_invariant never splits here. The partial results lie in
/// split_workspace: a call without one runs unsplit, one with less than it asks for in as many
/// splits as fit; both are right.
LIMELIGHT_API Status attention_forward(const AttentionParams& params, CUstream_st* stream);

/// Bytes of split_workspace that attention_forward uses for `params` on the current device: 0 where
/// it does not split. Depends on extents, strides and options only, never on lengths that the
/// device holds, so that a captured call keeps it; pointers of outputs may be null.
LIMELIGHT_API size_t attention_forward_workspace(const AttentionParams& params);

/// What a backward call reads and writes beside AttentionParams. Tensors have the layouts of the
/// tensors they belong to.
struct AttentionGradients {
    const void* dout = nullptr;  ///< gradient of out
    TensorStrides dout_strides{};
    const float* dlse = nullptr;  ///< gradient of lse; null for zero
    int64_t dlse_batch_stride = 0;
    int64_t dlse_head_stride = 0;

    void* dq = nullptr;
    void* dk = nullptr;
    void* dv = nullptr;
    TensorStrides dq_strides{};
    TensorStrides dk_strides{};
    TensorStrides dv_strides{};

    void* dbias =
        nullptr;  ///< in bias_dtype, null where it is not wanted; every element is written
    BiasStrides dbias_strides{};  ///< 0 sums over the dimension; else part of the sum over a
                                  ///< dimension that the bias broadcasts over

    int64_t total_q = 0;         ///< varlen: rows that q, out and lse hold
    float* workspace = nullptr;  ///< attention_backward_workspace bytes
};

/// One backward call. `out` and `lse` are inputs here: what attention_forward wrote for the same
/// fields.
struct AttentionBackwardParams : AttentionParams, AttentionGradients {};

/// Gradients of sum(dout * out) + sum(dlse * lse) with respect to q, k, v and bias, by
/// recomputation after FlashAttention-2 (Dao, 2023), asynchronous on `stream` of the current
/// device. One kernel owns blocks of keys and sums dK and dV over the query heads that share them,
/// another owns blocks of queries and sums dQ, a third owns tiles of dbias and sums what the bias
/// broadcasts over: no atomics, every sum has a fixed order, equal inputs give equal bits. Rows
/// that saw no key, and rows and keys past seqused, get zeros; q and dout of rows with lse = -inf
/// must be finite. Paged keys are refused.
///
/// On return of the stream the workspace holds, for each row, delta = rowsum(dout * out) - dlse and
/// then lse * log2(e), each laid out as a contiguous lse, 0 and +inf for rows that saw no key: with
/// them the gradient of the sink is -sum over rows of exp2(sink * log2(e) - lse_log2) * delta.
LIMELIGHT_API Status attention_backward(const AttentionBackwardParams& params, CUstream_st* stream);

/// Bytes of device workspace that attention_backward needs: two floats a row.
LIMELIGHT_API size_t attention_backward_workspace(const AttentionBackwardParams& params);

/// One compiled kernel, for tables of what a build holds.
struct KernelInfo {
    const char* name;    ///< e.g. "sm80_fwd_hdim128"
    const char* op;      ///< "forward" or "backward"
    const char* family;  ///< "sm80", "sm90" or "sm90_fp8"
    int32_t headdim;     ///< tile: serves every headdim and headdim_v up to this
    int32_t block_q;     ///< forward: rows of q a thread block owns; backward: rows of q per step
    int32_t block_kv;    ///< forward: keys per step; backward: keys a thread block owns
    int32_t warps;
    int32_t stages;
    int32_t smem_bytes;  ///< dynamic shared memory of one thread block
    const char* tiles;  ///< sm80: "large" (>= 160 KB of shared memory) or "small" (99 KB); "hopper"
};

/// Kernels compiled into the library; `count` receives their number.
LIMELIGHT_API const KernelInfo* attention_forward_kernels(int* count);
LIMELIGHT_API const KernelInfo* attention_backward_kernels(int* count);

/// Whether the current device can load this library's kernels; the message says why not.
LIMELIGHT_API Status check_device();

}  // namespace limelight
