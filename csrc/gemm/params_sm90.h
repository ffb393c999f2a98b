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

// Two thread blocks fit a multiprocessor of 228 KB for every m: the partition, which does not know
// m, counts on it.
constexpr FlatSm90Tile kFlatSm90Tiles[] = {{16, 6}, {64, 4}, {128, 3}};
constexpr int kSm90BlocksPerMultiprocessor = 2;

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
    constexpr int kConsumerWarps = 8;
    const size_t stage = static_cast<size_t>(kFlatRows + tile.m) * kSm90BlockK * 2 + 16;
    const size_t used =
        static_cast<size_t>(tile.stages) * stage + kConsumerWarps * kTurnFloats * sizeof(float) + 8;
    return (used + 1023) / 1024 * 1024;
}

constexpr bool all_blocks_fit() {
    constexpr size_t kMultiprocessor = 228 * 1024;
    constexpr size_t kReserved = 1024;  // of every thread block, by the system
    for (const FlatSm90Tile& tile : kFlatSm90Tiles) {
        if (kSm90BlocksPerMultiprocessor * (smem_bytes(tile) + kReserved) > kMultiprocessor) {
            return false;
        }
    }
    return true;
}
static_assert(all_blocks_fit());

// What the kernel receives: both operands in boxes 64 columns wide, x in one of a tile's m rows,
// weight in one of a tile's rows. With SwiGLU weight has the dimensions (k, 8 rows, gate and up,
// blocks of 8 rows) and boxes that interleave gate and up; where n is no multiple of 8, which no
// such map expresses, boxes of 8 rows do.
struct FlatSm90Params {
    GemmParams call;
    CUtensorMap weight;
    CUtensorMap x;
    bool paired;  // gate and up rows arrive in one box
};

}  // namespace limelight::gemm
