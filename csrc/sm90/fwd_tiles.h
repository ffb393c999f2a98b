// SPDX-License-Identifier: BSD-3-Clause
// The tile table of the family: plain C++, for the kernels and for the host that chooses.
#pragma once

#include <cstddef>
#include <cstdint>

namespace limelight::sm90 {

// What the kernel does to scores before the softmax.
enum class Scores {
    kPlain,   // scale only
    kChange,  // softcap, ALiBi, bias, or a scale that is not positive
};

// Whether calls may hide keys inside the sequence.
enum class Visible {
    kAll,   // neither causal nor a window: every block is whole but the last
    kSome,  // wide blocks would hold more hidden keys than they save; serves the other calls too
};

struct FwdTile {
    int headdim;    // serves headdim up to this
    int headdim_v;  // serves headdim_v up to this
    Scores scores;
    Visible visible;
    int consumers;    // warpgroups of 64 rows of q each
    int block_kv;     // keys per step
    bool ping_pong;   // warpgroups take turns at the tensor cores: pays where O is small
    bool sum_column;  // the tensor cores add up the rounded P, as eight more columns of V that are
                      // ones: pays where instructions, not GEMMs, are the bound
};

// clang-format off
constexpr FwdTile kFwdTiles[] = {
    // headdim  headdim_v  scores            visible          consumers  block_kv  ping_pong  sum_column
    {64,        64,        Scores::kPlain,   Visible::kSome,  3,         128,      true,      true},
    {96,        96,        Scores::kPlain,   Visible::kSome,  3,         112,      true,      false},
    {128,       128,       Scores::kPlain,   Visible::kSome,  2,         128,      true,      false},
    {192,       128,       Scores::kPlain,   Visible::kSome,  2,         112,      false,     false},
    {192,       192,       Scores::kPlain,   Visible::kSome,  2,         112,      false,     false},
    {256,       256,       Scores::kPlain,   Visible::kSome,  2,         80,       false,     false},
    {64,        64,        Scores::kChange,  Visible::kSome,  3,         128,      true,      true},
    {96,        96,        Scores::kChange,  Visible::kSome,  3,         96,       true,      false},
    {128,       128,       Scores::kChange,  Visible::kSome,  2,         128,      true,      false},
    {192,       128,       Scores::kChange,  Visible::kSome,  2,         112,      false,     false},
    {192,       192,       Scores::kChange,  Visible::kSome,  2,         112,      false,     false},
    {256,       256,       Scores::kChange,  Visible::kSome,  2,         80,       false,     false},
    {128,       128,       Scores::kPlain,   Visible::kAll,   2,         160,      true,      false},
};
// clang-format on

// All zeros where there is no such row.
constexpr FwdTile find_fwd_tile(int headdim, int headdim_v, Scores scores,
                                Visible visible = Visible::kSome) {
    for (const FwdTile& tile : kFwdTiles) {
        if (tile.headdim == headdim && tile.headdim_v == headdim_v && tile.scores == scores &&
            tile.visible == visible) {
            return tile;
        }
    }
    return FwdTile{};
}

// Pages hold whole swizzle patterns of 8 rows, whatever box a block of keys is cut into.
constexpr int kPageMultiple = 8;

constexpr int kStages = 2;                 // slots of the K ring and of the V ring
constexpr size_t kSmemLimit = 227 * 1024;  // of one thread block on sm_90

// Q, the K and V rings, with O in the place of Q.
constexpr size_t smem_bytes_shared(const FwdTile& tile) {
    const int q_columns = tile.headdim > tile.headdim_v ? tile.headdim : tile.headdim_v;
    return size_t{2} * (tile.consumers * 64 * q_columns +
                        kStages * tile.block_kv * (tile.headdim + tile.headdim_v));
}

constexpr size_t kBarrierBytes = 1024;

// A panel of ones beside each slot of V.
constexpr size_t ones_bytes(const FwdTile& tile) {
    const int panel = tile.headdim_v % 64 == 0 ? 64 : 32;
    return tile.sum_column ? size_t{2} * kStages * tile.block_kv * panel : 0;
}

// O has its own memory where that fits: the next Q then arrives while O is stored.
constexpr bool owns_output(const FwdTile& tile) {
    return smem_bytes_shared(tile) + size_t{2} * tile.consumers * 64 * tile.headdim_v +
               ones_bytes(tile) + kBarrierBytes <=
           kSmemLimit;
}

constexpr size_t smem_bytes(const FwdTile& tile) {
    return smem_bytes_shared(tile) + ones_bytes(tile) + kBarrierBytes +
           (owns_output(tile) ? size_t{2} * tile.consumers * 64 * tile.headdim_v : 0);
}

}  // namespace limelight::sm90
