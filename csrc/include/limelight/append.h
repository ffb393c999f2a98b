// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "limelight/attention.h"

namespace limelight {

/// Strides in elements of a (batch, heads_kv) tensor of scales; 0 broadcasts.
struct ScaleStrides {
    int64_t batch;
    int64_t head;
};

/// New keys and values for a cache, and the rotary embedding of keys and queries, in one pass.
///
/// Token i of sequence b goes to position cache_seqlens[b] + i of its row or pages, or token t to
/// slot slot_mapping[t]. Values are copied bit for bit where the cache has their dtype; a
/// float8_e4m3 cache gets x / scale, saturated to +-448. Rotary embedding (Su et al., 2021,
/// arXiv 2104.09864) turns the first rotary_dim features in fp32, keys by their position, queries
/// by cache_seqlens[b] (+ i where rotate_q_by_row), and rounds once; positions beyond the tables
/// take their last row. Tokens past cu_seqlens_k_new[batch], slots below 0 and whatever would fall
/// outside of the cache or its block table are not stored.
///
/// Plain data: pointers are device memory owned by the caller, null where a feature is not used.
struct AppendParams {
    Dtype dtype = Dtype::kBFloat16;        ///< of k, v and q: float16 or bfloat16
    Dtype cache_dtype = Dtype::kBFloat16;  ///< dtype, or float8_e4m3
    int32_t batch = 0;
    int32_t heads_q = 0;
    int32_t heads_kv = 0;
    int32_t headdim = 0;
    int32_t headdim_v = 0;
    int32_t seqlen_new = 0;  ///< dense k and v: tokens of each sequence
    int32_t seqlen_q = 0;    ///< dense q: tokens of each sequence
    int32_t total_new = 0;   ///< tokens of k and v: batch * seqlen_new where they are dense
    int32_t total_q = 0;     ///< tokens of q: batch * seqlen_q where it is dense

    const void* k = nullptr;  ///< [batch, seqlen_new, heads_kv, headdim] or [total_new, ...]
    const void* v = nullptr;  ///< [batch, seqlen_new, heads_kv, headdim_v] or [total_new, ...]
    TensorStrides k_strides{};
    TensorStrides v_strides{};
    void* k_cache = nullptr;  ///< [cache_rows, cache_row_size, heads_kv, headdim]: rows or pages
    void* v_cache = nullptr;  ///< [cache_rows, cache_row_size, heads_kv, headdim_v]
    TensorStrides k_cache_strides{};
    TensorStrides v_cache_strides{};
    int32_t cache_rows = 0;
    int32_t cache_row_size = 0;

    const int32_t* cache_seqlens = nullptr;     ///< [batch] tokens in the cache before the call
    const int32_t* cu_seqlens_k_new = nullptr;  ///< [batch + 1] prefix sums: k and v are varlen
    const int32_t* cache_batch_idx = nullptr;   ///< [batch] the cache's row of each sequence
    const int32_t* block_table = nullptr;       ///< [batch, max_pages]: rows are pages
    int64_t block_table_stride = 0;
    int32_t max_pages = 0;
    const int64_t* slot_mapping = nullptr;  ///< [total_new] row * cache_row_size + place in it

    const float* k_scale = nullptr;  ///< [batch, heads_kv], any strides; null for 1
    const float* v_scale = nullptr;
    ScaleStrides k_scale_strides{};
    ScaleStrides v_scale_strides{};

    const void* rotary_cos = nullptr;  ///< [rotary_rows, rotary_dim / 2]
    const void* rotary_sin = nullptr;
    Dtype rotary_dtype = Dtype::kFloat32;  ///< float16, bfloat16 or float32
    int64_t rotary_cos_stride = 0;
    int64_t rotary_sin_stride = 0;
    int32_t rotary_rows = 0;
    int32_t rotary_dim = 0;
    bool rotary_interleaved = true;  ///< pairs (0, 1), (2, 3), ...; otherwise (f, f + half)

    const void* q = nullptr;  ///< [batch, seqlen_q, heads_q, headdim] or [total_q, ...]
    void* q_out = nullptr;    ///< q rotated, of q's shape
    TensorStrides q_strides{};
    TensorStrides q_out_strides{};
    const int32_t* cu_seqlens_q = nullptr;  ///< [batch + 1] prefix sums: q and q_out are varlen
    bool rotate_q_by_row = false;           ///< query i by cache_seqlens + i: causal and windowed

    int32_t* seqlens_out = nullptr;  ///< [batch] receives cache_seqlens + new tokens
};

/// Asynchronous on `stream` of the current device; errors are found before anything is launched.
LIMELIGHT_API Status append_kv(const AppendParams& params, CUstream_st* stream);

}  // namespace limelight
