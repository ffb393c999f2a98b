// SPDX-License-Identifier: BSD-3-Clause
// The producer warpgroup: one thread issues all TMA loads, one warp clears the tails of V.
#pragma once

#include "arch/mbarrier.cuh"
#include "arch/tma.cuh"
#include "sm90/schedule.cuh"

namespace limelight::sm90 {

// The next rows of a tensor into a shared tile or a part of its rows (kPanelBytes apart).
template <class TileLayout>
LIMELIGHT_DEVICE void load_panels(void* smem, const TensorView& view, int row, int head,
                                  int64_t batch, uint64_t& barrier) {
#pragma unroll
    for (int panel = 0; panel < TileLayout::kPanels; ++panel) {
        tma_load_4d(static_cast<char*>(smem) + panel * TileLayout::kPanelBytes, view.map,
                    panel * TileLayout::kPanel, row, head * view.head_step,
                    static_cast<int>(batch) * view.batch_step, barrier);
    }
}

// Rows [first, first + 64) of a tile of q: rows of several heads each.
template <class Config>
LIMELIGHT_DEVICE void load_q(void* smem, const FwdKernelParams& params, const Work<Config>& work,
                             int first, uint64_t& barrier) {
    using QTile = typename Config::QTile;
    const int row = work.q_row() + work.token(params, first);
#pragma unroll
    for (int panel = 0; panel < QTile::kPanels; ++panel) {
        tma_load_4d(static_cast<char*>(smem) + panel * QTile::kPanelBytes, params.q.map,
                    panel * QTile::kPanel, work.tile.head * params.q.head_step, row,
                    work.q_batch() * params.q.batch_step, barrier);
    }
}

// One thread. K runs one block ahead of V, in the order in which the consumers need them:
//   K[n] Q | K[n-1] V[n] | ... | K[0] V[1] | V[0]
template <class Config>
LIMELIGHT_DEVICE void load_tiles(const FwdKernelParams& params, typename Config::Smem& smem) {
    using QTile = typename Config::QTile;
    using KTile = typename Config::KTile;
    using VTile = typename Config::VTile;
    Ring<kStages> k_slot, v_slot;
    uint32_t q_phase = 0;
    for (int round = 0;; ++round) {
        const int index = tile_index(round);
        if (index >= params.num_tiles) {
            return;
        }
        const Work<Config> work(params, index);
        if (!work.loads()) {
            continue;
        }
        const int head_kv = params.by_heads_per_kv.quotient(work.tile.head);
        const int k_row = static_cast<int>(work.sequence.k_row);
        const auto load_k = [&](int block) {
            mbarrier_wait(smem.k_empty[k_slot.stage], k_slot.phase ^ 1);
            uint64_t& full = smem.k_full[k_slot.stage];
            mbarrier_arrive_expect_tx(full, KTile::kBytes);
            load_panels<KTile>(smem.k[k_slot.stage], params.k, k_row + block * Config::kBlockKV,
                               head_kv, work.sequence.k_batch, full);
            k_slot.advance();
        };
        const auto load_v = [&](int block) {
            mbarrier_wait(smem.v_empty[v_slot.stage], v_slot.phase ^ 1);
            uint64_t& full = Config::v_arrival(smem, v_slot.stage, work.has_tail(params, block));
            mbarrier_arrive_expect_tx(full, VTile::kBytes);
            load_panels<VTile>(smem.v[v_slot.stage], params.v, k_row + block * Config::kBlockKV,
                               head_kv, work.sequence.k_batch, full);
            v_slot.advance();
        };
        load_k(work.blocks.end - 1);
#pragma unroll 1
        for (int group = 0; group < Config::kConsumers; ++group) {
            mbarrier_wait(smem.q_empty[group], q_phase ^ 1);
            mbarrier_arrive_expect_tx(smem.q_full[group], QTile::kBytes / Config::kConsumers);
            const int first = group * Config::kGroupRows;
            load_q<Config>(smem.q + first * QTile::kPanel, params, work, work.q_begin + first,
                           smem.q_full[group]);
        }
        q_phase ^= 1;
#pragma unroll 1
        for (int block = work.blocks.end - 1; block > work.blocks.begin; --block) {
            load_k(block - 1);
            load_v(block);
        }
        load_v(work.blocks.begin);
    }
}

// One warp. Zeroes the rows of V past the sequence, whose P is 0 but whose own values may be NaN,
// and hands the tile on to the consumers.
template <class Config>
LIMELIGHT_DEVICE void clear_v_tails(const FwdKernelParams& params, typename Config::Smem& smem) {
    using VTile = typename Config::VTile;
    const int lane = threadIdx.x % kWarpSize;
    int blocks_before = 0;
    uint32_t phases = 0;  // bit s: phase of v_landed[s]
    for (int round = 0;; ++round) {
        const int index = tile_index(round);
        if (index >= params.num_tiles) {
            return;
        }
        const Work<Config> work(params, index);
        if (!work.loads()) {
            continue;
        }
        const int last = work.blocks.end - 1;  // visited first
        if (work.has_tail(params, last)) {
            const int stage = blocks_before % kStages;
            mbarrier_wait(smem.v_landed[stage], phases >> stage & 1);
            phases ^= 1u << stage;
            const int first = (work.sequence.seqlen_k - last * Config::kBlockKV) * VTile::kRowBytes;
            char* const tile = reinterpret_cast<char*>(smem.v[stage]);
#pragma unroll 1
            for (int panel = 0; panel < VTile::kPanels; ++panel) {
#pragma unroll 1
                for (int at = first + lane * 16; at < VTile::kPanelBytes; at += kWarpSize * 16) {
                    *reinterpret_cast<uint4*>(tile + panel * VTile::kPanelBytes + at) = uint4{};
                }
            }
            fence_async_proxy();
            __syncwarp();
            if (lane == 0) {
                mbarrier_arrive(smem.v_full[stage]);
            }
        }
        blocks_before += work.blocks.end - work.blocks.begin;
    }
}

template <class Config>
LIMELIGHT_DEVICE void produce(const FwdKernelParams& params, typename Config::Smem& smem) {
    const int warp = threadIdx.x / kWarpSize;
    if (warp == 0) {
        if (threadIdx.x == 0) {
            prefetch_tensor_map(params.q.map);
            prefetch_tensor_map(params.k.map);
            prefetch_tensor_map(params.v.map);
            load_tiles<Config>(params, smem);
        }
    } else if (warp == 1 && params.clear_v_tails) {
        clear_v_tails<Config>(params, smem);
    }
}

}  // namespace limelight::sm90
