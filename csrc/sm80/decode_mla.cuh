// SPDX-License-Identifier: BSD-3-Clause
// Decode for multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, in its absorbed form): one
// row of 576 columns per key serves as K, its first 512 columns as V. It is read once, into one
// slot of the ring, and both GEMMs take it from there.
//
// The O of a tile is 512 columns wide, too much for the warps that own its rows. So S is divided
// among warps by rows and keys and, where these are few, by headdim too, O by columns, and P
// crosses over in shared memory:
//
//   warp w   S: 16 rows x 16 keys  ->  row maxima  ->  P  ->  O: all rows x 512 / kWarps columns
//
// The maxima are those of all keys of the step, so every warp shrinks its O by the same factors.
#pragma once

#include "sm80/decode.cuh"
#include "sm80/mla_config.h"

namespace limelight::sm80 {

template <class Config>
struct MlaSmem : DecodeSmem<Config> {
    float4 products[2 * (Config::kWarps - Config::kParts) * kWarpSize];  // of shares of headdim
    uint4 p[Config::kParts * kWarpSize];                                 // A fragments of P
    float tops[Config::kKeyGroups * Config::kRows];   // row maxima of a step, by key group
    float shrink[Config::kRows];                      // of O before the step is added
    float2 sums[Config::kKeyGroups * Config::kRows];  // of P, rounded and exact, by key group
};

// One part of S and the softmax of its rows over its keys. Row maxima are the tile's, the same in
// all key groups; sums are this group's. kDepth warps multiply, the first of them goes on.
template <class Config>
struct MlaScores {
    using Part = MlaPart<Config>;
    using Softmax = OnlineSoftmax<typename Config::Element, 1, Part::kTilesN>;

    int part = threadIdx.x / kWarpSize % Config::kParts;
    int depth = threadIdx.x / kWarpSize / Config::kParts;
    int group = part / Config::kRowWarps;
    int warp_row = part % Config::kRowWarps * 16;
    bool active;  // the part has rows
    Softmax softmax;
    float s[1][Part::kTilesN][4];

    LIMELIGHT_DEVICE explicit MlaScores(const TileRows& rows) : active(warp_row < rows.count) {}

    // Q K^T over this warp's share of headdim: every kDepth-th k16 step.
    LIMELIGHT_DEVICE void multiply(MlaSmem<Config>& smem, const QueryFragments<Part>& q,
                                   uint32_t slot) {
        using Layout = typename Config::Layout;
        const uint32_t keys =
            (slot + group * 16 * Layout::kPitchBytes + lane_offset_k_first<Layout>()) ^
            (depth * 32);
#pragma unroll
        for (int n = 0; n < Part::kTilesN; ++n) {
            s[0][n][0] = s[0][n][1] = s[0][n][2] = s[0][n][3] = 0.0f;
        }
#pragma unroll
        for (int step = 0; step < Config::kStepsD; step += Config::kDepth) {
            uint32_t a[4];
            q.get(step + depth, a);
            uint32_t b[4];
            ldmatrix_x4(b, Layout::advance(keys, 2 * step));
            mma_m16n8k16(s[0][0], a, b[0], b[1], typename Config::Element{});
            mma_m16n8k16(s[0][1], a, b[2], b[3], typename Config::Element{});
        }
        if (depth > 0) {
            float4* const to = products(smem, depth);
            to[0] = float4{s[0][0][0], s[0][0][1], s[0][0][2], s[0][0][3]};
            to[kWarpSize] = float4{s[0][1][0], s[0][1][1], s[0][1][2], s[0][1][3]};
        }
    }

    // After a barrier, in the first warp of a part: logits and their row maxima.
    LIMELIGHT_DEVICE void finish(const DecodeCall& call, MlaSmem<Config>& smem,
                                 const TileWork& work, int first_key) {
#pragma unroll
        for (int other = 1; other < Config::kDepth; ++other) {
            const float4* const from = products(smem, other);
#pragma unroll
            for (int n = 0; n < Part::kTilesN; ++n) {
                const float4 x = from[n * kWarpSize];
                s[0][n][0] += x.x;
                s[0][n][1] += x.y;
                s[0][n][2] += x.z;
                s[0][n][3] += x.w;
            }
        }
        const float product = product_scale<Part>(call, work.rows);
        const float scale[2] = {product, product};
        finish_scores<Part>(s, call, work.scores, smem.row_scores + warp_row, scale,
                            first_key + group * Part::kGroupKeys);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float top = quad_max(fmaxf(fmaxf(s[0][0][2 * r], s[0][0][2 * r + 1]),
                                             fmaxf(s[0][1][2 * r], s[0][1][2 * r + 1])));
            if (threadIdx.x % 4 == 0) {
                smem.tops[group * Config::kRows + lane_row(warp_row, r)] = top;
            }
        }
    }

    // After a barrier: P relative to the maxima of all groups.
    LIMELIGHT_DEVICE void exponentiate(MlaSmem<Config>& smem) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int row = lane_row(warp_row, r);
            float top = softmax.row_max[r];
#pragma unroll
            for (int other = 0; other < Config::kKeyGroups; ++other) {
                top = fmaxf(top, smem.tops[other * Config::kRows + row]);
            }
            const float shrink = exp2_approx(softmax.row_max[r] - Softmax::base(top, 1.0f));
            softmax.row_max[r] = top;
            softmax.rounded_sum[r] *= shrink;
            softmax.exact_sum[r] *= shrink;
            if (group == 0 && threadIdx.x % 4 == 0) {
                smem.shrink[row] = shrink;
            }
        }
        typename Softmax::Probabilities p;
        softmax.exponentiate(s, 1.0f, p);
        smem.p[part * kWarpSize + threadIdx.x % kWarpSize] =
            uint4{p[0][0][0], p[0][0][1], p[0][0][2], p[0][0][3]};
    }

    LIMELIGHT_DEVICE void leave_sums(MlaSmem<Config>& smem) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float2 sums = {quad_sum(softmax.rounded_sum[r]), quad_sum(softmax.exact_sum[r])};
            const int row = lane_row(warp_row, r);
            if (threadIdx.x % 4 == 0) {
                smem.sums[group * Config::kRows + row] = sums;
                if (group == 0) {
                    smem.tops[row] = softmax.row_max[r];
                }
            }
        }
    }

  private:
    LIMELIGHT_DEVICE float4* products(MlaSmem<Config>& smem, int depth) const {
        return smem.products + 2 * ((depth - 1) * Config::kParts + part) * kWarpSize +
               threadIdx.x % kWarpSize;
    }
};

// O += P V for all rows and the warp's columns of the block in `slot`.
template <class Config>
LIMELIGHT_DEVICE void gemm_shared_values(float (&o)[Config::kTilesM][Config::kTilesD][4],
                                         const MlaSmem<Config>& smem, uint32_t slot) {
    using Layout = typename Config::Layout;
    const int warp = threadIdx.x / kWarpSize;
    const uint32_t columns = slot + lane_offset_k_first<Layout>() + warp * Config::kColumns * 2;
#pragma unroll
    for (int group = 0; group < Config::kKeyGroups; ++group) {
        uint32_t p[Config::kTilesM][4];
#pragma unroll
        for (int m = 0; m < Config::kTilesM; ++m) {
            const uint4 packed =
                smem.p[(group * Config::kRowWarps + m) * kWarpSize + threadIdx.x % kWarpSize];
            p[m][0] = packed.x;
            p[m][1] = packed.y;
            p[m][2] = packed.z;
            p[m][3] = packed.w;
        }
#pragma unroll
        for (int d = 0; d < Config::kTilesD; d += 2) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, Layout::advance(columns, d) + group * 16 * Layout::kPitchBytes);
#pragma unroll
            for (int m = 0; m < Config::kTilesM; ++m) {
                mma_m16n8k16(o[m][d], p[m], b[0], b[2], typename Config::Element{});
                mma_m16n8k16(o[m][d + 1], p[m], b[1], b[3], typename Config::Element{});
            }
        }
    }
}

// Multiplies O by what the step left in smem.shrink, where any row shrinks.
template <class Config>
LIMELIGHT_DEVICE void shrink_out(float (&o)[Config::kTilesM][Config::kTilesD][4],
                                 const MlaSmem<Config>& smem) {
    float factor[2 * Config::kTilesM];
    bool any = false;
#pragma unroll
    for (int r = 0; r < 2 * Config::kTilesM; ++r) {
        factor[r] = smem.shrink[lane_row(0, r)];
        any = any || factor[r] != 1.0f;
    }
    if (__any_sync(0xffffffffu, any)) {
        rescale<Config>(o, factor);
    }
}

// As attend() of decode.cuh, without unified_max.
template <class Config>
LIMELIGHT_DEVICE void attend_mla(const DecodeCall& call, MlaSmem<Config>& smem,
                                 const TileWork& work, int first_key, int end_key) {
    const int warp = threadIdx.x / kWarpSize;
    const int lane = threadIdx.x % kWarpSize;
    const int first_block = max(work.keys.begin, first_key) / Config::kBlockKV;
    const int end_block = ceil_div(min(work.keys.end, end_key), Config::kBlockKV);

    KvStream<Config> stream(call, work.places, work.rows.head_kv, smem.ring, first_block);
#pragma unroll 1
    for (int slot = 0; slot < Config::kSlots; ++slot) {
        stream.template issue<true>(first_block + slot, end_block, slot);
    }
    const QueryFragments<MlaPart<Config>> q(call, work.rows, smem.q);
    MlaScores<Config> scores(work.rows);
    const bool leads = scores.active && scores.depth == 0;
    if (!scores.active && scores.depth == 0) {
        smem.p[scores.part * kWarpSize + lane] = uint4{0u, 0u, 0u, 0u};
        if (scores.group == 0 && lane < 16) {
            smem.shrink[scores.warp_row + lane] = 1.0f;
        }
    }

    float o[Config::kTilesM][Config::kTilesD][4] = {};
    const uint32_t ring = smem_address(smem.ring);
    int slot = 0;
#pragma unroll 1
    for (int block = first_block; block < end_block; ++block) {
        cp_async_wait<Config::kSlots - 1>();
        __syncthreads();
        const uint32_t keys = ring + slot * Config::kSlotBytes;
        if (scores.active) {
            scores.multiply(smem, q, keys);
        }
        if constexpr (Config::kDepth > 1) {
            __syncthreads();
        }
        if (leads) {
            scores.finish(call, smem, work, block * Config::kBlockKV);
        }
        __syncthreads();
        if (leads) {
            scores.exponentiate(smem);
        }
        __syncthreads();
        shrink_out<Config>(o, smem);
        gemm_shared_values<Config>(o, smem, keys);
        __syncthreads();  // the slot is free
        stream.template issue<true>(block + Config::kSlots, end_block, slot);
        slot = slot + 1 == Config::kSlots ? 0 : slot + 1;
    }
    cp_async_wait<0>();
    __syncthreads();  // ring and Q are free

#pragma unroll
    for (int r = 0; r < 2 * Config::kTilesM; ++r) {
        float* const to = smem.staging + lane_row(0, r) * Config::kStagingPitch +
                          warp * Config::kColumns + lane % 4 * 2;
#pragma unroll
        for (int d = 0; d < Config::kTilesD; ++d) {
            const float* const pair = &o[r / 2][d][2 * (r % 2)];
            *reinterpret_cast<float2*>(to + d * 8) = float2{pair[0], pair[1]};
        }
    }
    if (leads) {
        scores.leave_sums(smem);
    }
    __syncthreads();
    const int row = static_cast<int>(threadIdx.x);
    if (row < work.rows.count) {
        float4 statistics = {smem.tops[row], 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int group = 0; group < Config::kKeyGroups; ++group) {
            const float2 sums = smem.sums[group * Config::kRows + row];
            statistics.y += sums.x;
            statistics.z += sums.y;
        }
        smem.statistics[row] = statistics;
    }
    __syncthreads();
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    sm80_attention_decode_mla(const __grid_constant__ DecodeCall call) {
    extern __shared__ __align__(128) char dynamic_smem[];
    auto& smem = *reinterpret_cast<MlaSmem<Config>*>(dynamic_smem);
    walk_tiles<Config>(call, smem, [&](const TileWork& work, int first_key, int end_key) {
        attend_mla<Config>(call, smem, work, first_key, end_key);
    });
}

}  // namespace limelight::sm80
