// SPDX-License-Identifier: BSD-3-Clause
// Flat GEMM of Hopper for 16-bit weights: TMA fills the ring, wgmma reads it. The weight is wgmma's
// A (m64), x its B (n = 16, 64 or 128), both K-major in shared memory: no fragments, no swizzles by
// hand, and 128 rows of x cost less time than reading the weight.
//
// Grid, units and the sum of shared tiles are those of flat.cuh. Warps 0-3 are the consumer
// warpgroup with two m64 tiles, one thread of warp 4 the producer.
#pragma once

#include "arch/grid.cuh"
#include "arch/mbarrier.cuh"
#include "arch/tma.cuh"
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
    static constexpr int kTilesN = 2;              // m64 tiles of weight rows
    static constexpr int kTilesM = kMaxRows / 8;
    static constexpr int kConsumerWarps = 4;
    static constexpr int kConsumers = kConsumerWarps * kWarpSize;
    static constexpr int kThreads = kConsumers + kWarpSize;
    static constexpr int kBlocksPerMultiprocessor = kMaxRows <= 64 ? 2 : 1;
    static constexpr int kHalfRows = kFlatRows / kTilesN;
    using Row = TileRow<kFlatRows, 32, true>;

    struct Smem {
        alignas(1024) char weight[kStages][kTilesN][kHalfRows * kRowBytes];
        alignas(1024) char x[kStages][kMaxRows * kRowBytes];
        float turn[kConsumerWarps][kTurnFloats];
        uint64_t full[kStages];
        uint64_t empty[kStages];
        uint32_t ticket;
    };
    static constexpr uint32_t kStageBytes = (kFlatRows + kMaxRows) * kRowBytes;
    static_assert(sizeof(Smem) == smem_bytes(kTile), "params_sm90.h knows the size");
};

// Weight does not depend on the grid before this one: the first slots get theirs before the wait.
template <class Config>
LIMELIGHT_DEVICE void produce(const FlatSm90Params& params, typename Config::Smem& smem,
                              int64_t first, int64_t end) {
    const GemmParams& p = params.call;
    const bool swiglu = p.activation == Activation::kSwiGLU;
    const auto load_weight = [&](const Cursor& at, int stage) {
        mbarrier_arrive_expect_tx(smem.full[stage], Config::kStageBytes);
#pragma unroll
        for (int half = 0; half < Config::kTilesN; ++half) {
            const int row = swiglu ? at.tile * Config::kHalfRows + half * p.n
                                   : at.tile * kFlatRows + half * Config::kHalfRows;
            tma_load_4d(smem.weight[stage][half], params.weight, at.k_block * Config::kBlockK, row,
                        0, 0, smem.full[stage]);
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

template <class Config>
LIMELIGHT_DEVICE void consume(const FlatSm90Params& params, typename Config::Smem& smem,
                              int64_t unit, int64_t end) {
    using Mma = Wgmma<Config::kMaxRows, typename Config::Element>;
    const GemmParams& p = params.call;
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    Ring<Config::kStages> slot;
    Cursor at(p, unit);
#pragma unroll 1
    while (unit < end) {
        float acc[Config::kTilesN][Config::kTilesM][4];
        const auto flat = [&](int n) -> float (&)[Config::kTilesM * 4] {
            return reinterpret_cast<float (&)[Config::kTilesM * 4]>(acc[n]);
        };
        const int tile = at.tile;
        bool accumulate = false;
#pragma unroll 1
        for (; unit < end && at.tile == tile; ++unit) {
            mbarrier_wait(smem.full[slot.stage], slot.phase);
            const uint64_t x =
                wgmma_descriptor<Config::kRowBytes>(smem_address(smem.x[slot.stage]), 0);
#pragma unroll
            for (int n = 0; n < Config::kTilesN; ++n) {
                wgmma_hold(flat(n));
            }
            wgmma_fence();
#pragma unroll
            for (int step = 0; step < Config::kBlockK / 16; ++step) {
#pragma unroll
                for (int n = 0; n < Config::kTilesN; ++n) {
                    const uint64_t weight = wgmma_descriptor<Config::kRowBytes>(
                        smem_address(smem.weight[slot.stage][n]), 0);
                    Mma::ss(flat(n), weight + step * 2, x + step * 2, accumulate || step > 0);
                }
            }
            wgmma_commit();
            wgmma_wait<0>();
#pragma unroll
            for (int n = 0; n < Config::kTilesN; ++n) {
                wgmma_hold(flat(n));
            }
            __syncwarp();
            if (threadIdx.x % kWarpSize == 0) {
                mbarrier_arrive(smem.empty[slot.stage]);
            }
            accumulate = true;
            slot.advance();
            at.advance(p);
        }
        if (sum_pieces<Config::kConsumers, false>(p, tile, p.m, acc, &smem.ticket)) {
            store_group<typename Config::Element, typename Config::Row>(p, tile, warp, 0, acc,
                                                                        smem.turn[warp]);
        }
    }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerMultiprocessor)
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
