// SPDX-License-Identifier: BSD-3-Clause
// Flat GEMM on mma.sync: the weight on the MMA's m side, the few rows of x on its n = 8 side, after
// FlashDecoding++ (Hong et al., 2023).
//
// Grid: one wave of thread blocks, each with an equal run of units (k blocks of tiles of 128 weight
// rows), so that all multiprocessors read the same number of bytes. A ring of kStages slots is
// filled by cp.async across the borders of tiles; a warp owns kWarpRows weight rows by all of x.
//
//   cp.async   unit 0 | 1 | 2 | 3 | 4 | 5 ...      kStages - 1 units in flight
//   mma                              0 | 1 | 2 ...  one barrier a unit
//   tile done                              sum of the pieces of a shared tile, epilogue
#pragma once

#include "arch/cp_async.cuh"
#include "arch/grid.cuh"
#include "arch/mma.cuh"
#include "gemm/config.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/scales.cuh"

namespace limelight::gemm {

// Copies one k block of a tile of weight into a slot of the ring: rows past the last one and k past
// the end become zeros.
template <class Config>
LIMELIGHT_DEVICE void load_weight(const GemmParams& p, const Cursor& at, char* slot) {
    constexpr int kChunks = Config::kRowBytes / 16;
    constexpr int kRowsPerPass = Config::kThreads / kChunks;
    constexpr int kElementsPerByte16 = Config::kBlockK / kChunks;  // values of k in 16 bytes
    const int chunk = threadIdx.x % kChunks;
    const int k = at.k_block * Config::kBlockK + chunk * kElementsPerByte16;
    const int bytes = min(max(p.k - k, 0), kElementsPerByte16) * 16 / kElementsPerByte16;
    const char* const source =
        static_cast<const char*>(p.weight) + (int64_t{at.k_block} * Config::kRowBytes + chunk * 16);
    const int64_t row_bytes = p.weight_row_stride * Config::kStoredBytes;
    const uint32_t smem = smem_address(slot);
#pragma unroll
    for (int pass = 0; pass < kFlatRows; pass += kRowsPerPass) {
        const int row = pass + static_cast<int>(threadIdx.x) / kChunks;
        const TileRow<kFlatRows, Config::kWarpRows> weight(p, at.tile, row / Config::kWarpRows,
                                                           row % Config::kWarpRows);
        const bool valid = weight.column < p.n && bytes > 0;
        cp_async_16_bytes(smem + Config::weight_offset(row, chunk),
                          valid ? source + weight.row * row_bytes : p.weight, valid ? bytes : 0);
    }
}

// Copies the same k block of x: the rows that MMAs read, zeros past p.m.
template <class Config>
LIMELIGHT_DEVICE void load_x(const GemmParams& p, const Cursor& at, char* slot) {
    using Element = typename Config::Element;
    constexpr int kChunks = Config::kBlockK / 8;
    constexpr int kRowsPerPass = Config::kThreads / kChunks;
    const int chunk = threadIdx.x % kChunks;
    const int k = at.k_block * Config::kBlockK + chunk * 8;
    const Element* const source = static_cast<const Element*>(p.x) + k;
    const uint32_t smem = smem_address(slot);
    constexpr int kRowsTogether = Config::kGroupM * 8;
    const int rows = ceil_div(p.m, kRowsTogether) * kRowsTogether;
#pragma unroll
    for (int pass = 0; pass < Config::kMaxRows; pass += kRowsPerPass) {
        const int row = pass + static_cast<int>(threadIdx.x) / kChunks;
        if (row < rows) {
            const bool valid = row < p.m && k < p.k;
            cp_async_16(smem + Config::x_offset(row, chunk),
                        valid ? source + row * p.x_row_stride : p.x, valid);
        }
    }
}

// acc += weight x^T over one k block in shared memory.
template <class Config>
LIMELIGHT_DEVICE void multiply(const GemmParams& p,
                               float (&acc)[Config::kTilesN][Config::kTilesM][4],
                               const LaneScales<Config, Config::kTilesN>& scales,
                               const char* weight, const char* x) {
    using Element = typename Config::Element;
    using Lane = typename Config::Lane;
    using Raw = typename Lane::Raw;
    const int lane = threadIdx.x % kWarpSize;
    const int warp = threadIdx.x / kWarpSize;
    const int row = warp % Config::kWarpsN * Config::kWarpRows + lane / 4;
    const int x_row = warp / Config::kWarpsN * Config::kTilesM * 8;
    constexpr int kLaneBytes = sizeof(Raw);
    constexpr int kLaneChunks = Config::kLaneK / 8;  // of x
#pragma unroll
    for (int span = 0; span < Config::kSpans; ++span) {
        uint32_t w[Config::kTilesN][2][Config::kPairs];
        const int byte = span * Config::kSpanBytes + lane % 4 * kLaneBytes;
#pragma unroll
        for (int n = 0; n < 2 * Config::kTilesN; ++n) {
            const Raw raw = *reinterpret_cast<const Raw*>(
                weight + Config::weight_offset(row + n * 8, byte / 16) + byte % 16);
            Lane::decode(raw, scales.zero(n, span), w[n / 2][n % 2]);
        }
#pragma unroll
        for (int first = 0; first < Config::kTilesM; first += Config::kGroupM) {
            if (x_row + first * 8 < p.m) {
#pragma unroll
                for (int m = first; m < first + Config::kGroupM; ++m) {
                    uint32_t b[Config::kPairs];
#pragma unroll
                    for (int i = 0; i < kLaneChunks; ++i) {
                        const uint4 raw = *reinterpret_cast<const uint4*>(
                            x + Config::x_offset(x_row + m * 8 + lane / 4,
                                                 (span * 4 + lane % 4) * kLaneChunks + i));
                        b[4 * i] = raw.x;
                        b[4 * i + 1] = raw.y;
                        b[4 * i + 2] = raw.z;
                        b[4 * i + 3] = raw.w;
                    }
#pragma unroll
                    for (int n = 0; n < Config::kTilesN; ++n) {
                        multiply_span<Config>(acc[n][m], w[n][0], w[n][1], b,
                                              scales.scale(2 * n, span),
                                              scales.scale(2 * n + 1, span), Element{});
                    }
                }
            }
        }
    }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerMultiprocessor)
    sm80_flat_gemm(const __grid_constant__ GemmParams p) {
    using Smem = typename Config::Smem;
    extern __shared__ __align__(128) char dynamic_smem[];
    Smem& smem = *reinterpret_cast<Smem*>(dynamic_smem);
    constexpr int kAhead = Config::kStages - 1;

    const int block = static_cast<int>(blockIdx.x);
    const int64_t first = first_unit(p, block);
    const int64_t end = first_unit(p, block + 1);
    int64_t unloaded = first;  // the next unit to load, at `loading`
    Cursor loading(p, first);

    // Weights do not depend on the grid before this one; x, residual and the workspace do.
    Cursor early = loading;
    for (int stage = 0; stage < kAhead && first + stage < end; ++stage) {
        load_weight<Config>(p, early, smem.weight[stage]);
        early.advance(p);
    }
    grid_dependency_wait();
#pragma unroll 1
    for (int stage = 0; stage < kAhead; ++stage) {
        if (unloaded < end) {
            load_x<Config>(p, loading, smem.x[stage]);
            loading.advance(p);
            ++unloaded;
        }
        cp_async_commit();
    }
    grid_launch_dependents();

    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    const int group = warp % Config::kWarpsN;
    const int x_row = warp / Config::kWarpsN * Config::kTilesM * 8;
    Ring<Config::kStages> filled, empty;
    empty.stage = kAhead;
    Cursor at(p, first);
    int64_t unit = first;
#pragma unroll 1
    while (unit < end) {
        float acc[Config::kTilesN][Config::kTilesM][4] = {};
        const int tile = at.tile;
        int consumed = 0;  // the slot read last: free until the barrier of the next unit
#pragma unroll 1
        for (; unit < end && at.tile == tile; ++unit) {
            const LaneScales<Config, Config::kTilesN> scales(p, at, [&](int local) {
                return TileRow<kFlatRows, Config::kWarpRows>(p, tile, group, local);
            });
            cp_async_wait<kAhead - 1>();
            __syncthreads();
            if (unloaded < end) {
                load_weight<Config>(p, loading, smem.weight[empty.stage]);
                load_x<Config>(p, loading, smem.x[empty.stage]);
                loading.advance(p);
                ++unloaded;
            }
            cp_async_commit();
            multiply<Config>(p, acc, scales, smem.weight[filled.stage], smem.x[filled.stage]);
            consumed = filled.stage;
            filled.advance();
            empty.advance();
            at.advance(p);
        }
        if (sum_pieces<Config::kThreads>(p, tile, p.m - x_row, acc, &smem.ticket)) {
            __syncthreads();
            float* const turn =
                reinterpret_cast<float*>(smem.weight[consumed]) + warp * kTurnFloats;
            store_group<typename Config::Element, TileRow<kFlatRows, Config::kWarpRows>>(
                p, tile, group, x_row, acc, turn);
        }
    }
}

}  // namespace limelight::gemm
