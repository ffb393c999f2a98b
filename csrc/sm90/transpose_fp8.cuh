// SPDX-License-Identifier: BSD-3-Clause
// V of an e4m3 GEMM must lie with the keys next to each other: warps of the producer warpgroup turn
// each tile after it has landed.
#pragma once

#include "arch/ldmatrix.cuh"
#include "arch/mbarrier.cuh"
#include "arch/tma.cuh"
#include "sm90/schedule.cuh"

namespace limelight::sm90 {

// Keeps the bytes of a word of keys {0, 1, 8, 9} + first that are below `valid`.
LIMELIGHT_DEVICE uint32_t keep_keys(uint32_t word, int valid, int first) {
    const int left = valid - first;
    return word & ((left > 0 ? 0xffu : 0u) | (left > 1 ? 0xff00u : 0u) |
                   (left > 8 ? 0xff0000u : 0u) | (left > 9 ? 0xff000000u : 0u));
}

// One warp's share of a tile [keys, columns], by blocks of 16 keys x 32 columns; keys from `valid`
// on become zeros. Four 8 x 8 matrices of 16-bit pairs, transposed by ldmatrix, leave in lane (g,
// t) the columns 2 g and 2 g + 1 of keys 2 t, 2 t + 1 and of 8 more: one permutation of bytes is a
// row of four k slots in the order of Fp8Softmax::round.
template <class Config>
LIMELIGHT_DEVICE void transpose_tile(uint32_t from, uint32_t to, int worker, int valid) {
    using VTile = typename Config::VTile;
    using TurnedTile = typename Config::TurnedTile;
    constexpr int kKeyBlocks = Config::kBlockKV / 16;
    constexpr int kBlocks = kKeyBlocks * Config::kHeadDimV / 32;
    const int lane = threadIdx.x % kWarpSize;
    const int matrix = lane / 8;
    const int row = lane % 8;
    // Rows 0 to 3 of a stored matrix are even columns, rows 4 to 7 odd ones, and the other way
    // round in its twin: eight rows of a matrix then lie in eight different bank groups.
    const bool odd = (row >= 4) != (matrix % 2 == 1);
    const int column = matrix / 2 * 16 + 2 * row + (odd ? 1 : 0);
    const uint32_t even_bytes = 0x6420;
    const uint32_t odd_bytes = 0x7531;
    const uint32_t select = lane < 16 ? even_bytes : odd_bytes;
    const uint32_t select_twin = lane < 16 ? odd_bytes : even_bytes;
#pragma unroll 1
    for (int block = worker; block < kBlocks; block += Config::kTransposers) {
        const int key = block % kKeyBlocks * 16;
        const int first_column = block / kKeyBlocks * 32;
        uint32_t pairs[4];
        ldmatrix_x4_trans(pairs, from + VTile::offset(key + matrix % 2 * 8 + row,
                                                      first_column / 16 + matrix / 2));
        uint32_t turned[4] = {
            __byte_perm(pairs[0], pairs[1], select), __byte_perm(pairs[0], pairs[1], select_twin),
            __byte_perm(pairs[2], pairs[3], select), __byte_perm(pairs[2], pairs[3], select_twin)};
        if (key + 16 > valid) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                turned[i] = keep_keys(turned[i], valid, key + lane % 4 * 2);
            }
        }
        stmatrix_x4(to + TurnedTile::offset(first_column + column, key / 16), turned);
    }
}

// Config::kTransposers warps, from warp 1 on.
template <class Config>
LIMELIGHT_DEVICE void transpose_v(const FwdKernelParams& params, typename Config::Smem& smem) {
    const int worker = threadIdx.x / kWarpSize - 1;
    Ring<kStages> slot;
    for (int round = 0;; ++round) {
        const int index = tile_index(round);
        if (index >= params.num_items) {
            return;
        }
        const Work<Config> work(params, index);
        if (!work.loads()) {
            continue;
        }
#pragma unroll 1
        for (int block = work.blocks.end - 1; block >= work.blocks.begin; --block) {
            const int valid = work.has_tail(params, block)
                                  ? work.sequence.seqlen_k - block * Config::kBlockKV
                                  : Config::kBlockKV;
            mbarrier_wait(smem.v_full[slot.stage], slot.phase);
            mbarrier_wait(smem.turned_empty[slot.stage], slot.phase ^ 1);
            transpose_tile<Config>(smem_address(smem.v[slot.stage]),
                                   smem_address(smem.turned[slot.stage]), worker, valid);
            fence_async_proxy();
            __syncwarp();
            if (threadIdx.x % kWarpSize == 0) {
                mbarrier_arrive(smem.v_empty[slot.stage]);
                mbarrier_arrive(smem.turned_full[slot.stage]);
            }
            slot.advance();
        }
    }
}

// All threads of the block, once, before a __syncthreads: the rows of ones, which nothing
// overwrites.
template <class Config>
LIMELIGHT_DEVICE void write_ones(typename Config::Smem& smem) {
    constexpr int kFirst = Config::kHeadDimV * Config::TurnedTile::kRowBytes;
    constexpr int kChunks = (Config::TurnedTile::kBytes - kFirst) / 16;
    constexpr uint32_t kOnes = 0x38383838;
    const int chunk = threadIdx.x % kChunks;
    const int stage = threadIdx.x / kChunks;
    static_assert(kStages * kChunks <= Config::kThreads);
    if (stage < kStages) {
        *reinterpret_cast<uint4*>(smem.turned[stage] + kFirst + chunk * 16) =
            make_uint4(kOnes, kOnes, kOnes, kOnes);
    }
    fence_async_proxy();  // the transposing warps' later fences cover it, in the ISA's model
}

}  // namespace limelight::sm90
