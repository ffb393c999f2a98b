// SPDX-License-Identifier: BSD-3-Clause
// The tile table of the backward kernels: plain C++, for the kernels and for the host that chooses.
#pragma once

#include <cstddef>

#include "sm80/fwd_tiles.h"

namespace limelight::sm80 {

// What a backward kernel computes: dQ owns rows of q and steps over keys, dK and dV own keys and
// step over rows of q, dbias owns both. dK and dV share a kernel where both fit into registers.
enum class Gradient { kQuery, kKeyValue, kKey, kValue, kBias };

struct BwdTile {
    int headdim;  // serves headdim and headdim_v up to this
    Tiles tiles;
    int own_rows;    // rows of q (dQ) or keys (dK, dV) a thread block owns
    int other_rows;  // keys (dQ) or rows of q (dK, dV) per step
    int warps;       // split along the owned rows: own_rows / warps each, a multiple of 16
    int stages;      // slots of the ring of the other side's tiles
    bool split;      // dK and dV in two kernels
};

// clang-format off
constexpr BwdTile kBwdTiles[] = {
    // headdim  tiles           own  other  warps  stages  split
    {32,        Tiles::kLarge,  128, 64,    8,     2,      false},
    {64,        Tiles::kLarge,  128, 64,    8,     2,      false},
    {96,        Tiles::kLarge,  128, 64,    8,     2,      false},
    {128,       Tiles::kLarge,  128, 32,    8,     2,      false},
    {192,       Tiles::kLarge,  64,  32,    4,     2,      true},
    {256,       Tiles::kLarge,  64,  32,    4,     2,      true},
    {32,        Tiles::kSmall,  128, 64,    8,     2,      false},
    {64,        Tiles::kSmall,  128, 64,    8,     2,      false},
    {96,        Tiles::kSmall,  128, 64,    8,     1,      false},
    {128,       Tiles::kSmall,  128, 32,    8,     2,      false},
    {192,       Tiles::kSmall,  64,  32,    4,     2,      true},
    {256,       Tiles::kSmall,  64,  32,    4,     1,      true},
};

// Tiles of dbias: one set for every device.
constexpr BwdTile kBiasTiles[] = {
    {32,        Tiles::kSmall,  64,  64,    4,     1,      false},
    {64,        Tiles::kSmall,  64,  64,    4,     1,      false},
    {96,        Tiles::kSmall,  64,  32,    4,     1,      false},
    {128,       Tiles::kSmall,  64,  64,    4,     1,      false},
    {192,       Tiles::kSmall,  64,  32,    4,     1,      false},
    {256,       Tiles::kSmall,  64,  32,    4,     1,      false},
};
// clang-format on

constexpr BwdTile find_bias_tile(int headdim) {
    for (const BwdTile& tile : kBiasTiles) {
        if (tile.headdim == headdim) {
            return tile;
        }
    }
    return BwdTile{};
}

constexpr BwdTile find_bwd_tile(int headdim, Tiles tiles) {
    for (const BwdTile& tile : kBwdTiles) {
        if (tile.headdim == headdim && tile.tiles == tiles) {
            return tile;
        }
    }
    return BwdTile{};
}

// Two operands of the owned side; two operands and two statistics a row of the other.
constexpr size_t smem_bytes(const BwdTile& tile) {
    return 4 * static_cast<size_t>(tile.headdim) * (tile.own_rows + tile.stages * tile.other_rows) +
           8 * static_cast<size_t>(tile.stages) * tile.other_rows;
}

}  // namespace limelight::sm80
