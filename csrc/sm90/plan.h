// SPDX-License-Identifier: BSD-3-Clause
// How a call is cut into tiles, and their keys into splits; plain C++.
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
    int headdim_v;
};

// What the host decides about a call beside its tile.
struct WorkPlan {
    int32_t sm_count;
    int32_t pack_shift = 0;  // 2^pack_shift query heads of a kv head share a tile
    int32_t splits = 1;      // work items of a tile, each with a part of its keys
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

// The partial results of one split: out [rows, heads_q, headdim_v of the tile] of all sequences and
// lse [batch, heads_q, seqlen_q] or [heads_q, total_q], both fp32. In the workspace the out of all
// splits comes first. Whole tiles, as tests for columns cost registers in the kernel's main loop.
struct SplitLayout {
    int64_t columns;
    int64_t rows;
    int64_t out_elements;
    int64_t lse_elements;
    int64_t lse_batch_stride;
    int64_t lse_head_stride;

    SplitLayout(const AttentionParams& call, int columns) : columns(columns) {
        const bool packed = call.cu_seqlens_q != nullptr;
        rows = packed ? call.total_rows_q : int64_t{call.batch} * call.seqlen_q;
        lse_elements = rows * call.heads_q;
        out_elements = lse_elements * columns;
        lse_head_stride = packed ? rows : call.seqlen_q;
        lse_batch_stride = packed ? 0 : lse_head_stride * call.heads_q;
    }
    int64_t bytes() const { return (out_elements + lse_elements) * int64_t{sizeof(float)}; }
};

// Blocks of keys that the tile with the most of them visits.
inline int64_t count_kv_blocks(const AttentionParams& call, const TileShape& tile, int pack_shift) {
    const int64_t all = std::max<int64_t>(ceil_quotient(call.seqlen_k, tile.block_kv), 1);
    const int64_t ahead = call.causal ? 0 : call.window_right;
    if (call.window_left < 0 || ahead < 0) {
        return all;
    }
    const int64_t window = call.window_left + ahead + (tile.block_q >> pack_shift);
    return std::min(all, ceil_quotient(window, tile.block_kv) + 1);
}

constexpr int kMostSplits = 256;
constexpr int64_t kMostItems = 1 << 30;

// Cycles that a call takes with its keys in so many splits, from rates of the hardware: rounds of
// items, each a start and its blocks at the speed of the tensor cores; then a second kernel that
// reads what they wrote. Estimates, not measurements.
struct SplitCost {
    static constexpr int64_t kMultiplyAdds = 2048;    // of a multiprocessor a cycle; 8 bits: twice
    static constexpr int64_t kStart = 4000;           // first loads, last output, stores
    static constexpr int64_t kCombine = 8000;         // launch and drain of a kernel
    static constexpr int64_t kCombineOneSplit = 100;  // a warp adds them one after the other
    static constexpr int64_t kBytes = 2000;           // of all multiprocessors a cycle
    int64_t tiles;
    int64_t blocks;
    int64_t block_cycles;
    int64_t split_bytes;
    int64_t sm_count;

    int64_t cycles(int64_t splits) const {
        const int64_t rounds = ceil_quotient(tiles * splits, sm_count);
        const int64_t items = rounds * (kStart + ceil_quotient(blocks, splits) * block_cycles);
        const int64_t combine = kCombine + splits * (kCombineOneSplit + 2 * split_bytes / kBytes);
        return splits == 1 ? items : items + combine;
    }
};

// Keys are split where that saves a tenth of the estimated time: few tiles, long keys.
inline int32_t choose_splits(const AttentionParams& call, const TileShape& tile, int pack_shift,
                             int sm_count) {
    const int64_t tiles = count_tiles(call, tile.block_q, pack_shift);
    const int64_t blocks = count_kv_blocks(call, tile, pack_shift);
    const int64_t most =
        std::min<int64_t>({blocks, kMostSplits, kMostItems / std::max<int64_t>(tiles, 1)});
    if (call.batch_invariant || call.num_splits == 1 || most < 2) {
        return 1;
    }
    if (call.num_splits > 1) {
        return static_cast<int32_t>(std::min<int64_t>(call.num_splits, most));
    }
    const int64_t rate = SplitCost::kMultiplyAdds * (call.dtype == Dtype::kFloat8E4M3 ? 2 : 1);
    const int64_t block_cycles =
        int64_t{tile.block_q} * tile.block_kv * (call.headdim + call.headdim_v) / rate;
    const SplitCost cost{tiles, blocks, block_cycles, SplitLayout(call, tile.headdim_v).bytes(),
                         sm_count};
    if (tiles > 4 * int64_t{sm_count}) {  // many rounds: the last one weighs little
        return 1;
    }
    int64_t best = 1;
    int64_t best_cycles = cost.cycles(1) * 9 / 10;
    for (int64_t splits = 2; splits <= most; ++splits) {
        const int64_t cycles = cost.cycles(splits);
        if (cycles < best_cycles) {
            best = splits;
            best_cycles = cycles;
        }
    }
    return static_cast<int32_t>(best);
}

// Splits need memory for their partial results: as many as the call's workspace holds.
inline WorkPlan plan_work(const AttentionParams& call, const TileShape& tile, int sm_count) {
    WorkPlan plan{sm_count, choose_pack_shift(call, tile.block_q), 1};
    if (call.split_workspace != nullptr) {
        const int64_t held = static_cast<int64_t>(call.split_workspace_bytes) /
                             SplitLayout(call, tile.headdim_v).bytes();
        const int64_t wanted = choose_splits(call, tile, plan.pack_shift, sm_count);
        plan.splits = static_cast<int32_t>(std::max<int64_t>(std::min(wanted, held), 1));
    }
    return plan;
}

}  // namespace limelight::sm90
