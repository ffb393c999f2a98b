// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "attention/divisor.h"
#include "limelight/attention.h"

namespace limelight {

// What a forward kernel receives: the caller's call plus what the host derived from it once.
struct FwdParams : AttentionParams {
    float scale_log2;       // softmax_scale * log2(e)
    float softcap_log2;     // softcap * log2(e)
    float softcap_inner;    // softmax_scale / softcap
    int32_t window_behind;  // keys visible before the diagonal, clamped so that sums fit in 32 bits
    int32_t window_ahead;   // keys visible after the diagonal
    Divisor chunk;          // by attention_chunk, clamped likewise, where that is not 0
    int32_t heads_per_kv;   // heads_q / heads_kv
    uint32_t dropout_threshold;  // in units of 2^-16; 0 keeps every element
    float dropout_scale;         // 1 / (1 - dropout_p)
    int32_t num_q_blocks;        // tiles of kBlockQ rows in the longest sequence
};

// What a backward kernel receives beside that; num_q_blocks and num_kv_blocks count the tiles of
// its own kernel.
struct BwdParams : FwdParams, AttentionGradients {
    float* delta;     // rowsum(dO * O) - dLSE; 0 for rows that saw no key
    float* lse_log2;  // lse in base 2; +inf for rows that saw no key, which makes their P zero
    int64_t statistics_batch_stride;  // of delta and lse_log2, whose rows are contiguous
    int64_t statistics_head_stride;
    int32_t num_kv_blocks;
};

// More tokens than a sequence can have; window bounds and lengths stay below it.
constexpr int32_t kMaxSeqlen = 1 << 28;

}  // namespace limelight
