// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <vector_types.h>

#include "attention/params.h"
#include "limelight/decode.h"

namespace limelight {

// What fixes a schedule beside the lengths: the host decides it from extents alone.
struct SchedulePlan {
    int32_t tile_rows;      // packed rows (query tokens x heads of a kv head) of an M tile
    int32_t unit_keys;      // keys of the smallest piece of work, at absolute multiples of it
    int32_t max_ctas;       // thread blocks of the grid
    int32_t min_units;      // fewer per thread block are not worth a partial
    int32_t ctas_per_tile;  // at most so many thread blocks share a tile on average; 0: any number
    uint32_t key;           // tells plans and extents apart
    bool whole_tiles;       // a tile stays in the thread block where it begins
    bool piece_per_unit;    // each unit is summed alone and folded in order: batch_invariant
};

// What a decode kernel receives: the call, what the host derived from it, where its parts of the
// workspace lie.
struct DecodeCall : FwdParams, DecodeOptions {
    SchedulePlan plan;
    int32_t slots;            // partial results that the workspace holds, at least 2 a thread block
    int32_t slot_rows;        // rows of a slot: those of a tile that can exist
    float* slot_out;          // [slots, slot_rows, headdim of the kernel]
    float4* slot_statistics;  // [2, slots, slot_rows]
};

// What the combine kernel receives.
struct CombineCall : CombineParams {
    const float* sink;          // [heads] one more natural-log logit in each row's sum; may be null
    const int32_t* cu_seqlens;  // [sequences + 1] rows outside of them are left alone; may be null
    int32_t sequences;
};

}  // namespace limelight
