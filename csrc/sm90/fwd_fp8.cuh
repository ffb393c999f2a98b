// SPDX-License-Identifier: BSD-3-Clause
// Attention forward on e4m3 Q, K and V: the roles of fwd.cuh, with three warps of the producer
// warpgroup turning V in between.
//
// The tensor cores sum e4m3 products with about 14 bits. S sums few steps and is left at that; O
// would sum all keys, so each KV block goes into fresh accumulators, which are added to O in fp32.
// P is rounded to e4m3, and a column of ones beside V makes the row sum of exactly that P.
#pragma once

#include <utility>

#include "sm90/consumer.cuh"
#include "sm90/fwd_fp8_config.h"
#include "sm90/producer.cuh"
#include "sm90/softmax_fp8.cuh"
#include "sm90/store.cuh"
#include "sm90/transpose_fp8.cuh"

namespace limelight::sm90 {

LIMELIGHT_DEVICE float descale(const float* scales, const DescaleStrides& strides, int batch,
                               int head_kv) {
    return scales == nullptr ? 1.0f : scales[batch * strides.batch + head_kv * strides.head];
}

// What turns Q K^T of one (batch, head) into scores, to base 2 unless the scores change further.
// The softmax takes maxima before it scales: 0 becomes the next best factor, a negative one NaN.
template <class Config>
LIMELIGHT_DEVICE float score_scale(const FwdParams& call, const Tile& tile, int head_kv) {
    constexpr float kLeast = 1e-30f;
    const float both = descale(call.q_descale, call.q_descale_strides, tile.batch, head_kv) *
                       descale(call.k_descale, call.k_descale_strides, tile.batch, head_kv);
    if constexpr (Config::kChangeScores) {
        return both;
    }
    const float scale = both * call.scale_log2;
    return scale >= 0.0f ? fmaxf(scale, kLeast) : NAN;
}

template <class Config>
LIMELIGHT_DEVICE void prepare_fp8_scores(float (&s)[1][Config::kTilesN][4],
                                         const FwdKernelParams& params, const Work<Config>& work,
                                         float scale, int warp_row, int block) {
    const int first_column = block * Config::kBlockKV;
    const Mask mask(params.call, work.sequence);
    if constexpr (Config::kChangeScores) {
#pragma unroll
        for (float& x : flat(s)) {
            x *= scale;
        }
        // Opaque: positions kept in registers for all steps leave wgmma too few (C7511).
        sm80::change_scores<Config>(s, params.call, work.tile, mask, opaque(warp_row),
                                    opaque(first_column));
    }
    if (!work.blocks.full(block)) {
        mask_scores<Config>(s, params, work, mask, opaque(warp_row), first_column);
    }
}

// The descriptor of a ring's slot. Opaque, as Q's: otherwise the compiler keeps those of all steps
// in registers throughout, which then are too few.
template <class TileLayout>
LIMELIGHT_DEVICE uint64_t slot_of(uint64_t ring, uint32_t count) {
    return ring + stage_of(opaque(count)) * (TileLayout::kBytes / 16);
}

// Calls f(0), f(1), ... with numbers that are constants.
template <int... kNumbers, class F>
LIMELIGHT_DEVICE void for_each_number(std::integer_sequence<int, kNumbers...>, F f) {
    (f(std::integral_constant<int, kNumbers>{}), ...);
}

// Columns of O that one pass of P V makes; the last part has the row sums too.
template <class Config, int kPart>
struct OutputPart {
    static constexpr int kFirst = kPart * Config::kHeadDimV / Config::kParts;
    static constexpr int kColumns =
        Config::kHeadDimV / Config::kParts + (kPart == Config::kParts - 1 ? kOnesRows : 0);
    using Registers = float[kColumns / 2];

    // Issues fresh = P V.
    LIMELIGHT_DEVICE static void issue(Registers& fresh,
                                       const uint32_t (&p)[1][Config::kTilesN / 4][4],
                                       uint64_t turned) {
#pragma unroll
        for (int step = 0; step < Config::kBlockKV / 32; ++step) {
            Wgmma<kColumns, typename Config::Element>::rs(
                fresh, p[0][step],
                turned + (kFirst * Config::TurnedTile::kRowBytes + step * 32) / 16, step > 0);
        }
    }
    // O = O * shrink + fresh.
    LIMELIGHT_DEVICE static void add(float (&o)[1][Config::kTilesO][4], const Registers& fresh,
                                     const float (&shrink)[2]) {
#pragma unroll
        for (int i = 0; i < kColumns / 2; ++i) {
            float& x = o[0][kFirst / 8 + i / 4][i % 4];
            x = x * shrink[i % 4 / 2] + fresh[i];
        }
    }
};

template <class Config>
LIMELIGHT_DEVICE void consume_fp8(const FwdKernelParams& params, typename Config::Smem& smem) {
    using Softmax = Fp8Softmax<Config::kTilesN>;
    using Parts = std::make_integer_sequence<int, Config::kParts>;
    using QTile = typename Config::QTile;
    using KTile = typename Config::KTile;
    using TurnedTile = typename Config::TurnedTile;
    using OTile = typename Config::OTile;
    const int group = warpgroup_index() - 1;
    const int group_row = group * Config::kGroupRows;
    const int warp_first = group_row + threadIdx.x % kWarpgroupSize / kWarpSize * 16;

    const uint64_t q =
        wgmma_descriptor<QTile::kRowBytes>(smem_address(smem.q + group_row * QTile::kPanel), 0);
    const uint64_t k = wgmma_descriptor<KTile::kRowBytes>(smem_address(smem.k), 0);
    const uint64_t turned = wgmma_descriptor<TurnedTile::kRowBytes>(smem_address(smem.turned), 0);
    char* const out_tile = reinterpret_cast<char*>(smem.out) + group_row * OTile::kRowBytes;

    uint32_t keys_seen = 0;  // blocks of K: V's are one behind in both rings
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
                store_nothing<Config, __nv_bfloat16>(params, work, warp_row);
            }
            continue;
        }
        const int head_kv = params.by_heads_per_kv.quotient(work.tile.head);
        const float scale = score_scale<Config>(params.call, work.tile, head_kv);
        const float log2_scale = Config::kChangeScores ? 1.0f : scale;
        float s[1][Config::kTilesN][4];
        float o[1][Config::kTilesO][4] = {};
        typename Softmax::Probabilities p;
        float shrink[Softmax::kRows];
        Softmax softmax;

        const auto score = [&] {
            mbarrier_wait(smem.k_full[stage_of(keys_seen)], phase_of(keys_seen));
            wgmma_hold(flat(s));
            wgmma_fence();
            issue_scores<Config>(s, q + opaque(0), slot_of<KTile>(k, keys_seen));
            wgmma_commit();
        };
        // Scores that have arrived, ready for the softmax; `factor`: how much O shrinks for them.
        const auto take_scores = [&](int block, float (&factor)[Softmax::kRows]) {
            wgmma_hold(flat(s));
            release(smem.k_empty[stage_of(keys_seen)]);
            ++keys_seen;
            prepare_fp8_scores<Config>(s, params, work, scale, warp_row, block);
            softmax.raise_max(s, log2_scale, factor);
        };
        // O = O * shrink + P V by parts; `meanwhile(part)` runs under each.
        const auto output = [&](auto after_first_issue, auto meanwhile) {
            float fresh[(Config::kHeadDimV / Config::kParts + kOnesRows) / 2];
            const uint32_t count = keys_seen - 1;
            mbarrier_wait(smem.turned_full[stage_of(count)], phase_of(count));
            const uint64_t v = slot_of<TurnedTile>(turned, count);
            for_each_number(Parts{}, [&](auto part) {
                constexpr int kPart = decltype(part)::value;
                using Part = OutputPart<Config, kPart>;
                auto& registers = reinterpret_cast<typename Part::Registers&>(fresh);
                wgmma_hold(reinterpret_cast<uint32_t (&)[Config::kTilesN]>(p));
                wgmma_fence();
                Part::issue(registers, p, v);
                wgmma_commit();
                if constexpr (kPart == 0) {
                    after_first_issue();
                }
                meanwhile(part);
                wgmma_wait<0>();
                wgmma_hold(registers);
                Part::add(o, registers, shrink);
            });
            release(smem.turned_empty[stage_of(count)]);
        };
        const auto exponentiate = [&](auto part) {
            constexpr int kPart = decltype(part)::value;
            constexpr int kTiles = Config::kTilesN / Config::kParts;
            softmax.template exponentiate_in_place<kPart * kTiles, (kPart + 1) * kTiles>(
                s, log2_scale);
        };

        mbarrier_wait(smem.q_full[group], q_phase);
        q_phase ^= 1;
        score();
        wgmma_wait<0>();
        take_scores(work.blocks.end - 1, shrink);
        for_each_number(Parts{}, exponentiate);
        Softmax::round(s, p);
#pragma unroll 1
        for (int block = work.blocks.end - 2; block >= work.blocks.begin; --block) {
            turns.take();
            if constexpr (Config::kOverlap) {
                float next_shrink[Softmax::kRows];
                score();
                output(
                    [&] {
                        turns.pass();
                        wgmma_wait<1>();
                        take_scores(block, next_shrink);
                    },
                    exponentiate);
                shrink[0] = next_shrink[0];
                shrink[1] = next_shrink[1];
            } else {
                output([] {}, [](auto) {});
                score();
                turns.pass();
                wgmma_wait<0>();
                take_scores(block, shrink);
                for_each_number(Parts{}, exponentiate);
            }
            Softmax::round(s, p);
        }
        release(smem.q_empty[group]);
        output([] {}, [](auto) {});

        float sink[Softmax::kRows];
        load_sinks<Config>(sink, params, work, warp_row);
        const float v_scale =
            descale(params.call.v_descale, params.call.v_descale_strides, work.tile.batch,
                    params.by_heads_per_kv.quotient(work.tile.head));
        const float rounded_sum[] = {o[0][Config::kTilesD][0], o[0][Config::kTilesD][2]};
        float normalise[Softmax::kRows];
        float lse[Softmax::kRows];
        softmax.finish(log2_scale, sink, v_scale, rounded_sum, normalise, lse);
        store_lse<Config>(lse, params, work, warp_row);
        rescale(o, normalise);
        if (params.splits > 1) {
            store_partial<Config>(o, params, work, warp_row);
        } else if (params.call.out_dtype == Dtype::kFloat16) {
            store_output<Config, __half>(o, params, work, group, out_tile);
        } else {
            store_output<Config, __nv_bfloat16>(o, params, work, group, out_tile);
        }
    }
    turns.finish();
    if (threadIdx.x % kWarpgroupSize == 0) {
        tma_store_wait_read();  // shared memory stays until the last store has read it
    }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    sm90_attention_fwd_fp8(const __grid_constant__ FwdKernelParams params) {
    extern __shared__ __align__(1024) char dynamic_smem[];
    auto& smem = *reinterpret_cast<typename Config::Smem*>(dynamic_smem);
    constexpr int kWarpsPerGroup = kWarpgroupSize / kWarpSize;

    if (threadIdx.x == 0) {
        for (int group = 0; group < Config::kConsumers; ++group) {
            mbarrier_init(smem.q_full[group], 1);
            mbarrier_init(smem.q_empty[group], kWarpsPerGroup);
        }
        for (int stage = 0; stage < kStages; ++stage) {
            mbarrier_init(smem.k_full[stage], 1);
            mbarrier_init(smem.k_empty[stage], Config::kConsumers * kWarpsPerGroup);
            mbarrier_init(smem.v_full[stage], 1);
            mbarrier_init(smem.v_empty[stage], Config::kTransposers);
            mbarrier_init(smem.turned_full[stage], Config::kTransposers);
            mbarrier_init(smem.turned_empty[stage], Config::kConsumers * kWarpsPerGroup);
        }
        fence_mbarrier_init();
    }
    write_ones<Config>(smem);
    __syncthreads();

    if (warpgroup_index() == 0) {
        give_registers_back<Config::kProducerRegisters>();
        if (threadIdx.x < kWarpSize) {
            load_tiles<Config>(params, smem);
        } else {
            transpose_v<Config>(params, smem);
        }
    } else {
        take_registers<Config::kConsumerRegisters>();
        consume_fp8<Config>(params, smem);
    }
}

}  // namespace limelight::sm90
