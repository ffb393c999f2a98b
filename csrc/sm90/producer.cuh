// SPDX-License-Identifier: BSD-3-Clause
// The producer warpgroup: one warp issues all TMA loads, another one clears the tails of V.
#pragma once

#include "arch/mbarrier.cuh"
#include "arch/tma.cuh"
#include "sm90/schedule.cuh"

namespace limelight::sm90 {

// The slot of a ring for its block `count` from the start, and the phase of its barriers.
LIMELIGHT_DEVICE uint32_t stage_of(uint32_t count) {
    return count % kStages;
}
LIMELIGHT_DEVICE uint32_t phase_of(uint32_t count) {
    return count / kStages % 2;
}

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

// Loads blocks of K and V of one work item by one warp: with pages lane i loads piece i of a block,
// otherwise lane 0 all of it. Registers are few here: 32 for everything.
template <class Config>
struct KvLoader {
    static constexpr int kNoPage = -1;
    int head_kv;
    int batch;             // coordinate, without pages
    int first;             // with pages: the first key that a row of the tile sees; else its row
    int end_key;           // with pages: of those keys
    const int32_t* pages;  // of the sequence

    LIMELIGHT_DEVICE KvLoader(const FwdKernelParams& params, const Work<Config>& work)
        : head_kv(params.by_heads_per_kv.quotient(work.tile.head)),
          batch(static_cast<int>(work.sequence.k_batch)),
          first(paged(params) ? work.first_key(params) : static_cast<int>(work.sequence.k_row)),
          end_key(work.end_key(params)),
          pages(params.call.block_table + work.tile.batch * params.call.block_table_stride) {}

    LIMELIGHT_DEVICE static bool paged(const FwdKernelParams& params) {
        return params.call.block_table != nullptr;
    }
    LIMELIGHT_DEVICE static int lane() { return threadIdx.x % kWarpSize; }
    LIMELIGHT_DEVICE static int first_of_piece(const FwdKernelParams& params, int block) {
        return block * Config::kBlockKV + lane() * params.piece_rows;
    }

    // The batch coordinate of the lane's piece. Asked for before the wait for its slot, which hides
    // the table's latency. An entry is read only for a piece with keys that a row sees: the pages
    // of others may be gone.
    LIMELIGHT_DEVICE int page_of(const FwdKernelParams& params, int block) const {
        if (!paged(params)) {
            return batch;
        }
        const int key = first_of_piece(params, block);
        const bool seen =
            lane() < params.pieces && key < end_key && key + params.piece_rows > first;
        return seen ? pages[params.by_page_rows.quotient(key)] : kNoPage;
    }

    // Rows from page_rows on are outside of the tensor map: TMA writes zeros.
    template <class TileLayout>
    LIMELIGHT_DEVICE void load(const FwdKernelParams& params, void* smem, const TensorView& view,
                               int block, int page, uint64_t& barrier) const {
        if (lane() == 0) {
            mbarrier_arrive_expect_tx(barrier, TileLayout::kBytes);
        }
        if (lane() < params.pieces) {
            const int key = first_of_piece(params, block);
            const int inside = key - params.by_page_rows.quotient(key) * params.page_rows;
            const int row = page < 0 ? params.page_rows : inside + (paged(params) ? 0 : first);
            load_panels<TileLayout>(
                static_cast<char*>(smem) + lane() * params.piece_rows * TileLayout::kRowBytes, view,
                row, head_kv, page, barrier);
        }
        __syncwarp();
    }
};

// Loads the rows of q of one tile: a whole warp waits for their place, its leader issues.
template <class Config>
LIMELIGHT_DEVICE void load_q_tile(const FwdKernelParams& params, typename Config::Smem& smem,
                                  const Work<Config>& work, uint32_t phase, bool leader) {
    using QTile = typename Config::QTile;
#pragma unroll 1
    for (int group = 0; group < Config::kConsumers; ++group) {
        mbarrier_wait(smem.q_empty[group], phase ^ 1);
        if (leader) {
            mbarrier_arrive_expect_tx(smem.q_full[group], QTile::kBytes / Config::kConsumers);
            const int first = group * Config::kGroupRows;
            load_q<Config>(smem.q + first * QTile::kPanel, params, work, work.q_begin + first,
                           smem.q_full[group]);
        }
        __syncwarp();
    }
}

// Warp 0. K runs one block ahead of V, in the order in which the consumers need them:
//   K[n] Q | K[n-1] V[n] | ... | K[0] V[1] | V[0]
template <class Config>
LIMELIGHT_DEVICE void load_tiles(const FwdKernelParams& params, typename Config::Smem& smem) {
    using KTile = typename Config::KTile;
    using VTile = typename Config::VTile;
    if (threadIdx.x == 0) {
        prefetch_tensor_map(params.q.map);
        prefetch_tensor_map(params.k.map);
        prefetch_tensor_map(params.v.map);
    }
    uint32_t blocks_before = 0;  // of K, and of V at the end of a tile
    uint32_t q_phase = 0;
    for (int round = 0;; ++round) {
        const int index = tile_index(round);
        if (index >= params.num_items) {
            return;
        }
        const Work<Config> work(params, index);
        if (!work.loads()) {
            continue;
        }
        const KvLoader<Config> loader(params, work);
        const auto load_k = [&](int block) {
            const int page = loader.page_of(params, block);
            const uint32_t stage = stage_of(blocks_before);
            mbarrier_wait(smem.k_empty[stage], phase_of(blocks_before) ^ 1);
            loader.template load<KTile>(params, smem.k[stage], params.k, block, page,
                                        smem.k_full[stage]);
            ++blocks_before;
        };
        const auto load_v = [&](int block, uint32_t before) {
            const int page = loader.page_of(params, block);
            const uint32_t stage = stage_of(before);
            mbarrier_wait(smem.v_empty[stage], phase_of(before) ^ 1);
            loader.template load<VTile>(
                params, smem.v[stage], params.v, block, page,
                Config::v_arrival(smem, stage, work.has_tail(params, block)));
        };
        load_k(work.blocks.end - 1);
        load_q_tile<Config>(params, smem, work, q_phase, threadIdx.x == 0);
        q_phase ^= 1;
#pragma unroll 1
        for (int block = work.blocks.end - 1; block > work.blocks.begin; --block) {
            load_k(block - 1);
            load_v(block, blocks_before - 2);
        }
        load_v(work.blocks.begin, blocks_before - 1);
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
        if (index >= params.num_items) {
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
        load_tiles<Config>(params, smem);
    } else if (warp == 1 && params.clear_v_tails) {
        clear_v_tails<Config>(params, smem);
    }
}

}  // namespace limelight::sm90
