// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda.h>

#include "gemm/params.h"
#include "gemm/tiles.h"

namespace limelight::gemm {

constexpr int kSm90BlockK = 64;

struct FlatSm90Tile {
    int m;       // most rows of x
    int stages;  // slots of the ring
};

// Two thread blocks fit a multiprocessor of 228 KB, one with the accumulators of 128 rows.
constexpr FlatSm90Tile kFlatSm90Tiles[] = {{16, 6}, {64, 4}, {128, 6}};

// The smallest tile that holds m rows.
constexpr FlatSm90Tile find_flat_sm90_tile(int m) {
    for (const FlatSm90Tile& tile : kFlatSm90Tiles) {
        if (tile.m >= m) {
            return tile;
        }
    }
    return FlatSm90Tile{};
}

constexpr size_t smem_bytes(const FlatSm90Tile& tile) {
    const size_t stage = static_cast<size_t>(kFlatRows + tile.m) * kSm90BlockK * 2 + 16;
    const size_t used =
        static_cast<size_t>(tile.stages) * stage + 4 * kTurnFloats * sizeof(float) + 8;
    return (used + 1023) / 1024 * 1024;
}

// What the kernel receives: weight in boxes of 64 rows, x in one box of a tile's m rows, both 64
// columns wide.
struct FlatSm90Params {
    GemmParams call;
    CUtensorMap weight;
    CUtensorMap x;
};

}  // namespace limelight::gemm
