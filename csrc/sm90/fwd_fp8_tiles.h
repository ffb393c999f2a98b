// SPDX-License-Identifier: BSD-3-Clause
// The tile table of the FP8 forward kernels: plain C++, for the kernels and for the host that
// chooses.
#pragma once

#include "sm90/fwd_tiles.h"

namespace limelight::sm90 {

struct Fp8Tile {
    int headdim;    // serves headdim up to this
    int headdim_v;  // serves headdim_v up to this
    Scores scores;
    int block_kv;  // keys per step
    int parts;     // O += P V in so many groups of columns, one after the other
    bool overlap;  // the next S and its softmax run beside P V: costs the registers of S
};

// Beside O and P a thread holds fresh accumulators for one part of O. With those of S as well the
// compiler has too few registers from headdim_v 128 on and serialises the GEMMs (C7511); there the
// turns of the two warpgroups alone hide the softmax, which takes about as long as the GEMMs.
// clang-format off
constexpr Fp8Tile kFp8Tiles[] = {
    // headdim  headdim_v  scores            block_kv  parts  overlap
    {64,        64,        Scores::kPlain,   128,      1,     true},
    {128,       128,       Scores::kPlain,   128,      1,     false},
    {192,       128,       Scores::kPlain,   128,      1,     false},
    {256,       256,       Scores::kPlain,   64,       4,     false},
    {64,        64,        Scores::kChange,  128,      1,     true},
    {128,       128,       Scores::kChange,  128,      1,     false},
    {192,       128,       Scores::kChange,  128,      1,     false},
    {256,       256,       Scores::kChange,  64,       4,     false},
};
// clang-format on

constexpr Fp8Tile find_fp8_tile(int headdim, int headdim_v, Scores scores) {
    for (const Fp8Tile& tile : kFp8Tiles) {
        if (tile.headdim == headdim && tile.headdim_v == headdim_v && tile.scores == scores) {
            return tile;
        }
    }
    return Fp8Tile{};
}

constexpr int kFp8Consumers = 2;
constexpr int kOnesRows = 8;  // rows of ones under V transposed: their column of O is the row sum

// Q, the rings of K, V and V transposed, O.
constexpr size_t fp8_smem_bytes(const Fp8Tile& tile) {
    const int rows_q = 64 * kFp8Consumers;
    return size_t{1} * rows_q * (tile.headdim + 2 * tile.headdim_v) +
           size_t{1} * kStages * tile.block_kv * (tile.headdim + 2 * tile.headdim_v + kOnesRows) +
           kBarrierBytes;
}

}  // namespace limelight::sm90
