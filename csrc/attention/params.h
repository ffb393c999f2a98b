// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "limelight/attention.h"

namespace limelight {

// What a forward kernel receives: the caller's call plus what the host derived from it once.
struct FwdParams : AttentionParams {
    float scale_log2;       // softmax_scale * log2(e)
    float softcap_log2;     // softcap * log2(e)
    float softcap_inner;    // softmax_scale / softcap
    int32_t window_behind;  // keys visible before the diagonal, clamped so that sums fit in 32 bits
    int32_t window_ahead;   // keys visible after the diagonal
    int32_t heads_per_kv;   // heads_q / heads_kv
    int32_t num_q_blocks;   // tiles of kBlockQ rows in the longest sequence
};

// More tokens than a sequence can have; window bounds and lengths stay below it.
constexpr int32_t kMaxSeqlen = 1 << 28;

}  // namespace limelight
