// SPDX-License-Identifier: BSD-3-Clause
// The tile table of the decode kernels: plain C++, for the kernels and for the host that chooses.
#pragma once

#include "sm80/fwd_tiles.h"

namespace limelight::sm80 {

struct DecodeTile {
    int headdim;  // serves headdim and headdim_v up to this
    Tiles tiles;
    int rows;        // packed rows: query tokens x heads of a kv head
    int block_kv;    // keys per step of all groups together
    int key_groups;  // the keys of a step are divided among so many groups of rows / 16 warps
    int slots;       // ring of K and V tiles, of 16-bit elements; FP8 has twice as many
    bool q_in_smem;  // the fragments of Q do not fit into registers beside O
};

constexpr int kFewRows = 16;
constexpr int kManyRows = 64;

// clang-format off
constexpr DecodeTile kDecodeTiles[] = {
    // headdim  tiles           rows        block_kv  key_groups  slots  q_in_smem
    {64,        Tiles::kLarge,  kFewRows,   64,       4,          8,     false},
    {128,       Tiles::kLarge,  kFewRows,   64,       4,          5,     false},
    {192,       Tiles::kLarge,  kFewRows,   64,       4,          3,     false},
    {256,       Tiles::kLarge,  kFewRows,   64,       4,          3,     true},
    {64,        Tiles::kLarge,  kManyRows,  64,       1,          8,     false},
    {128,       Tiles::kLarge,  kManyRows,  64,       1,          5,     false},
    {192,       Tiles::kLarge,  kManyRows,  32,       1,          5,     true},
    {256,       Tiles::kLarge,  kManyRows,  32,       1,          4,     true},
    {64,        Tiles::kSmall,  kFewRows,   64,       4,          8,     false},
    {128,       Tiles::kSmall,  kFewRows,   64,       4,          6,     false},
    {192,       Tiles::kSmall,  kFewRows,   64,       4,          4,     false},
    {256,       Tiles::kSmall,  kFewRows,   32,       2,          5,     true},
    {64,        Tiles::kSmall,  kManyRows,  64,       1,          8,     false},
    {128,       Tiles::kSmall,  kManyRows,  64,       1,          6,     false},
    {192,       Tiles::kSmall,  kManyRows,  32,       1,          5,     true},
    {256,       Tiles::kSmall,  kManyRows,  32,       1,          4,     true},
};
// clang-format on

constexpr DecodeTile find_decode_tile(int headdim, Tiles tiles, int rows) {
    for (const DecodeTile& tile : kDecodeTiles) {
        if (tile.headdim == headdim && tile.tiles == tiles && tile.rows == rows) {
            return tile;
        }
    }
    return DecodeTile{};
}

constexpr int decode_warps(const DecodeTile& tile) {
    return tile.rows / 16 * tile.key_groups;
}

constexpr size_t ring_bytes(const DecodeTile& tile) {
    return 2 * static_cast<size_t>(tile.headdim) * tile.block_kv * tile.slots;
}
// O of every group on its way out, over ring and Q; rows are padded against bank conflicts.
constexpr size_t staging_bytes(const DecodeTile& tile) {
    return 4 * static_cast<size_t>(tile.headdim + 16) * tile.rows * tile.key_groups;
}
constexpr size_t smem_bytes(const DecodeTile& tile) {
    const size_t q = tile.q_in_smem ? 2 * static_cast<size_t>(tile.headdim) * tile.rows : 0;
    const size_t tiles = ring_bytes(tile) + q;
    const size_t main = tiles > staging_bytes(tile) ? tiles : staging_bytes(tile);
    const size_t statistics = 16 * static_cast<size_t>(tile.rows) * (tile.key_groups + 1);
    return main + statistics + 512;
}

}  // namespace limelight::sm80
