// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>

#include "host/tensor_map.h"
#include "sm90/fwd_tiles.h"

namespace limelight::sm90 {

// The tensors of a call as tensor maps see them: packed sequences are one batch of all rows, a page
// is a batch of page_size rows.
struct Tensors {
    TensorExtents q;
    TensorExtents k;
    TensorExtents v;
    TensorExtents out;
};

inline Tensors tensors_of(const AttentionParams& p) {
    const bool packed_q = p.cu_seqlens_q != nullptr;
    const bool paged = p.block_table != nullptr;
    const bool packed_k = p.cu_seqlens_k != nullptr && !paged;
    const int64_t batch_q = packed_q ? 1 : p.batch;
    const int64_t rows_q = packed_q ? p.total_rows_q : p.seqlen_q;
    const int64_t rows_k = paged ? p.page_size : packed_k ? p.total_rows_k : p.seqlen_k;
    const bool named = paged || p.cache_batch_idx != nullptr;  // by numbers in device memory
    const int64_t batch_k = named      ? p.total_rows_k / std::max<int64_t>(rows_k, 1)
                            : packed_k ? 1
                                       : p.batch;
    const Dtype out_dtype = p.dtype == Dtype::kFloat8E4M3 ? p.out_dtype : p.dtype;
    return {{p.dtype, p.q, batch_q, rows_q, p.heads_q, p.headdim, p.q_strides},
            {p.dtype, p.k, batch_k, rows_k, p.heads_kv, p.headdim, p.k_strides},
            {p.dtype, p.v, batch_k, rows_k, p.heads_kv, p.headdim_v, p.v_strides},
            {out_dtype, p.out, batch_q, rows_q, p.heads_q, p.headdim_v, p.out_strides}};
}

// Whether K and V must be copied row by row: TMA does not load their pages.
inline bool gathers(const AttentionParams& p) {
    if (p.block_table == nullptr) {
        return false;
    }
    const Tensors tensors = tensors_of(p);
    return p.page_size % kPageMultiple != 0 || !check_tensor_map("k", tensors.k).ok() ||
           !check_tensor_map("v", tensors.v).ok();
}

}  // namespace limelight::sm90
