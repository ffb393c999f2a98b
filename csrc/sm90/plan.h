// SPDX-License-Identifier: BSD-3-Clause
// How the rows of a call are cut into tiles; plain C++.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "attention/params.h"

namespace limelight::sm90 {

inline bool changes_scores(const AttentionParams& call) {
    return call.softcap > 0.0f || call.alibi_slopes != nullptr || call.bias != nullptr ||
           !(call.softmax_scale > 0.0f);
}

// Whether every row sees every key of its sequence.
inline bool sees_all(const AttentionParams& call) {
    return !call.causal && call.window_left < 0 && call.window_right < 0;
}

struct TileShape {
    int block_q;
    int block_kv;
};

// What the host decides about a call beside its tile.
struct WorkPlan {
    int32_t sm_count;
    int32_t pack_shift;  // 2^pack_shift query heads of a kv head share a tile
};

// Query heads of a tile at most: a warpgroup's 64 rows hold whole rows of q.
constexpr int kMostPackedHeads = 64;
// Rows of q times heads of a tile, so that indices of packed rows fit in 32 bits.
constexpr int64_t kMostPackedRows = 1 << 30;

constexpr int64_t ceil_quotient(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// Blocks of a group of heads: of one batch row, or room for all packed sequences together.
inline int64_t count_q_blocks(const AttentionParams& call, int block_q, int pack_shift) {
    return call.cu_seqlens_q != nullptr
               ? (call.total_rows_q << pack_shift) / block_q + call.batch
               : ceil_quotient(int64_t{call.seqlen_q} << pack_shift, block_q);
}

// Tiles of a call; of packed sequences as if all had the same length.
inline int64_t count_tiles(const AttentionParams& call, int block_q, int pack_shift) {
    const int64_t rows =
        call.cu_seqlens_q != nullptr ? ceil_quotient(call.total_rows_q, call.batch) : call.seqlen_q;
    return ceil_quotient(rows << pack_shift, block_q) * (call.heads_q >> pack_shift) * call.batch;
}

// Heads are packed where that makes fewer tiles. Not with scores that differ by head, and not
// where one head stands for all (stride 0), which a box of several heads does not express.
inline int32_t choose_pack_shift(const AttentionParams& call, int block_q) {
    const int heads = std::gcd(call.heads_q / call.heads_kv, kMostPackedHeads);
    int32_t shift = 0;
    while (2 << shift <= heads) {
        ++shift;
    }
    const bool by_head = call.alibi_slopes != nullptr || call.bias != nullptr;
    const bool expanded = call.q_strides.head == 0 || call.out_strides.head == 0;
    const int64_t rows = call.cu_seqlens_q != nullptr ? call.total_rows_q : call.seqlen_q;
    const bool fewer = count_tiles(call, block_q, shift) < count_tiles(call, block_q, 0);
    return by_head || expanded || rows << shift > kMostPackedRows || !fewer ? 0 : shift;
}

inline WorkPlan plan_work(const AttentionParams& call, const TileShape& tile, int sm_count) {
    return {sm_count, choose_pack_shift(call, tile.block_q)};
}

}  // namespace limelight::sm90
