// SPDX-License-Identifier: BSD-3-Clause
// Attention forward on mma.sync: FlashAttention-2 (Dao, 2023), work split over warps along q.
//
// Grid: one thread block per (batch, head, q block). A warp owns kBlockQ / kWarps rows of q, their
// S, P, O and softmax statistics in registers; warps share K and V in shared memory and exchange
// nothing.
//
//   cp.async   K0 | V0 ........... | K1 ........ | V1 ...       (kStages = 1; more stages load
//   further ahead) tensor          S0 = Q K0^T    |             | O += P0 V0, S1 = ... fp32 |
//   softmax(S0) |
//
// KV blocks are visited from the last to the first. One commit group per load, so at every wait the
// newest 2 * (kStages - 1) groups may still be in flight.
#pragma once

#include "attention/dropout.cuh"
#include "attention/softmax.cuh"
#include "sm80/fwd_config.h"
#include "sm80/tile.cuh"

namespace limelight::sm80 {

// Zeroes what dropout removes of the rounded P.
template <class Config>
LIMELIGHT_DEVICE void drop_probabilities(uint32_t (&p)[Config::kTilesM][Config::kTilesN / 2][4],
                                         const Dropout& dropout, int warp_row, int first_column) {
#pragma unroll
    for (int m = 0; m < Config::kTilesM; ++m) {
#pragma unroll
        for (int step = 0; step < Config::kTilesN / 2; ++step) {
            const uint4 four =
                dropout.words(warp_row + m * 16, first_column + step * 16, threadIdx.x % kWarpSize);
            const uint32_t words[2][2] = {{four.x, four.y}, {four.z, four.w}};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint32_t word = words[i % 2][i / 2];  // [row half][column half]
                p[m][step][i] &= pair_mask(dropout.keeps_even(word), dropout.keeps_odd(word));
            }
        }
    }
}

template <class Config>
LIMELIGHT_DEVICE void store_output(const float (&o)[Config::kTilesM][Config::kTilesD][4],
                                   typename Config::Element* q_tile, const FwdParams& params) {
    using Element = typename Config::Element;
    const Tile tile = tile_of_block(params);
    const Sequence sequence = sequence_of(params, tile.batch);
    const int q_begin = tile.q_block * Config::kBlockQ;
    Element* const out =
        static_cast<Element*>(params.out) + sequence.q_batch * params.out_strides.batch +
        (sequence.q_row + q_begin) * params.out_strides.row + tile.head * params.out_strides.head;
    store_rows<Config>(o, q_tile, out, params.out_strides.row, sequence.seqlen_q - q_begin,
                       sequence.q_extent - q_begin, params.headdim_v);
}

template <class Config>
LIMELIGHT_DEVICE void store_lse(const float (&lse)[2 * Config::kTilesM], const FwdParams& params) {
    const Tile tile = tile_of_block(params);
    const Sequence sequence = sequence_of(params, tile.batch);
    const int warp_row =
        tile.q_block * Config::kBlockQ + threadIdx.x / kWarpSize * (Config::kTilesM * 16);
    float* const rows = params.lse + sequence.q_batch * params.lse_batch_stride +
                        tile.head * params.lse_head_stride + sequence.q_row;
#pragma unroll
    for (int r = 0; r < 2 * Config::kTilesM; ++r) {
        const int row = lane_row(warp_row, r);
        if (threadIdx.x % 4 == 0 && row < sequence.q_extent) {
            rows[row] = row < sequence.seqlen_q ? lse[r] : -INFINITY;
        }
    }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads)
    sm80_attention_fwd(const __grid_constant__ FwdParams params) {
    using Element = typename Config::Element;
    using Softmax = OnlineSoftmax<Element, Config::kTilesM, Config::kTilesN>;
    extern __shared__ __align__(128) char dynamic_smem[];
    auto& smem = *reinterpret_cast<typename Config::Smem*>(dynamic_smem);

    const Tile tile = tile_of_block(params);
    const Sequence sequence = sequence_of(params, tile.batch);
    const int q_begin = tile.q_block * Config::kBlockQ;
    if (q_begin >= sequence.q_extent) {
        return;
    }
    const int head_kv = tile.head / params.heads_per_kv;
    const TileLoader<Config> q(head_rows(static_cast<const Element*>(params.q), params.q_strides,
                                         sequence.q_batch, sequence.q_row, tile.head),
                               params.q_strides.row, params.headdim);
    const TileLoader<Config> k(head_rows(static_cast<const Element*>(params.k), params.k_strides,
                                         sequence.k_batch, sequence.k_row, head_kv),
                               params.k_strides.row, params.headdim);
    const TileLoader<Config> v(head_rows(static_cast<const Element*>(params.v), params.v_strides,
                                         sequence.k_batch, sequence.k_row, head_kv),
                               params.v_strides.row, params.headdim_v);

    const int warp_first = threadIdx.x / kWarpSize * (Config::kTilesM * 16);  // inside the tile
    const int warp_row = q_begin + warp_first;                                // inside the sequence
    const Mask mask(params, sequence, 0);
    const int q_end = min(q_begin + Config::kBlockQ, sequence.seqlen_q);
    KvBlocks blocks(mask, q_begin, q_end, Config::kBlockKV);
    if (q_begin >= q_end) {
        blocks.end = blocks.begin;  // only rows past seqused_q: nothing to load
    }

    Ring<Config::kStages> compute, fill_k, fill_v;
    const auto load_k = [&](int block) {
        if (block >= blocks.begin) {
            k.template load<Config::kBlockKV>(smem.k[fill_k.stage], block * Config::kBlockKV,
                                              mask.seqlen_k);
        }
        cp_async_commit();
        fill_k.advance();
    };
    const auto load_v = [&](int block) {
        if (block >= blocks.begin) {
            v.template load<Config::kBlockKV>(smem.v[fill_v.stage], block * Config::kBlockKV,
                                              mask.seqlen_k);
        }
        cp_async_commit();
        fill_v.advance();
    };

    float o[Config::kTilesM][Config::kTilesD][4] = {};
    Softmax softmax;
    const float scale = Config::kChangeScores ? 1.0f : params.scale_log2;

    if (blocks.begin < blocks.end) {
        q.template load<Config::kBlockQ>(smem.q, q_begin, q_end);
        load_k(blocks.end - 1);  // Q travels in the group of the first K
#pragma unroll
        for (int ahead = 1; ahead < Config::kStages; ++ahead) {
            load_v(blocks.end - ahead);
            load_k(blocks.end - 1 - ahead);
        }
    }
    const uint32_t q_rows = smem_address(smem.q) + warp_first * Config::Layout::kPitchBytes;
    constexpr int kInFlight = 2 * (Config::kStages - 1);

    for (int block = blocks.end - 1; block >= blocks.begin; --block) {
        const int first_column = block * Config::kBlockKV;
        float s[Config::kTilesM][Config::kTilesN][4];
        typename Softmax::Probabilities p;
        float shrink[Softmax::kRows];

        cp_async_wait<kInFlight>();
        __syncthreads();  // K of this block has landed; every warp is done with the V slot to fill
        load_v(block - (Config::kStages - 1));

        gemm_rows<Config>(s, q_rows, smem_address(smem.k[compute.stage]));
        if constexpr (Config::kChangeScores) {
            change_scores<Config>(s, params, tile, mask, warp_row, first_column);
        }
        if (!blocks.full(block)) {
            mask_scores<Config>(s, mask, warp_row, first_column);
        }

        cp_async_wait<kInFlight>();
        __syncthreads();  // V of this block has landed; every warp is done with the K slot to fill
        load_k(block - Config::kStages);

        softmax.raise_max(s, scale, shrink);
        rescale<Config>(o, shrink);
        softmax.exponentiate(s, scale, p);
        if constexpr (Config::kChangeScores) {
            if (params.dropout_threshold > 0) {
                drop_probabilities<Config>(p, Dropout(params, tile.batch, tile.head), warp_row,
                                           first_column);
            }
        }
        gemm_columns<Config>(o, p, smem_address(smem.v[compute.stage]));
        compute.advance();
    }

    float sink[Softmax::kRows];
    float normalise[Softmax::kRows];
    float lse[Softmax::kRows];
#pragma unroll
    for (float& x : sink) {
        x = params.sink == nullptr ? -INFINITY : params.sink[tile.head] * kLog2e;
    }
    softmax.finish(scale, sink, normalise, lse);
    if constexpr (Config::kChangeScores) {
#pragma unroll
        for (float& factor : normalise) {
            factor *= params.dropout_scale;
        }
    }
    rescale<Config>(o, normalise);
    store_output<Config>(o, smem.q, params);
    store_lse<Config>(lse, params);
}

}  // namespace limelight::sm80
