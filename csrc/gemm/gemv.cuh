// SPDX-License-Identifier: BSD-3-Clause
// GEMV-like kernel for m <= 8: 16 rows of weight a thread block, whose eight warps share k. Weights
// go from global memory to MMA fragments in registers, two k blocks per warp in flight; x comes
// through L1.
#pragma once

#include "arch/grid.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/scales.cuh"

namespace limelight::gemm {

template <class Config>
struct GemvLane {
    using Element = typename Config::Element;
    using Raw = typename Config::Lane::Raw;

    // Weights of one k block: rows lane / 4 and lane / 4 + 8.
    struct Weights {
        Raw raw[Config::kSpans][2];
    };

    const char* source[2];  // this lane's first bytes of its two rows; null past the last row
    const Element* x;       // this lane's first value of row lane / 4; null past the last row
    int k;                  // of this lane in k block 0

    LIMELIGHT_DEVICE GemvLane(const GemmParams& p, int tile)
        : k(static_cast<int>(threadIdx.x) % 4 * Config::kLaneK) {
        const int lane = threadIdx.x % kWarpSize;
        const int64_t row_bytes = p.weight_row_stride * Config::kStoredBytes;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const TileRow<kGemvRows, kGemvRows> at(p, tile, 0, half * 8 + lane / 4);
            source[half] = at.column < p.n ? static_cast<const char*>(p.weight) +
                                                 at.row * row_bytes + lane % 4 * sizeof(Raw)
                                           : nullptr;
        }
        x = lane / 4 < p.m ? static_cast<const Element*>(p.x) + lane / 4 * p.x_row_stride + k
                           : nullptr;
    }

    // Zeros past the last row, and past the end of k.
    LIMELIGHT_DEVICE Weights load(const GemmParams& p, int k_block, int end) const {
        Weights weights;
#pragma unroll
        for (int span = 0; span < Config::kSpans; ++span) {
            const int at = k + k_block * Config::kBlockK + span * Config::kSpanK;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const bool valid = source[half] != nullptr && k_block < end && at < p.k;
                const char* const from = source[half] + (int64_t{k_block} * Config::kRowBytes +
                                                         span * Config::kSpanBytes);
                Raw& raw = weights.raw[span][half];
                raw = Raw{};
                if (valid && at + Config::kLaneK <= p.k) {
                    raw = load_once(from, Raw{});
                } else if (valid && Config::kLaneK > 8) {
                    // The last 8 values of a row whose k is no multiple of 16.
                    const uint2 rest = load_once_8(from);
                    raw.x = rest.x;
                    raw.y = rest.y;
                }
            }
        }
        return weights;
    }

    LIMELIGHT_DEVICE void multiply(const GemmParams& p, int k_block, const Weights& weights,
                                   const LaneScales<Config, 1>& scales, float (&acc)[4]) const {
#pragma unroll
        for (int span = 0; span < Config::kSpans; ++span) {
            uint32_t b[Config::kPairs];
#pragma unroll
            for (int i = 0; i < Config::kLaneK; i += 8) {
                const int offset = k_block * Config::kBlockK + span * Config::kSpanK + i;
                const bool valid = x != nullptr && k + offset < p.k;
                const uint4 raw =
                    valid ? *reinterpret_cast<const uint4*>(x + offset) : uint4{0, 0, 0, 0};
                b[i / 2] = raw.x;
                b[i / 2 + 1] = raw.y;
                b[i / 2 + 2] = raw.z;
                b[i / 2 + 3] = raw.w;
            }
            uint32_t w[2][Config::kPairs];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                Config::Lane::decode(weights.raw[span][half], scales.zero(half, span), w[half]);
            }
            multiply_span<Config>(acc, w[0], w[1], b, scales.scale(0, span), scales.scale(1, span),
                                  Element{});
        }
    }
};

template <class Config>
__global__ void __launch_bounds__(kGemvWarps* kWarpSize, 2)
    sm80_gemv(const __grid_constant__ GemmParams p) {
    using Lane = GemvLane<Config>;
    constexpr int kAhead = 2;  // k blocks of a warp in flight
    __shared__ float4 parts[kGemvWarps][kWarpSize];
    __shared__ float turn[kTurnFloats];
    __shared__ uint32_t ticket;

    // A thread block's run of units lies in one tile.
    const int64_t first = first_unit(p, static_cast<int>(blockIdx.x));
    const int count = static_cast<int>(first_unit(p, static_cast<int>(blockIdx.x) + 1) - first);
    const Cursor start(p, first);
    const int end = start.k_block + count;
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const Lane rows(p, start.tile);

    int k_block = start.k_block + warp;
    typename Lane::Weights next[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
        next[i] = rows.load(p, k_block + i * kGemvWarps, end);
    }
    grid_dependency_wait();
    grid_launch_dependents();
    float acc[1][1][4] = {};
#pragma unroll 1
    for (; k_block < end; k_block += kAhead * kGemvWarps) {
        typename Lane::Weights weights[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
            weights[i] = next[i];
            next[i] = rows.load(p, k_block + (kAhead + i) * kGemvWarps, end);
        }
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
            Cursor at = start;
            at.k_block = k_block + i * kGemvWarps;
            if (at.k_block < end) {
                const LaneScales<Config, 1> scales(p, at, [&](int local) {
                    return TileRow<kGemvRows, kGemvRows>(p, start.tile, 0, local);
                });
                rows.multiply(p, at.k_block, weights[i], scales, acc[0][0]);
            }
        }
    }

    // Warp 0 adds the warps up in their order and finishes the tile.
    float (&sum)[4] = acc[0][0];
    parts[warp][lane] = make_float4(sum[0], sum[1], sum[2], sum[3]);
    __syncthreads();
    if (warp != 0) {
        return;
    }
#pragma unroll
    for (int other = 1; other < kGemvWarps; ++other) {
        const float4 part = parts[other][lane];
        sum[0] += part.x;
        sum[1] += part.y;
        sum[2] += part.z;
        sum[3] += part.w;
    }
    if (sum_pieces<kWarpSize>(p, start.tile, p.m, acc, &ticket)) {
        store_group<typename Config::Element, TileRow<kGemvRows, kGemvRows>>(p, start.tile, 0, 0,
                                                                             acc, turn);
    }
}

}  // namespace limelight::gemm
