// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda.h>

#include "attention/divisor.h"
#include "attention/params.h"

namespace limelight::sm90 {

// A tensor as TMA sees it: (columns, rows, heads, batch), or q and out (columns, heads, rows,
// batch). A dimension that the tensor expands (stride 0) has extent 1 in the map, and its
// coordinate is multiplied by 0.
struct TensorView {
    CUtensorMap map;
    int32_t head_step;
    int32_t batch_step;
};

// What the kernel receives.
struct FwdKernelParams {
    FwdParams call;
    TensorView q;
    TensorView k;
    TensorView v;
    TensorView out;
    int32_t pack_shift;  // a tile's row m is row m >> shift of q, of head m % 2^shift of a group
    int32_t groups;      // of 2^shift query heads of one kv head each
    int32_t splits;      // > 1: each tile is so many items, with a part of its keys each
    float* split_out;  // their O, normalised: [splits, split_rows, heads_q, headdim_v of the tile]
    int64_t split_rows;
    int64_t lse_split_stride;  // their lse is in call.lse; there is no sink
    int32_t num_items;         // tiles, or their splits
    int32_t q_blocks;          // of a group: of one batch row, or of all packed sequences together
    int32_t section_groups;    // > 0: longest tiles first within sections of so many groups; each
                               // split counts as one more
    int32_t section_tiles;     // of a whole section
    Divisor by_q_blocks;       // no sections
    Divisor by_section_tiles;
    Divisor by_section_groups;
    Divisor by_last_groups;  // of the last section, which may hold fewer
    Divisor by_groups;
    Divisor by_splits;
    Divisor by_heads_per_kv;
    bool gather;         // K and V are copied row by row: no box of a tensor map holds their pages
    bool clear_v_tails;  // rows of V past a sequence are memory of others, not out of bounds
    // A block of K or V in pages is loaded in pieces, the largest parts that no page's end cuts.
    int32_t pieces;
    int32_t piece_rows;
    int32_t page_rows;  // without pages: more than there are
    Divisor by_page_rows;
    uint32_t num_pages;
};

}  // namespace limelight::sm90
