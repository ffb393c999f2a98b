// SPDX-License-Identifier: BSD-3-Clause
// Which tiles a thread block computes, in which order; the same for all of its warps.
#pragma once

#include "attention/mask.cuh"
#include "sm90/fwd_params.h"

namespace limelight::sm90 {

// The grid has one block per SM (or per tile), which walks the list of tiles in rounds: forwards in
// even rounds, backwards in odd ones, so that in a list sorted by length the sums come out even.
LIMELIGHT_DEVICE int tile_index(int round) {
    const int blocks = static_cast<int>(gridDim.x);
    const int block = static_cast<int>(blockIdx.x);
    return round * blocks + (round % 2 == 0 ? block : blocks - 1 - block);
}

// Without sections: q blocks of one head next to each other, so that they share K and V in L2. With
// sections: the longest q blocks of all heads of a section first; the K and V of one fit into L2.
LIMELIGHT_DEVICE Tile tile_at(const FwdKernelParams& params, int index) {
    Tile tile;
    int batch_head;
    if (params.section_heads > 0) {
        const int section = params.by_section_tiles.quotient(index);
        const int position = index - section * params.section_tiles;
        const bool last = (section + 1) * params.section_tiles > params.num_tiles;
        const Divisor& by_heads = last ? params.by_last_heads : params.by_section_heads;
        const int from_longest = by_heads.quotient(position);
        tile.q_block = params.call.num_q_blocks - 1 - from_longest;
        batch_head = section * params.section_heads + position -
                     from_longest * static_cast<int>(by_heads.divisor);
    } else {
        batch_head = params.by_q_blocks.quotient(index);
        tile.q_block = index - batch_head * params.call.num_q_blocks;
    }
    tile.batch = params.by_heads_q.quotient(batch_head);
    tile.head = batch_head - tile.batch * params.call.heads_q;
    return tile;
}

// One tile and what it visits.
template <class Config>
struct Work {
    Tile tile;
    Sequence sequence;
    int q_begin;
    KvBlocks blocks;

    LIMELIGHT_DEVICE Work(const FwdKernelParams& params, int index)
        : tile(tile_at(params, index)),
          sequence(sequence_of(params.call, tile.batch)),
          q_begin(tile.q_block * Config::kBlockQ),
          blocks(Mask(params.call, sequence), q_begin,
                 min(q_begin + Config::kBlockQ, sequence.seqlen_q), Config::kBlockKV) {
        if (q_begin >= sequence.seqlen_q) {
            blocks.end = blocks.begin;  // only rows past seqused_q: nothing to load
        }
    }

    LIMELIGHT_DEVICE bool exists() const { return q_begin < sequence.q_extent; }
    LIMELIGHT_DEVICE bool loads() const { return exists() && blocks.begin < blocks.end; }

    // Whether the block's V reaches past the sequence into memory of others; only the last can.
    LIMELIGHT_DEVICE bool has_tail(const FwdKernelParams& params, int block) const {
        return params.clear_v_tails && (block + 1) * Config::kBlockKV > sequence.seqlen_k;
    }
};

}  // namespace limelight::sm90
