// SPDX-License-Identifier: BSD-3-Clause
// Attention forward on TMA and wgmma: FlashAttention-3's roles (Shah et al., 2024,
// arXiv 2407.08608).
//
// Grid: one persistent thread block per SM. Warpgroup 0 loads, each other one owns 64 rows of q,
// their S, P, O and softmax statistics in registers. K and V travel through rings of kStages slots.
//
//   tensor   S0 | S1, O += P0 V0 | S2, O += P1 V1 | ... | O += Pn Vn
//   others      softmax(S0)      | softmax(S1)    | ...
//
// Within a warpgroup the scores of the next block are issued before the output of this one, so that
// its softmax has a GEMM to run under; between warpgroups turns do the same. KV blocks are visited
// from the last to the first.
#pragma once

#include "sm90/consumer.cuh"
#include "sm90/fwd_config.h"
#include "sm90/gather.cuh"
#include "sm90/producer.cuh"
#include "sm90/store.cuh"

namespace limelight::sm90 {

// Scores of one block as the softmax wants them.
template <class Config>
LIMELIGHT_DEVICE void prepare_scores(float (&s)[1][Config::kTilesN][4],
                                     const FwdKernelParams& params, const Work<Config>& work,
                                     int warp_row, int block) {
    const int first_column = block * Config::kBlockKV;
    const Mask mask(params.call, work.sequence);
    if constexpr (Config::kChangeScores) {
        sm80::change_scores<Config>(s, params.call, work.tile, mask, warp_row, first_column);
    }
    if (!work.blocks.full(block)) {
        mask_scores<Config>(s, params, work, mask, warp_row, first_column);
    }
}

template <class Config>
LIMELIGHT_DEVICE void consume(const FwdKernelParams& params, typename Config::Smem& smem) {
    using Element = typename Config::Element;
    using Softmax = OnlineSoftmax<Element, 1, Config::kTilesN>;
    using QTile = typename Config::QTile;
    using KTile = typename Config::KTile;
    using VTile = typename Config::VTile;
    using OTile = typename Config::OTile;
    const int group = warpgroup_index() - 1;
    const int group_row = group * Config::kGroupRows;
    const int warp_first = group_row + threadIdx.x % kWarpgroupSize / kWarpSize * 16;
    const float scale = Config::kChangeScores ? 1.0f : params.call.scale_log2;

    const uint64_t q =
        wgmma_descriptor<QTile::kRowBytes>(smem_address(smem.q + group_row * QTile::kPanel), 0);
    const uint64_t k = wgmma_descriptor<KTile::kRowBytes>(smem_address(smem.k), 0);
    const uint64_t v = wgmma_descriptor<VTile::kRowBytes>(smem_address(smem.v), VTile::kPanelBytes);
    char* const out_tile = reinterpret_cast<char*>(Config::kOwnOutput ? smem.out : smem.q) +
                           group_row * OTile::kRowBytes;

    Ring<kStages> k_slot, v_slot;
    uint32_t q_phase = 0;
    const Turns<Config> turns(group);

    for (int round = 0;; ++round) {
        const int index = tile_index(round);
        if (index >= params.num_items) {
            break;
        }
        const Work<Config> work(params, index);
        const int warp_row = work.q_begin + warp_first;
        if (!work.loads()) {
            if (work.exists()) {
                store_nothing<Config>(params, work, warp_row);
            }
            continue;
        }
        float s[1][Config::kTilesN][4];
        float o[1][Config::kTilesO][4] = {};
        typename Softmax::Probabilities p;
        float shrink[Softmax::kRows];
        Softmax softmax;

        mbarrier_wait(smem.q_full[group], q_phase);
        q_phase ^= 1;
        mbarrier_wait(smem.k_full[k_slot.stage], k_slot.phase);
        wgmma_fence();
        issue_scores<Config>(s, q, k + k_slot.stage * KTile::kBytes / 16);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_hold(flat(s));
        release(smem.k_empty[k_slot.stage]);
        k_slot.advance();
        prepare_scores<Config>(s, params, work, warp_row, work.blocks.end - 1);
        softmax.raise_max_lazily(s, scale, shrink);  // O is still zero
        softmax.exponentiate_in_place(s, scale);
        softmax.template round<!Config::kSumColumn>(s, p);

#pragma unroll 1
        for (int block = work.blocks.end - 2; block >= work.blocks.begin; --block) {
            mbarrier_wait(smem.k_full[k_slot.stage], k_slot.phase);
            turns.take();
            wgmma_hold(flat(o));
            wgmma_hold(reinterpret_cast<uint32_t (&)[Config::kTilesN * 2]>(p));
            wgmma_fence();
            issue_scores<Config>(s, q, k + k_slot.stage * KTile::kBytes / 16);
            wgmma_commit();
            mbarrier_wait(smem.v_full[v_slot.stage], v_slot.phase);
            wgmma_fence();
            issue_output<Config>(o, p, v + v_slot.stage * sizeof(smem.v[0]) / 16);
            wgmma_commit();
            turns.pass();

            wgmma_wait<1>();
            wgmma_hold(flat(s));
            release(smem.k_empty[k_slot.stage]);
            k_slot.advance();
            prepare_scores<Config>(s, params, work, warp_row, block);
            const bool shrinks = softmax.raise_max_lazily(s, scale, shrink);
            softmax.exponentiate_in_place(s, scale);

            wgmma_wait<0>();
            wgmma_hold(flat(o));
            release(smem.v_empty[v_slot.stage]);
            v_slot.advance();
            if (shrinks) {
                rescale(o, shrink);
            }
            softmax.template round<!Config::kSumColumn>(s, p);
        }

        if constexpr (Config::kOwnOutput) {
            release(smem.q_empty[group]);
        }
        mbarrier_wait(smem.v_full[v_slot.stage], v_slot.phase);
        wgmma_hold(flat(o));
        wgmma_hold(reinterpret_cast<uint32_t (&)[Config::kTilesN * 2]>(p));
        wgmma_fence();
        issue_output<Config>(o, p, v + v_slot.stage * sizeof(smem.v[0]) / 16);
        wgmma_commit();
        float sink[Softmax::kRows];
        load_sinks<Config>(sink, params, work, warp_row);
        float normalise[Softmax::kRows];
        float lse[Softmax::kRows];
        if constexpr (!Config::kSumColumn) {
            softmax.finish(scale, sink, normalise, lse);
        }
        wgmma_wait<0>();
        wgmma_hold(flat(o));
        release(smem.v_empty[v_slot.stage]);
        v_slot.advance();
        if constexpr (Config::kSumColumn) {
            // Each lane holds the whole sum in its columns of ones; finish() adds four lanes up.
            softmax.rounded_sum[0] = o[0][Config::kTilesD][0] * 0.25f;
            softmax.rounded_sum[1] = o[0][Config::kTilesD][2] * 0.25f;
            softmax.finish(scale, sink, normalise, lse);
        }
        store_lse<Config>(lse, params, work, warp_row);

        rescale(o, normalise);
        if (params.splits > 1) {
            store_partial<Config>(o, params, work, warp_row);
        } else {
            store_output<Config>(o, params, work, group, out_tile);
        }
        if constexpr (!Config::kOwnOutput) {
            if (threadIdx.x % kWarpgroupSize == 0) {
                tma_store_wait_read();
            }
            // The next Q, which TMA writes, must not overtake plain reads of O in its place.
            fence_async_proxy();
            release(smem.q_empty[group]);
        }
    }
    turns.finish();
    if (threadIdx.x % kWarpgroupSize == 0) {
        tma_store_wait_read();  // shared memory stays until the last store has read it
    }
}

// All threads, once, before a __syncthreads: the panel of ones beside each slot of V.
template <class Config>
LIMELIGHT_DEVICE void write_columns_of_ones(typename Config::Smem& smem) {
    const uint32_t pair = pack2(1.0f, 1.0f, typename Config::Element{});
    for (int stage = 0; stage < kStages; ++stage) {
        auto* const ones = smem.v[stage] + Config::VTile::kElements;
#pragma unroll 1
        for (int i = threadIdx.x * 8; i < Config::kOnesElements; i += Config::kThreads * 8) {
            *reinterpret_cast<uint4*>(ones + i) = make_uint4(pair, pair, pair, pair);
        }
    }
    fence_async_proxy();
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    sm90_attention_fwd(const __grid_constant__ FwdKernelParams params) {
    extern __shared__ __align__(1024) char dynamic_smem[];
    auto& smem = *reinterpret_cast<typename Config::Smem*>(dynamic_smem);
    constexpr int kWarpsPerGroup = kWarpgroupSize / kWarpSize;

    if (threadIdx.x == 0) {
        for (int group = 0; group < Config::kConsumers; ++group) {
            mbarrier_init(smem.q_full[group], 1);
            mbarrier_init(smem.q_empty[group], kWarpsPerGroup);
        }
        for (int stage = 0; stage < kStages; ++stage) {
            mbarrier_init(smem.k_full[stage], params.gather ? Config::kGatherWarps : 1);
            mbarrier_init(smem.v_full[stage], params.gather ? Config::kGatherWarps : 1);
            mbarrier_init(smem.v_landed[stage], 1);
            mbarrier_init(smem.k_empty[stage], Config::kConsumers * kWarpsPerGroup);
            mbarrier_init(smem.v_empty[stage], Config::kConsumers * kWarpsPerGroup);
        }
        fence_mbarrier_init();
    }
    if constexpr (Config::kSumColumn) {
        write_columns_of_ones<Config>(smem);
    }
    __syncthreads();

    if (warpgroup_index() == 0) {
        give_registers_back<Config::kProducerRegisters>();
        if (params.gather) {
            gather_tiles<Config>(params, smem);
        } else {
            produce<Config>(params, smem);
        }
    } else {
        take_registers<Config::kConsumerRegisters>();
        consume<Config>(params, smem);
    }
}

}  // namespace limelight::sm90
