// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "attention/scheduler.cuh"

namespace limelight {

// Which keys the rows [q_begin, q_end) of one sequence see; causal, window, chunks and the sequence
// end in one rule.
//   row r sees columns [r + shift - behind, min(seqlen_k, r + shift + ahead + 1)) of its chunk
struct Mask {
    const FwdParams& params;
    int seqlen_k;
    int shift;      // seqlen_k - seqlen_q: bottom-right alignment
    int first_key;  // where the first chunk begins
    bool chunks;

    // Of a kernel that refuses attention_chunk: no code for it.
    LIMELIGHT_DEVICE Mask(const FwdParams& params, const Sequence& sequence)
        : params(params),
          seqlen_k(sequence.seqlen_k),
          shift(sequence.seqlen_k - sequence.seqlen_q),
          first_key(0),
          chunks(false) {}

    LIMELIGHT_DEVICE Mask(const FwdParams& params, const Sequence& sequence, int first_key)
        : Mask(params, sequence) {
        this->first_key = first_key;
        chunks = true;
    }

    // First column of the chunk that a column lies in; before the first key one that ends there.
    LIMELIGHT_DEVICE int chunk_begin(int column) const {
        const int chunk = static_cast<int>(params.chunk.divisor);
        const int key = column - first_key;
        return first_key + (key < 0 ? -chunk : params.chunk.quotient(key) * chunk);
    }
    LIMELIGHT_DEVICE int chunk_end(int column) const {
        return chunk_begin(column) + static_cast<int>(params.chunk.divisor);
    }

    LIMELIGHT_DEVICE int first_column(int row) const {
        int first = row + shift - params.window_behind;
        if (chunks && params.attention_chunk > 0) {
            first = max(first, chunk_begin(row + shift));
        }
        return max(0, first);
    }
    LIMELIGHT_DEVICE int end_column(int row) const {
        int end = row + shift + params.window_ahead + 1;
        if (chunks && params.attention_chunk > 0) {
            end = min(end, chunk_end(row + shift));
        }
        return min(seqlen_k, end);
    }

    // The rows that see a column, any number of them where the column is a key.
    LIMELIGHT_DEVICE int first_row(int column) const {
        int first = column - params.window_ahead;
        if (chunks && params.attention_chunk > 0) {
            first = max(first, chunk_begin(column));
        }
        return max(0, first - shift);
    }
    LIMELIGHT_DEVICE int end_row(int column) const {
        int end = column + params.window_behind + 1;
        if (chunks && params.attention_chunk > 0) {
            end = min(end, chunk_end(column));
        }
        return min(seqlen_k, end) - shift;
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

    LIMELIGHT_DEVICE QBlocks(const Mask& mask, int k_begin, int k_end, int block_q) {
        begin = mask.first_row(k_begin) / block_q;
        end = ceil_div(max(mask.end_row(k_end - 1), 0), block_q);
    }
};

// Whether each row of [q_begin, q_end) sees each key of [k_begin, k_end), all of them existing.
LIMELIGHT_DEVICE bool sees_whole(const Mask& mask, int seqlen_q, int q_begin, int q_end,
                                 int k_begin, int k_end) {
    return q_end <= seqlen_q && mask.first_column(q_end - 1) <= k_begin &&
           k_end <= mask.end_column(q_begin);
}

}  // namespace limelight
