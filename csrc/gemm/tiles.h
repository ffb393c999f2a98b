// SPDX-License-Identifier: BSD-3-Clause
// The tile table of the flat GEMM: plain C++, for the kernels and for the host that chooses.
#pragma once

#include <cstddef>

#include "limelight/gemm.h"

namespace limelight::gemm {

// Rows of weight a thread block of the flat kernel works on at a time, the same for every m: the
// order of every sum then does not depend on m.
constexpr int kFlatRows = 128;

// The GEMV kernel: 16 rows of weight, the eight warps of a thread block share k.
constexpr int kGemvRows = 16;
constexpr int kGemvMaxM = 8;
constexpr int kGemvWarps = 8;

constexpr int kMaxM = 128;

// Bytes of one row of weight in a k block, and the values they hold.
constexpr int row_bytes(WeightFormat format) {
    return format == WeightFormat::kInt4 ? 64 : 128;
}
constexpr int block_k(WeightFormat format) {
    return format == WeightFormat::k16Bit ? 64 : 128;
}

struct FlatTile {
    WeightFormat format;
    int m;        // most rows of x
    int warps_n;  // split along the rows of weight, whole m16 tiles each
    int warps_m;  // split along the rows of x, whole n8 tiles each
    int stages;   // slots of the ring that holds k blocks of weight and x
};

// clang-format off
constexpr FlatTile kFlatTiles[] = {
    // format                    m    warps_n  warps_m  stages
    {WeightFormat::k16Bit,       16,  8,       1,       5},
    {WeightFormat::k16Bit,       64,  4,       1,       4},
    {WeightFormat::k16Bit,       128, 4,       2,       3},
    {WeightFormat::kFloat8E4M3,  16,  8,       1,       4},
    {WeightFormat::kFloat8E4M3,  64,  4,       1,       3},
    {WeightFormat::kFloat8E4M3,  128, 4,       2,       2},
    {WeightFormat::kInt4,        16,  8,       1,       8},
    {WeightFormat::kInt4,        64,  4,       1,       4},
    {WeightFormat::kInt4,        128, 4,       2,       2},
};
// clang-format on

// The smallest tile that holds m rows.
constexpr FlatTile find_flat_tile(WeightFormat format, int m) {
    for (const FlatTile& tile : kFlatTiles) {
        if (tile.format == format && tile.m >= m) {
            return tile;
        }
    }
    return FlatTile{};
}

// A warp turns 16 rows of weight by 8 rows of x of its result at a time, in a slot of the ring that
// is free then; floats, with padding.
constexpr int kTurnPitch = 20;
constexpr int kTurnFloats = 7 * kTurnPitch + 16;

constexpr size_t smem_bytes(const FlatTile& tile) {
    const int stage = kFlatRows * row_bytes(tile.format) + tile.m * block_k(tile.format) * 2;
    return static_cast<size_t>(tile.stages) * stage + 128;
}

// Two thread blocks a multiprocessor where it has room (sm_90, sm_100), one everywhere.
constexpr size_t kSmemLimit = 99 * 1024;

}  // namespace limelight::gemm
