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

// What the kernel does to scores before the softmax.
enum class Scores {
    kPlain,   // scale only
    kChange,  // softcap, ALiBi, bias, dropout, or a scale that is not positive: the plain kernel
              // has no code for them
};

struct FwdTile {
    int headdim;  // serves headdim and headdim_v up to this
    Tiles tiles;
    Scores scores;
    int block_q;   // rows of q a thread block owns
    int block_kv;  // keys per step
    int warps;     // split along q: block_q / warps rows each, a multiple of 16
    int stages;    // slots of the K ring and of the V ring
};

// clang-format off
constexpr FwdTile kFwdTiles[] = {
    // headdim  tiles           scores            block_q  block_kv  warps  stages
    {32,        Tiles::kLarge,  Scores::kPlain,   128,     64,       4,     1},
    {64,        Tiles::kLarge,  Scores::kPlain,   128,     48,       4,     1},
    {96,        Tiles::kLarge,  Scores::kPlain,   128,     32,       4,     1},
    {128,       Tiles::kLarge,  Scores::kPlain,   128,     32,       4,     1},
    {192,       Tiles::kLarge,  Scores::kPlain,   128,     64,       8,     1},
    {256,       Tiles::kLarge,  Scores::kPlain,   128,     64,       8,     1},
    {32,        Tiles::kLarge,  Scores::kChange,  128,     64,       4,     1},
    {64,        Tiles::kLarge,  Scores::kChange,  128,     32,       4,     1},
    {96,        Tiles::kLarge,  Scores::kChange,  128,     32,       4,     1},
    {128,       Tiles::kLarge,  Scores::kChange,  128,     64,       8,     1},
    {192,       Tiles::kLarge,  Scores::kChange,  128,     64,       8,     1},
    {256,       Tiles::kLarge,  Scores::kChange,  128,     64,       8,     1},
    {32,        Tiles::kSmall,  Scores::kPlain,   128,     64,       4,     1},
    {64,        Tiles::kSmall,  Scores::kPlain,   128,     48,       4,     1},
    {96,        Tiles::kSmall,  Scores::kPlain,   128,     32,       4,     1},
    {128,       Tiles::kSmall,  Scores::kPlain,   128,     32,       4,     1},
    {192,       Tiles::kSmall,  Scores::kPlain,   64,      64,       4,     1},
    {256,       Tiles::kSmall,  Scores::kPlain,   64,      64,       4,     1},
    {32,        Tiles::kSmall,  Scores::kChange,  128,     64,       4,     1},
    {64,        Tiles::kSmall,  Scores::kChange,  128,     32,       4,     1},
    {96,        Tiles::kSmall,  Scores::kChange,  128,     32,       4,     1},
    {128,       Tiles::kSmall,  Scores::kChange,  64,      64,       4,     1},
    {192,       Tiles::kSmall,  Scores::kChange,  64,      64,       4,     1},
    {256,       Tiles::kSmall,  Scores::kChange,  64,      64,       4,     1},
};
// clang-format on

constexpr FwdTile find_fwd_tile(int headdim, Tiles tiles, Scores scores) {
    for (const FwdTile& tile : kFwdTiles) {
        if (tile.headdim == headdim && tile.tiles == tiles && tile.scores == scores) {
            return tile;
        }
    }
    return FwdTile{};
}

constexpr size_t smem_limit(Tiles tiles) {
    return (tiles == Tiles::kLarge ? 160 : 99) * 1024;
}

constexpr size_t smem_bytes(const FwdTile& tile) {
    return 2 * static_cast<size_t>(tile.headdim) * (tile.block_q + 2 * tile.stages * tile.block_kv);
}

}  // namespace limelight::sm80
