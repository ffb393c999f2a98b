// SPDX-License-Identifier: BSD-3-Clause
// Flat GEMM of Hopper for 16-bit weights: TMA fills the ring, wgmma reads it. The weight is wgmma's
// A (m64), x its B (n = 16, 64 or 128), both K-major in shared memory: no fragments, no swizzles by
// hand, and 128 rows of x cost less time than reading the weight.
//
// Grid, units and the sum of shared tiles are those of flat.cuh. Warps 0-7 are two consumer
// warpgroups with one m64 tile each, one thread of warp 8 the producer. With SwiGLU each eight gate
// rows of a tile are followed by the up rows of the same columns, so that a lane holds both.
#pragma once

#include "arch/grid.cuh"
#include "arch/mbarrier.cuh"
#include "arch/tma.cuh"
#include "arch/warpgroup.cuh"
#include "arch/wgmma.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/params_sm90.h"

namespace limelight::gemm {

template <class Element_, int kMaxRows_>
struct FlatSm90Config {
    using Element = Element_;
    static constexpr FlatSm90Tile kTile = find_flat_sm90_tile(kMaxRows_);
    static constexpr int kMaxRows = kMaxRows_;  // of x
    static constexpr int kStages = kTile.stages;
    static constexpr int kBlockK = kSm90BlockK;
    static constexpr int kRowBytes = kBlockK * 2;  // one swizzle group of TMA and wgmma
    static constexpr int kTilesM = kMaxRows / 8;
    static constexpr int kGroups = 2;  // consumer warpgroups
    static constexpr int kConsumers = kGroups * kWarpgroupSize;
    static constexpr int kConsumerWarps = kConsumers / kWarpSize;
    static constexpr int kThreads = kConsumers + kWarpSize;
    static constexpr int kGroupBytes = kFlatRows / kGroups * kRowBytes;
    using Row = TileRow<kFlatRows, 16>;

    struct Smem {
        alignas(1024) char weight[kStages][kFlatRows * kRowBytes];
        alignas(1024) char x[kStages][kMaxRows * kRowBytes];
        float turn[kConsumerWarps][kTurnFloats];
        uint64_t full[kStages];
        uint64_t empty[kStages];
        uint32_t ticket;
    };
    static constexpr uint32_t kStageBytes = (kFlatRows + kMaxRows) * kRowBytes;
    static_assert(kFlatRows / kGroups == 64, "a warpgroup has one m64 tile");
    static_assert(sizeof(Smem) == smem_bytes(kTile), "params_sm90.h knows the size");
};

// Weight does not depend on the grid before this one: the first slots get theirs before the wait.
template <class Config>
LIMELIGHT_DEVICE void produce(const FlatSm90Params& params, typename Config::Smem& smem,
                              int64_t first, int64_t end) {
    const GemmParams& p = params.call;
    const bool swiglu = p.activation == Activation::kSwiGLU;
    const auto load_weight = [&](const Cursor& at, int stage) {
        uint64_t& full = smem.full[stage];
        char* const tile = smem.weight[stage];
        const int k = at.k_block * Config::kBlockK;
        mbarrier_arrive_expect_tx(full, Config::kStageBytes);
        if (!swiglu) {
            tma_load_4d(tile, params.weight, k, at.tile * kFlatRows, 0, 0, full);
        } else if (params.paired) {
            tma_load_4d(tile, params.weight, k, 0, 0, at.tile * (kFlatRows / 16), full);
        } else {
#pragma unroll 1
            for (int box = 0; box < kFlatRows / 8; ++box) {
                const int row = at.tile * (kFlatRows / 2) + box / 2 * 8 + box % 2 * p.n;
                tma_load_4d(tile + box * 8 * Config::kRowBytes, params.weight, k, row, 0, 0, full);
            }
        }
    };
    const auto load_x = [&](const Cursor& at, int stage) {
        tma_load_4d(smem.x[stage], params.x, at.k_block * Config::kBlockK, 0, 0, 0,
                    smem.full[stage]);
    };
    const int ahead = static_cast<int>(min(end - first, int64_t{Config::kStages}));
    Cursor at(p, first);
    Cursor x_at = at;
#pragma unroll 1
    for (int stage = 0; stage < ahead; ++stage) {
        load_weight(at, stage);
        at.advance(p);
    }
    grid_dependency_wait();
#pragma unroll 1
    for (int stage = 0; stage < ahead; ++stage) {
        load_x(x_at, stage);
        x_at.advance(p);
    }
    grid_launch_dependents();
    Ring<Config::kStages> slot;
#pragma unroll 1
    for (int64_t unit = first + ahead; unit < end; ++unit) {
        mbarrier_wait(smem.empty[slot.stage], slot.phase);
        load_weight(at, slot.stage);
        load_x(at, slot.stage);
        at.advance(p);
        slot.advance();
    }
}

// A tile's sum to its rows of out, in whichever thread block has it. Pieces are added in parts, one
// after the other: two thread blocks leave 96 registers.
template <class Config>
LIMELIGHT_DEVICE void finish(const GemmParams& p, typename Config::Smem& smem, int tile,
                             const Sharing& sharing, float (&acc)[1][Config::kTilesM][4]) {
    constexpr int kTilesM = Config::kTilesM;
    constexpr int kPart = kTilesM < 8 ? kTilesM : 8;
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    const auto store = [&](int first_row, const auto& sum) {
        store_group<typename Config::Element, typename Config::Row>(p, tile, warp, first_row, sum,
                                                                    smem.turn[warp]);
    };
    if (sharing.first == sharing.last) {
        store(0, acc);
    } else if (leave_piece<Config::kConsumers, false>(p, sharing, p.m, acc, &smem.ticket)) {
#pragma unroll 1
        for (int first = 0; first < kTilesM && first * 8 < p.m; first += kPart) {
            float part[1][kPart][4];
            add_pieces<Config::kConsumers, kTilesM>(p, sharing, p.m, first, part);
            store(first * 8, part);
        }
    }
}

template <class Config>
LIMELIGHT_DEVICE void consume(const FlatSm90Params& params, typename Config::Smem& smem,
                              int64_t unit, int64_t end) {
    using Mma = Wgmma<Config::kMaxRows, typename Config::Element>;
    const GemmParams& p = params.call;
    const int group = warpgroup_index();
    Ring<Config::kStages> slot;
    const Cursor first(p, unit);
    int left = static_cast<int>(end - unit);
    int in_tile = min(left, p.k_blocks - first.k_block);
#pragma unroll 1
    for (int tile = first.tile; left > 0; ++tile) {
        // Divides, which takes registers: before the accumulators hold most of them.
        Sharing sharing = sharing_blocks(p, tile);
        sharing = {opaque(sharing.first), opaque(sharing.last)};
        float acc[1][Config::kTilesM][4] = {};
        auto& flat = reinterpret_cast<float (&)[Config::kTilesM * 4]>(acc);
        left -= in_tile;
#pragma unroll 1
        for (; in_tile > 0; --in_tile) {
            mbarrier_wait(smem.full[slot.stage], slot.phase);
            const uint64_t weight = wgmma_descriptor<Config::kRowBytes>(
                smem_address(smem.weight[slot.stage] + group * Config::kGroupBytes), 0);
            const uint64_t x =
                wgmma_descriptor<Config::kRowBytes>(smem_address(smem.x[slot.stage]), 0);
            wgmma_hold(flat);
            wgmma_fence();
#pragma unroll
            for (int step = 0; step < Config::kBlockK / 16; ++step) {
                Mma::ss(flat, weight + step * 2, x + step * 2, true);
            }
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_hold(flat);
            __syncwarp();
            if (threadIdx.x % kWarpSize == 0) {
                mbarrier_arrive(smem.empty[slot.stage]);
            }
            slot.advance();
        }
        in_tile = min(left, p.k_blocks);
        finish<Config>(p, smem, tile, sharing, acc);
    }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, kSm90BlocksPerMultiprocessor)
    sm90_flat_gemm(const __grid_constant__ FlatSm90Params params) {
    extern __shared__ __align__(1024) char dynamic_smem[];
    auto& smem = *reinterpret_cast<typename Config::Smem*>(dynamic_smem);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < Config::kStages; ++stage) {
            mbarrier_init(smem.full[stage], 1);
            mbarrier_init(smem.empty[stage], Config::kConsumerWarps);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    const int block = static_cast<int>(blockIdx.x);
    const int64_t first = first_unit(params.call, block);
    const int64_t end = first_unit(params.call, block + 1);
    if (threadIdx.x < Config::kConsumers) {
        grid_dependency_wait();
        consume<Config>(params, smem, first, end);
    } else if (threadIdx.x == Config::kConsumers) {
        prefetch_tensor_map(params.weight);
        prefetch_tensor_map(params.x);
        produce<Config>(params, smem, first, end);
    }
}

}  // namespace limelight::gemm
