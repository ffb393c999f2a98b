// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "limelight/gemm.h"

namespace limelight {

// What a GEMM kernel receives: the call and what the host works out of it.
//
// Work is counted in units: one k block of one tile of weight rows, tile after tile. Each thread
// block has a run of units; a tile that several thread blocks share is summed by the last of them.
struct GemmParams : FlatGemmParams {
    int32_t tiles;     // of weight rows
    int32_t k_blocks;  // units of a tile
    int32_t blocks;    // thread blocks
    int32_t pieces;    // thread blocks of a tile, or 0: all thread blocks get equal runs of units

    // Scale of (row, k): weight_scale[(row >> scale_row_shift) * scale_row_stride
    //                                 + (k >> scale_k_shift)], times scale_factor.
    int64_t scale_row_stride;
    int32_t scale_row_shift;
    int32_t scale_k_shift;

    // workspace: [2 * blocks][tile] partial sums, of a block's first tile and of its last one.
    // tickets: arrivals at a shared tile, by its first thread block.
};

}  // namespace limelight
