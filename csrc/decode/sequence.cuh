// SPDX-License-Identifier: BSD-3-Clause
// What an M tile of a sequence covers: packed rows and the keys that they see.
#pragma once

#include "attention/mask.cuh"
#include "decode/params.h"

namespace limelight {

// One sequence of a decode call. Packed row r is query token r / heads_per_kv, head r %
// heads_per_kv of its kv head.
struct DecodeSequence : Sequence {
    int leftpad;  // keys before it do not exist

    LIMELIGHT_DEVICE DecodeSequence(const DecodeCall& call, int batch)
        : Sequence(sequence_of(call, batch)),
          leftpad(call.leftpad_k == nullptr ? 0 : max(call.leftpad_k[batch], 0)) {
        if (call.cache_batch_idx != nullptr) {
            k_batch = call.cache_batch_idx[batch];
        }
        if (call.block_table != nullptr) {
            k_row = 0;
            k_batch = batch;
        }
        seqlen_k = max(seqlen_k, 0);
    }
};

// M tiles that hold rows of the sequence, those past seqused_q included.
LIMELIGHT_DEVICE int m_tiles(const DecodeCall& call, const Sequence& sequence) {
    return ceil_div(sequence.q_extent * call.heads_per_kv, call.plan.tile_rows);
}

// Keys [begin, end) that at least one row of an M tile sees; begin >= end: none.
struct TileKeys {
    int begin;
    int end;

    LIMELIGHT_DEVICE TileKeys(const DecodeCall& call, const DecodeSequence& sequence, int m_tile) {
        const Mask mask(call, sequence, sequence.leftpad);
        const int first = m_tile * call.plan.tile_rows / call.heads_per_kv;
        const int last =
            min((m_tile + 1) * call.plan.tile_rows - 1, sequence.seqlen_q * call.heads_per_kv - 1) /
            call.heads_per_kv;
        begin = max(mask.first_column(first), sequence.leftpad);
        end = first < sequence.seqlen_q ? mask.end_column(last) : 0;
        if (begin >= end) {
            begin = end = 0;
        }
    }

    // Units of work: pieces of unit_keys keys at absolute positions; a tile without keys has one,
    // because its rows must be written.
    LIMELIGHT_DEVICE int units(int unit_keys) const {
        return begin >= end ? 1 : ceil_div(end, unit_keys) - begin / unit_keys;
    }
};

}  // namespace limelight
