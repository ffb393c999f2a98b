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
LIMELIGHT_DEVICE int first_packed_block(const FwdKernelParams& params, int batch) {
    return (params.call.cu_seqlens_q[batch] << params.pack_shift) / kBlockQ + batch;
}

// The packed sequence that block `block` belongs to.
template <int kBlockQ>
LIMELIGHT_DEVICE int sequence_at(const FwdKernelParams& params, int block) {
    int low = 0;
    int high = params.call.batch;
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

struct SplitTile : Tile {
    int split;
};

// Without sections: q blocks of one group of heads next to each other, so that they share K and V
// in L2. With sections: the last q blocks, which see the most keys, of all groups of a section
// first; the K and V of one section fit into L2. A dense call has batch * groups of them here, and
// each split of the keys is one more.
template <int kBlockQ>
LIMELIGHT_DEVICE SplitTile tile_at(const FwdKernelParams& params, int index) {
    SplitTile tile;
    int group;
    if (params.section_groups > 0) {
        const int section = params.by_section_tiles.quotient(index);
        const int position = index - section * params.section_tiles;
        const bool last = (section + 1) * params.section_tiles > params.num_items;
        const Divisor& by_heads = last ? params.by_last_groups : params.by_section_groups;
        const int from_last = by_heads.quotient(position);
        tile.q_block = params.q_blocks - 1 - from_last;
        group = section * params.section_groups + position -
                from_last * static_cast<int>(by_heads.divisor);
    } else {
        group = params.by_q_blocks.quotient(index);
        tile.q_block = index - group * params.q_blocks;
    }
    tile.split = group;
    group = params.by_splits.quotient(group);
    tile.split -= group * params.splits;
    if (params.call.cu_seqlens_q != nullptr) {
        tile.batch = sequence_at<kBlockQ>(params, tile.q_block);
        tile.q_block -= first_packed_block<kBlockQ>(params, tile.batch);
    } else {
        tile.batch = params.by_groups.quotient(group);
        group -= tile.batch * params.groups;
    }
    tile.head = group << params.pack_shift;
    return tile;
}

// One sequence of the call. Keys before leftpad are left out as if the sequence began behind them.
template <class Config>
LIMELIGHT_DEVICE Sequence cached_sequence_of(const FwdParams& call, int batch) {
    Sequence s = sequence_of(call, batch);
    if (call.block_table != nullptr) {
        s.k_row = 0;
        s.k_batch = batch;
    }
    if (call.cache_batch_idx != nullptr) {
        s.k_batch = call.cache_batch_idx[batch];
    }
    if constexpr (Config::kLeftpad) {
        if (call.leftpad_k != nullptr) {
            const int leftpad = max(call.leftpad_k[batch], 0);
            s.k_row += leftpad;
            s.seqlen_k -= leftpad;
        }
    }
    return s;
}

// One tile and what it visits. Its rows are counted within the sequence and its group of heads: a
// row of q has 2^shift of them, one for each head.
template <class Config>
struct Work {
    SplitTile tile;  // with the first of its heads
    Sequence sequence;
    int q_begin;  // first row
    int first_token;
    KvBlocks blocks;

    LIMELIGHT_DEVICE Work(const FwdKernelParams& params, int index)
        : tile(tile_at<Config::kBlockQ>(params, index)),
          sequence(cached_sequence_of<Config>(params.call, tile.batch)),
          q_begin(tile.q_block * Config::kBlockQ),
          first_token(q_begin >> params.pack_shift),
          blocks(Mask(params.call, sequence), first_token,
                 min(token(params, q_begin + Config::kBlockQ), sequence.seqlen_q),
                 Config::kBlockKV) {
        if (first_token >= sequence.seqlen_q) {
            blocks.end = blocks.begin;  // only rows past seqused_q: nothing to load
        }
        const int count = max(blocks.end - blocks.begin, 0);
        const int share = params.by_splits.quotient(count + params.splits - 1);
        blocks.begin += tile.split * share;
        blocks.end = min(blocks.end, blocks.begin + share);
    }

    // The row of q inside the sequence, and the head, of a row of the tile.
    LIMELIGHT_DEVICE int token(const FwdKernelParams& params, int row) const {
        return row >> params.pack_shift;
    }
    LIMELIGHT_DEVICE int head(const FwdKernelParams& params, int row) const {
        return tile.head + (row & ((1 << params.pack_shift) - 1));
    }
    // In 32 bits, which takes half the registers of keeping them.
    LIMELIGHT_DEVICE int q_row() const { return static_cast<int>(sequence.q_row); }
    LIMELIGHT_DEVICE int q_batch() const { return static_cast<int>(sequence.q_batch); }

    template <class Element>
    LIMELIGHT_DEVICE Element* out_row(const FwdKernelParams& params, int row) const {
        const TensorStrides& strides = params.call.out_strides;
        return static_cast<Element*>(params.call.out) + q_batch() * strides.batch +
               (q_row() + token(params, row)) * strides.row + head(params, row) * strides.head;
    }

    LIMELIGHT_DEVICE bool exists() const { return first_token < sequence.q_extent; }
    LIMELIGHT_DEVICE bool loads() const { return exists() && blocks.begin < blocks.end; }

    // Some row of the tile sees keys [first_key, end_key); none sees others.
    LIMELIGHT_DEVICE int first_key(const FwdKernelParams& params) const {
        return Mask(params.call, sequence).first_column(first_token);
    }
    LIMELIGHT_DEVICE int end_key(const FwdKernelParams& params) const {
        const int end = min(token(params, q_begin + Config::kBlockQ), sequence.seqlen_q);
        return Mask(params.call, sequence).end_column(end - 1);
    }

    // Whether the block's V reaches past the sequence into memory of others; only the last can.
    LIMELIGHT_DEVICE bool has_tail(const FwdKernelParams& params, int block) const {
        return params.clear_v_tails && (block + 1) * Config::kBlockKV > sequence.seqlen_k;
    }
};

}  // namespace limelight::sm90
