// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "attention/scheduler.cuh"

namespace limelight {

// Which keys the rows [q_begin, q_end) of one sequence see; causal, window and the sequence end in
// one rule.
//   row r sees columns [r + shift - behind, min(seqlen_k, r + shift + ahead + 1))
struct Mask {
    const FwdParams& params;
    int seqlen_k;
    int shift;  // seqlen_k - seqlen_q: bottom-right alignment

    LIMELIGHT_DEVICE Mask(const FwdParams& params, const Sequence& sequence)
        : params(params),
          seqlen_k(sequence.seqlen_k),
          shift(sequence.seqlen_k - sequence.seqlen_q) {}

    LIMELIGHT_DEVICE int first_column(int row) const {
        return max(0, row + shift - params.window_behind);
    }
    LIMELIGHT_DEVICE int end_column(int row) const {
        return min(seqlen_k, row + shift + params.window_ahead + 1);
    }
};

// KV blocks that a q tile visits, [begin, end), and among them those that every row sees whole,
// [full_begin, full_end).
struct KvBlocks {
    int begin;
    int end;
    int full_begin;
    int full_end;

    LIMELIGHT_DEVICE KvBlocks(const Mask& mask, int q_begin, int q_end, int block_kv) {
        const int last_row = q_end - 1;
        begin = mask.first_column(q_begin) / block_kv;
        end = ceil_div(max(mask.end_column(last_row), 0), block_kv);
        full_begin = ceil_div(mask.first_column(last_row), block_kv);
        full_end = max(mask.end_column(q_begin), 0) / block_kv;
    }

    LIMELIGHT_DEVICE bool full(int block) const { return block >= full_begin && block < full_end; }
};

// The same from the side of the keys [k_begin, k_end): q blocks [begin, end) that hold rows which
// see one of them.
struct QBlocks {
    int begin;
    int end;

    LIMELIGHT_DEVICE QBlocks(const Mask& mask, int seqlen_q, int k_begin, int k_end, int block_q) {
        const int first_row = max(0, k_begin - mask.shift - mask.params.window_ahead);
        const int end_row = min(seqlen_q, k_end - mask.shift + mask.params.window_behind);
        begin = first_row / block_q;
        end = ceil_div(max(end_row, 0), block_q);
    }
};

// Whether each row of [q_begin, q_end) sees each key of [k_begin, k_end), all of them existing.
LIMELIGHT_DEVICE bool sees_whole(const Mask& mask, int seqlen_q, int q_begin, int q_end,
                                 int k_begin, int k_end) {
    return q_end <= seqlen_q && mask.first_column(q_end - 1) <= k_begin &&
           k_end <= mask.end_column(q_begin);
}

}  // namespace limelight
