// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "arch/base.cuh"
#include "attention/params.h"

namespace limelight {

// The part of the output one thread block owns.
struct Tile {
    int batch;
    int head;
    int q_block;
};

// Grid: one block per tile, q blocks of one (batch, head) next to each other so that they share K
// and V in L2. Causal calls start with the last q block, which sees the most keys: longest tile
// first.
LIMELIGHT_DEVICE Tile tile_of_block(const FwdParams& params) {
    const int index = static_cast<int>(blockIdx.x);
    const int position = index % params.num_q_blocks;
    const int batch_head = index / params.num_q_blocks;
    Tile tile;
    tile.q_block = params.causal ? params.num_q_blocks - 1 - position : position;
    tile.head = batch_head % params.heads_q;
    tile.batch = batch_head / params.heads_q;
    return tile;
}

// Where one batch row lies in the tensors and how much of it takes part.
struct Sequence {
    int64_t q_row;    // first row of q, out and lse in their row dimension (varlen), else 0
    int64_t k_row;    // first row of k and v
    int64_t q_batch;  // batch index to multiply with the batch strides (dense), else 0
    int64_t k_batch;
    int q_extent;  // rows of q that exist
    int seqlen_q;  // rows of q that take part: the others get out = 0, lse = -inf
    int seqlen_k;  // keys that take part
    int k_extent;  // rows of k that exist
};

LIMELIGHT_DEVICE Sequence sequence_of(const FwdParams& params, int batch) {
    Sequence s;
    if (params.cu_seqlens_q != nullptr) {
        s.q_row = params.cu_seqlens_q[batch];
        s.q_batch = 0;
        s.q_extent = params.cu_seqlens_q[batch + 1] - static_cast<int>(s.q_row);
    } else {
        s.q_row = 0;
        s.q_batch = batch;
        s.q_extent = params.seqlen_q;
    }
    if (params.cu_seqlens_k != nullptr) {
        s.k_row = params.cu_seqlens_k[batch];
        s.k_batch = 0;
        s.k_extent = params.cu_seqlens_k[batch + 1] - static_cast<int>(s.k_row);
    } else {
        s.k_row = 0;
        s.k_batch = batch;
        s.k_extent = params.seqlen_k;
    }
    s.seqlen_q = s.q_extent;
    s.seqlen_k = s.k_extent;
    if (params.seqused_q != nullptr) {
        s.seqlen_q = min(s.q_extent, params.seqused_q[batch]);
    }
    if (params.seqused_k != nullptr) {
        s.seqlen_k = min(s.seqlen_k, params.seqused_k[batch]);
    }
    return s;
}

}  // namespace limelight
