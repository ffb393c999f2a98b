// SPDX-License-Identifier: BSD-3-Clause
// The tile table of the MLA decode kernel: plain C++, for the kernel and for the host that chooses.
#pragma once

#include "sm80/decode_tiles.h"

namespace limelight::sm80 {

// Multi-head latent attention as it is served: V is the first columns of K's rows.
constexpr int kMlaHeadDim = 576;
constexpr int kMlaHeadDimV = 512;

struct MlaTile {
    Tiles tiles;
    int rows;      // packed rows: query tokens x heads of a kv head
    int block_kv;  // keys per step; 16 rows x 16 keys of the scores are one part
    int warps;     // share the columns of O, and headdim where there are fewer parts
    int slots;     // ring of blocks of K
};

// clang-format off
constexpr MlaTile kMlaTiles[] = {
    // tiles         rows      block_kv  warps  slots
    {Tiles::kLarge,  kFewRows,  32,       8,     3},
    {Tiles::kLarge,  64,        32,       8,     2},
    {Tiles::kSmall,  kFewRows,  32,       4,     2},
    {Tiles::kSmall,  32,        16,       4,     3},
};
// clang-format on

constexpr MlaTile find_mla_tile(Tiles tiles, bool few) {
    for (const MlaTile& tile : kMlaTiles) {
        if (tile.tiles == tiles && (tile.rows == kFewRows) == few) {
            return tile;
        }
    }
    return MlaTile{};
}

constexpr int score_parts(const MlaTile& tile) {
    return tile.rows / 16 * (tile.block_kv / 16);
}

constexpr size_t smem_bytes(const MlaTile& tile) {
    const auto rows = static_cast<size_t>(tile.rows);
    const size_t tiles = 2 * kMlaHeadDim * (rows + tile.block_kv * tile.slots);
    const size_t staging = 4 * (kMlaHeadDimV + 8) * rows;  // of O, over ring and Q
    const int parts = score_parts(tile);
    const size_t scores = 1024 * (tile.warps - parts) + 512 * parts;  // sums of products, then P
    const size_t statistics = 16 * rows * 2 + 4 * rows + 12 * rows * tile.block_kv / 16;
    return (tiles > staging ? tiles : staging) + scores + statistics + 512;
}

}  // namespace limelight::sm80
