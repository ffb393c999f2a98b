// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "limelight/attention.h"

namespace limelight {

/// What a decode call takes beside AttentionParams. Plain data, as there.
struct DecodeOptions {
    Dtype kv_dtype = Dtype::kBFloat16;  ///< of k and v: that of q, or kFloat8E4M3

    /// [batch, most rows, words] with contiguous words: bit j % 32 of word j / 32 of row i says
    /// that new token i sees new token j; the new tokens are the last seqlen_q keys. Every earlier
    /// key is visible. Excludes causal and window.
    const uint32_t* tree_mask = nullptr;
    int64_t tree_batch_stride = 0;
    int64_t tree_row_stride = 0;

    /// Unified-max softmax (FlashDecoding++, arXiv 2311.01282): partials are taken relative to
    /// unified_max (natural-log units of the final logits) instead of their own maxima. A range of
    /// keys whose largest logit leaves [unified_max - 6.9, unified_max + 8.9] is computed again the
    /// ordinary way. With batch_invariant, which fixes the ordinary way, it changes nothing.
    bool unified_max_on = false;
    float unified_max = 0.0f;

    void* workspace = nullptr;  ///< attention_decode_workspace bytes, 16-byte aligned
    size_t workspace_bytes = 0;
    int32_t* schedule = nullptr;  ///< what attention_decode_schedule wrote for the same lengths, or
                                  ///< null: the call makes its own. Used by one stream at a time.
    size_t schedule_elements = 0;
};

/// One decode call. block_table [batch, max_pages] makes k and v [num_pages, page_size, heads_kv,
/// headdim] with k_strides.batch the stride of a page; seqlen_k is then max_pages * page_size. k
/// and v may be views of one cache. Strides are multiples of 8 elements (FP8: 16). headdim above
/// 256 (multi-head latent attention: 576 with headdim_v 512) takes 16-bit keys whose first
/// headdim_v columns are the values: v == k, equal strides; unified_max changes nothing there.
struct DecodeParams : AttentionParams, DecodeOptions {};

/// Exact attention for few query rows per key: the query heads of a kv head and the query tokens
/// share one tile, so each key is read once, and the keys of all sequences are divided evenly over
/// the thread blocks (stream-K; LeanAttention, arXiv 2405.10480), whose partials the last one to
/// finish a tile merges in fixed order. Any seqlen_q: it is the paged prefill too. Asynchronous on
/// `stream`, no host sync, no allocation; the grid depends on nothing that only the device knows.
///
/// num_splits: 1 keeps each tile in one thread block, n > 1 gives at most n thread blocks per tile,
/// 0 lets the library choose. batch_invariant: a row's bits depend on its own query, keys and
/// absolute positions only, not on the batch, on seqlen_q or on the number of splits.
LIMELIGHT_API Status attention_decode(const DecodeParams& params, CUstream_st* stream);

/// Bytes of device workspace that attention_decode needs. Depends on extents, strides' absence and
/// options only, never on lengths that the device holds; the pointers may be null.
LIMELIGHT_API Status attention_decode_workspace(const DecodeParams& params, size_t* bytes);

/// Number of int32 elements of a schedule for `params`.
LIMELIGHT_API Status attention_decode_schedule_size(const DecodeParams& params, size_t* elements);

/// Writes the schedule that attention_decode would make for these lengths, so that the layers of a
/// model share it. Reads the lengths (cu_seqlens, seqused, leftpad_k), extents, causal, window,
/// num_splits and batch_invariant of `params`. A call in which one of these but the lengths differs
/// does not use it: right, but slow. For other lengths the rows come out wrong.
LIMELIGHT_API Status attention_decode_schedule(const DecodeParams& params, CUstream_st* stream);

/// Kernels compiled into the library; `count` receives their number.
LIMELIGHT_API const KernelInfo* attention_decode_kernels(int* count);

/// Merges partial results of the same rows over disjoint sets of keys by their log-sum-exp.
struct CombineParams {
    Dtype partial_dtype = Dtype::kFloat32;  ///< of partial_out: fp32, or the 16-bit dtype of out
    Dtype dtype = Dtype::kBFloat16;         ///< of out: 16 bits or fp32
    int32_t splits = 0;
    int32_t batch = 0;
    int32_t seqlen = 0;
    int32_t heads = 0;
    int32_t headdim = 0;
    const void* partial_out = nullptr;   ///< [splits, batch, seqlen, heads, headdim]
    const float* partial_lse = nullptr;  ///< [splits, batch, heads, seqlen] by its strides
    void* out = nullptr;                 ///< [batch, seqlen, heads, headdim]
    float* lse = nullptr;                ///< [batch, heads, seqlen] by its strides
    int64_t partial_split_stride = 0;
    TensorStrides partial_strides{};
    int64_t partial_lse_split_stride = 0;
    int64_t partial_lse_batch_stride = 0;
    int64_t partial_lse_head_stride = 0;
    int64_t partial_lse_row_stride = 0;
    TensorStrides out_strides{};
    int64_t lse_batch_stride = 0;
    int64_t lse_head_stride = 0;
    int64_t lse_row_stride = 0;
};

/// out = sum of exp(lse_s - lse) * out_s in the order of the splits, lse = log(sum of exp(lse_s)).
/// A split with lse = -inf counts for nothing, whatever its out holds; rows with no other split get
/// out = 0, lse = -inf. lse = +inf counts as -inf, FlashAttention-2's mark of a row without keys.
LIMELIGHT_API Status attention_combine(const CombineParams& params, CUstream_st* stream);

}  // namespace limelight
