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

// Packed sequence `batch` owns the blocks from here to the next one's first: one more than its rows
// fill at most, however its ends lie.
template <int kBlockQ>
LIMELIGHT_DEVICE int first_packed_block(const FwdParams& params, int batch) {
    return params.cu_seqlens_q[batch] / kBlockQ + batch;
}

// The packed sequence that block `block` belongs to.
template <int kBlockQ>
LIMELIGHT_DEVICE int sequence_at(const FwdParams& params, int block) {
    int low = 0;
    int high = params.batch;
#pragma unroll 1
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (first_packed_block<kBlockQ>(params, middle) <= block) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// Without sections: q blocks of one head next to each other, so that they share K and V in L2. With
// sections: the last q blocks, which see the most keys, of all heads of a section first; the K and
// V of one section fit into L2. A dense call has batch * heads_q heads here, a packed one heads_q.
template <int kBlockQ>
LIMELIGHT_DEVICE Tile tile_at(const FwdKernelParams& params, int index) {
    Tile tile;
    int head;
    if (params.section_heads > 0) {
        const int section = params.by_section_tiles.quotient(index);
        const int position = index - section * params.section_tiles;
        const bool last = (section + 1) * params.section_tiles > params.num_tiles;
        const Divisor& by_heads = last ? params.by_last_heads : params.by_section_heads;
        const int from_last = by_heads.quotient(position);
        tile.q_block = params.q_blocks - 1 - from_last;
        head = section * params.section_heads + position -
               from_last * static_cast<int>(by_heads.divisor);
    } else {
        head = params.by_q_blocks.quotient(index);
        tile.q_block = index - head * params.q_blocks;
    }
    if (params.call.cu_seqlens_q != nullptr) {
        tile.head = head;
        tile.batch = sequence_at<kBlockQ>(params.call, tile.q_block);
        tile.q_block -= first_packed_block<kBlockQ>(params.call, tile.batch);
    } else {
        tile.batch = params.by_heads_q.quotient(head);
        tile.head = head - tile.batch * params.call.heads_q;
    }
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
        : tile(tile_at<Config::kBlockQ>(params, index)),
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
