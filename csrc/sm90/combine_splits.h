// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "decode/params.h"
#include "sm90/plan.h"

namespace limelight::sm90 {

// How the partial results of a call whose keys are split are added up; `columns` of a tile's O.
inline CombineCall combine_call(const AttentionParams& call, int columns, int splits) {
    const SplitLayout layout(call, columns);
    const bool packed = call.cu_seqlens_q != nullptr;
    const int64_t rows = packed ? layout.rows : call.seqlen_q;
    const auto* const partial_out = static_cast<const float*>(call.split_workspace);
    CombineCall combine{};
    combine.dtype = call.dtype == Dtype::kFloat8E4M3 ? call.out_dtype : call.dtype;
    combine.splits = splits;
    combine.batch = packed ? 1 : call.batch;
    combine.seqlen = static_cast<int32_t>(rows);
    combine.heads = call.heads_q;
    combine.headdim = call.headdim_v;
    combine.partial_out = partial_out;
    combine.partial_lse = partial_out + splits * layout.out_elements;
    combine.out = call.out;
    combine.lse = call.lse;
    combine.partial_split_stride = layout.out_elements;
    const int64_t token_stride = call.heads_q * layout.columns;
    combine.partial_strides = {rows * token_stride, token_stride, layout.columns};
    combine.partial_lse_split_stride = layout.lse_elements;
    combine.partial_lse_batch_stride = layout.lse_batch_stride;
    combine.partial_lse_head_stride = layout.lse_head_stride;
    combine.partial_lse_row_stride = 1;
    combine.out_strides = call.out_strides;
    combine.lse_batch_stride = call.lse_batch_stride;
    combine.lse_head_stride = call.lse_head_stride;
    combine.lse_row_stride = 1;
    combine.sink = call.sink;
    combine.cu_seqlens = call.cu_seqlens_q;
    combine.sequences = call.batch;
    return combine;
}

}  // namespace limelight::sm90
