// SPDX-License-Identifier: BSD-3-Clause
// The tile table of the family: plain C++, for the kernels and for the host that chooses.
#pragma once

#include <cstddef>

namespace limelight::sm80 {

// The shared memory that a thread block may use decides the tiles; nothing else differs here.
enum class Tiles {
    kLarge,  // >= 160 KB: sm_80, and sm_90 and sm_100 until they have kernels of their own
    kSmall,  // 99 KB: sm_86, sm_89, sm_120, and whatever runs the PTX image
};

struct FwdTile {
    int headdim;  // serves headdim and headdim_v up to this
    Tiles tiles;
    int block_q;          // rows of q a thread block owns
    int block_kv;         // keys per step
    int block_kv_change;  // the same in the score-change kernel, whose scores need more registers
    int warps;            // split along q: block_q / warps rows each, a multiple of 16
    int stages;           // slots of the K ring and of the V ring
};

// clang-format off
constexpr FwdTile kFwdTiles[] = {
    // headdim  tiles           block_q  block_kv  change  warps  stages
    {32,        Tiles::kLarge,  128,     64,       64,     4,     1},
    {64,        Tiles::kLarge,  128,     64,       32,     4,     1},
    {96,        Tiles::kLarge,  128,     64,       32,     4,     1},
    {128,       Tiles::kLarge,  128,     32,       32,     4,     2},
    {192,       Tiles::kLarge,  128,     64,       64,     8,     1},
    {256,       Tiles::kLarge,  128,     64,       64,     8,     1},
    {32,        Tiles::kSmall,  128,     64,       64,     4,     1},
    {64,        Tiles::kSmall,  128,     64,       32,     4,     1},
    {96,        Tiles::kSmall,  128,     64,       32,     4,     1},
    {128,       Tiles::kSmall,  128,     32,       32,     4,     1},
    {192,       Tiles::kSmall,  64,      64,       64,     4,     1},
    {256,       Tiles::kSmall,  64,      64,       64,     4,     1},
};
// clang-format on

constexpr FwdTile find_fwd_tile(int headdim, Tiles tiles) {
    for (const FwdTile& tile : kFwdTiles) {
        if (tile.headdim == headdim && tile.tiles == tiles) {
            return tile;
        }
    }
    return FwdTile{};
}

constexpr size_t smem_limit(Tiles tiles) {
    return (tiles == Tiles::kLarge ? 160 : 99) * 1024;
}

constexpr size_t smem_bytes(const FwdTile& tile, int block_kv) {
    return 2 * static_cast<size_t>(tile.headdim) * (tile.block_q + 2 * tile.stages * block_kv);
}

}  // namespace limelight::sm80
