// SPDX-License-Identifier: BSD-3-Clause
// Who works on what: units, rows of weight, and the sum over thread blocks that share a tile.
#pragma once

#include "arch/atomic.cuh"
#include "arch/base.cuh"
#include "arch/warpgroup.cuh"
#include "gemm/params.h"

namespace limelight::gemm {

// First unit of a thread block; its run ends where the next one's begins.
LIMELIGHT_DEVICE int64_t first_unit(const GemmParams& p, int block) {
    if (p.pieces > 0) {
        const int tile = block / p.pieces;
        const int piece = block % p.pieces;
        return int64_t{tile} * p.k_blocks + int64_t{p.k_blocks} * piece / p.pieces;
    }
    return int64_t{p.tiles} * p.k_blocks * block / p.blocks;
}

// The thread block that has the unit: the largest whose first unit is not after it.
LIMELIGHT_DEVICE int block_of_unit(const GemmParams& p, int64_t unit) {
    const int64_t units = int64_t{p.tiles} * p.k_blocks;
    return static_cast<int>(((unit + 1) * p.blocks - 1) / units);
}

// Thread blocks first .. last work on the tile.
struct Sharing {
    int first;
    int last;
};

LIMELIGHT_DEVICE Sharing sharing_blocks(const GemmParams& p, int tile) {
    if (p.pieces > 0) {
        return {tile * p.pieces, (tile + 1) * p.pieces - 1};
    }
    const int64_t unit = int64_t{tile} * p.k_blocks;
    return {block_of_unit(p, unit), block_of_unit(p, unit + p.k_blocks - 1)};
}

// Place in a run of units.
struct Cursor {
    int tile;
    int k_block;

    LIMELIGHT_DEVICE Cursor(const GemmParams& p, int64_t unit)
        : tile(static_cast<int>(unit / p.k_blocks)), k_block(static_cast<int>(unit % p.k_blocks)) {}

    LIMELIGHT_DEVICE void advance(const GemmParams& p) {
        if (++k_block == p.k_blocks) {
            k_block = 0;
            ++tile;
        }
    }
};

// Column of out that row `local` of group `group` of a tile belongs to, and the row of weight: with
// SwiGLU the first half of a group is gate rows, the second half the up rows of the same columns.
template <int kTileRows, int kGroupRows>
struct TileRow {
    int column;
    int row;

    LIMELIGHT_DEVICE TileRow(const GemmParams& p, int tile, int group, int local) {
        constexpr int kHalf = kGroupRows / 2;
        const int in_half = group * kHalf + local % kHalf;
        if (p.activation == Activation::kSwiGLU) {
            column = tile * kTileRows / 2 + in_half;
            row = column + (local < kHalf ? 0 : p.n);
        } else {
            column = row = tile * kTileRows + group * kGroupRows + local;
        }
    }
};

// The barrier of kThreads threads: a warp, a thread block, or the first kThreads of one.
template <int kThreads, bool kWholeBlock = true>
LIMELIGHT_DEVICE void sync_threads() {
    if constexpr (kThreads == kWarpSize) {
        __syncwarp();
    } else if constexpr (kWholeBlock) {
        __syncthreads();
    } else {
        named_barrier_sync(1, kThreads);
    }
}

// Thread blocks that share a tile leave their sums as pieces, [n8 tile of x][thread] of float4 for
// each m16 tile of weight; whichever comes last adds them up in the order of the thread blocks.
template <int kThreads, int kTiles>
LIMELIGHT_DEVICE float4* piece_of(const GemmParams& p, const Sharing& sharing, int block) {
    const int64_t index = 2 * int64_t{block} + (block == sharing.first ? 1 : 0);
    return static_cast<float4*>(p.workspace) + index * (kTiles * kThreads) + threadIdx.x;
}

// Leaves this thread block's piece; true for the last one. kThreads threads call it; `rows` of x
// are left for this warp.
template <int kThreads, bool kWholeBlock = true, int kTilesN, int kTilesM>
LIMELIGHT_DEVICE bool leave_piece(const GemmParams& p, const Sharing& sharing, int rows,
                                  const float (&acc)[kTilesN][kTilesM][4],
                                  uint32_t* shared_ticket) {
    float4* const own =
        piece_of<kThreads, kTilesN * kTilesM>(p, sharing, static_cast<int>(blockIdx.x));
#pragma unroll
    for (int n = 0; n < kTilesN; ++n) {
#pragma unroll
        for (int m = 0; m < kTilesM; ++m) {
            if (m * 8 < rows) {
                own[(n * kTilesM + m) * kThreads] =
                    make_float4(acc[n][m][0], acc[n][m][1], acc[n][m][2], acc[n][m][3]);
            }
        }
    }
    sync_threads<kThreads, kWholeBlock>();
    if (threadIdx.x == 0) {
        *shared_ticket = atomic_add_acq_rel(p.tickets + sharing.first, 1);
    }
    sync_threads<kThreads, kWholeBlock>();
    const bool last = *shared_ticket == static_cast<uint32_t>(sharing.last - sharing.first);
    if (last && threadIdx.x == 0) {
        p.tickets[sharing.first] = 0;
    }
    return last;
}

// The sum of the pieces: their n8 tiles of x from `first` on. kTiles: of a piece.
template <int kThreads, int kTiles, int kTilesN, int kTilesM>
LIMELIGHT_DEVICE void add_pieces(const GemmParams& p, const Sharing& sharing, int rows, int first,
                                 float (&acc)[kTilesN][kTilesM][4]) {
    static_assert(kTilesN == 1 || kTiles == kTilesN * kTilesM, "all of it, or a part of one m16");
#pragma unroll
    for (int n = 0; n < kTilesN; ++n) {
#pragma unroll
        for (int m = 0; m < kTilesM; ++m) {
            acc[n][m][0] = acc[n][m][1] = acc[n][m][2] = acc[n][m][3] = 0.0f;
        }
    }
    constexpr int kAhead = kTilesN * kTilesM <= 2 ? 8 : 1;
#pragma unroll kAhead
    for (int block = sharing.first; block <= sharing.last; ++block) {
        const float4* const from = piece_of<kThreads, kTiles>(p, sharing, block) + first * kThreads;
#pragma unroll
        for (int n = 0; n < kTilesN; ++n) {
#pragma unroll
            for (int m = 0; m < kTilesM; ++m) {
                if ((first + m) * 8 < rows) {
                    const float4 piece = __ldcg(from + (n * kTilesM + m) * kThreads);
                    acc[n][m][0] += piece.x;
                    acc[n][m][1] += piece.y;
                    acc[n][m][2] += piece.z;
                    acc[n][m][3] += piece.w;
                }
            }
        }
    }
}

// The sum of a tile, in the thread block that comes last (true); the others get false.
template <int kThreads, int kTilesN, int kTilesM>
LIMELIGHT_DEVICE bool sum_pieces(const GemmParams& p, int tile, int rows,
                                 float (&acc)[kTilesN][kTilesM][4], uint32_t* shared_ticket) {
    const Sharing sharing = sharing_blocks(p, tile);
    if (sharing.first == sharing.last) {
        return true;
    }
    if (!leave_piece<kThreads>(p, sharing, rows, acc, shared_ticket)) {
        return false;
    }
    add_pieces<kThreads, kTilesN * kTilesM>(p, sharing, rows, 0, acc);
    return true;
}

}  // namespace limelight::gemm
