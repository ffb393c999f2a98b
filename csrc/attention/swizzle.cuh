// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "arch/base.cuh"

namespace limelight {

// Row-major shared tile of 16-bit elements, rows of kCols, whose 16-byte chunks are XOR-swizzled so
// that eight rows of one logical chunk fall into eight different bank groups: ldmatrix and stores
// are conflict-free.
//   pitch % 128 B == 0:  chunk ^= row & 7           (kCols 64, 128, 192, 256)
//   pitch % 128 B == 64: chunk ^= (row >> 1) & 3    (kCols 32, 96)
template <int kCols>
struct SwizzledTile {
    static_assert(kCols % 32 == 0, "a row holds whole 64-byte swizzle groups");
    static constexpr int kChunkElements = 8;
    static constexpr int kChunks = kCols / kChunkElements;
    static constexpr int kPitchBytes = kCols * 2;
    static constexpr int kGroup = kCols % 64 == 0 ? 8 : 4;
    static constexpr int kRowShift = kCols % 64 == 0 ? 0 : 1;

    // Byte offset of the 16-byte chunk at (row, chunk).
    LIMELIGHT_DEVICE static uint32_t offset(int row, int chunk) {
        const int low = (chunk ^ (row >> kRowShift)) & (kGroup - 1);
        const int high = chunk & ~(kGroup - 1);
        return row * kPitchBytes + (high + low) * 16;
    }

    // Address of (row, chunk + step) from that of (row, chunk) for chunk < 2 and even step, in a
    // tile aligned to 128 bytes: one XOR and one immediate.
    LIMELIGHT_DEVICE static uint32_t advance(uint32_t address, int step) {
        return (address ^ ((step & (kGroup - 1)) * 16)) + (step & ~(kGroup - 1)) * 16;
    }
};

}  // namespace limelight
