// SPDX-License-Identifier: BSD-3-Clause
// K and V in pages that no box of a tensor map holds: the producer warpgroup copies their rows by
// cp.async into the tiles that TMA would write. Q still comes by TMA.
#pragma once

#include <type_traits>

#include "arch/cp_async.cuh"
#include "sm90/producer.cuh"

namespace limelight::sm90 {

// What a warp copies: K or V, and which of the warps that share it this one is.
struct GatherRole {
    bool is_v;
    int worker;
};

// One warp's share of the rows of every tile of K or V: 16-byte chunks of a row by neighbouring
// lanes, panel by panel. The page of a key is looked up once, by one lane and while the block
// before is in flight; the other lanes get its offset by shuffles.
template <class Config, class TileLayout>
struct GatheredRows {
    static constexpr int kRows = TileLayout::kRows / Config::kGatherWarps;
    static constexpr int kLanesPerRow = TileLayout::Layout::kChunks;
    static constexpr int kRowsPerPass = kWarpSize / kLanesPerRow;
    static constexpr int kLookups = ceil_div(kRows, kWarpSize);  // keys of a lane
    static constexpr int64_t kElementBytes = sizeof(typename Config::Element);
    static constexpr int kNoPage = -1;
    static constexpr int64_t kNoRow = -16;  // aligned as the offsets that are read
    static_assert(TileLayout::kRows % Config::kGatherWarps == 0 && kRows % 8 == 0,
                  "whole swizzle patterns");
    using Pages = int[kLookups];

    const FwdKernelParams& params;
    const TensorStrides& strides;
    const int32_t* table;  // row of block_table
    const char* chunks;    // this lane's chunk of a row at offset 0
    int bytes_left;        // of the row, from this chunk on
    int begin_key;         // keys [begin_key, end_key) are seen by some row of the tile
    int end_key;
    int lane_key;  // this lane's first one in block 0

    LIMELIGHT_DEVICE GatheredRows(const FwdKernelParams& params, const Work<Config>& work,
                                  const GatherRole& role)
        : params(params),
          strides(role.is_v ? params.call.v_strides : params.call.k_strides),
          table(params.call.block_table + work.tile.batch * params.call.block_table_stride),
          begin_key(work.first_key(params)),
          end_key(work.end_key(params)),
          lane_key(role.worker * kRows + first_row()) {
        const int chunk_byte = lane() % kLanesPerRow * 16;
        const int64_t head_kv = params.by_heads_per_kv.quotient(work.tile.head);
        chunks = static_cast<const char*>(role.is_v ? params.call.v : params.call.k) +
                 head_kv * strides.head * kElementBytes + chunk_byte;
        const int columns = role.is_v ? params.call.headdim_v : params.call.headdim;
        bytes_left = columns * static_cast<int>(kElementBytes) - chunk_byte;
    }

    // Opaque: the consumers compute the same of theirs, and what is computed once for both costs
    // both a register throughout.
    LIMELIGHT_DEVICE static uint32_t lane() {
        return static_cast<uint32_t>(opaque(threadIdx.x)) % kWarpSize;
    }

    // This lane's row of the first 32: the lanes that copy a row are those that look it up, one
    // pass each.
    LIMELIGHT_DEVICE static int first_row() {
        return lane() % kLanesPerRow * kRowsPerPass + lane() / kLanesPerRow;
    }

    // The pages of this lane's keys in a block. Those that no row sees are not looked up: their
    // pages may be gone.
    LIMELIGHT_DEVICE void look_up(int block, Pages& pages) const {
#pragma unroll
        for (int i = 0; i < kLookups; ++i) {
            const int key = block * Config::kBlockKV + lane_key + i * kWarpSize;
            const bool seen = key >= begin_key && key < end_key;
            pages[i] = seen ? __ldg(table + params.by_page_rows.quotient(key)) : kNoPage;
        }
    }

    // Issues the copies of a block into the warp's first row of a tile. Rows that are not seen,
    // pages that do not exist and columns past the tensor become zeros.
    LIMELIGHT_DEVICE void copy(int block, const Pages& pages, uint32_t rows) const {
        const uint32_t target =
            rows + TileLayout::offset(lane() / kLanesPerRow, lane() % kLanesPerRow);
#pragma unroll
        for (int i = 0; i < kLookups; ++i) {
            const int key = block * Config::kBlockKV + lane_key + i * kWarpSize;
            const int row = key - params.by_page_rows.quotient(key) * params.page_rows;
            const int64_t place = pages[i] * strides.batch + row * strides.row;
            const bool exists = static_cast<uint32_t>(pages[i]) < params.num_pages;
            const int64_t offset = exists ? place * kElementBytes : kNoRow;
            constexpr int kPasses = kRows / kRowsPerPass;
#pragma unroll
            for (int pass = i * kLanesPerRow; pass < min((i + 1) * kLanesPerRow, kPasses); ++pass) {
                const int64_t from = __shfl_sync(0xffffffffu, static_cast<long long>(offset),
                                                 pass % kLanesPerRow, kLanesPerRow);
                // Four rows further on, the swizzle of 128-byte rows turns bit 2 of the chunk.
                const uint32_t to = (kRowsPerPass == 4 && pass % 2 == 1 ? target ^ 64u : target) +
                                    pass * kRowsPerPass * TileLayout::kRowBytes;
#pragma unroll
                for (int panel = 0; panel < TileLayout::kPanels; ++panel) {
                    const int column = panel * TileLayout::kRowBytes;
                    cp_async_16(to + panel * TileLayout::kPanelBytes, chunks + from + column,
                                (from >> 32) >= 0 && column < bytes_left);
                }
            }
        }
    }
};

// A warp that copies K, or V and loads Q, of all tiles of the thread block.
template <class Config, class TileLayout>
LIMELIGHT_DEVICE void gather(const FwdKernelParams& params, typename Config::Smem& smem,
                             const GatherRole& role) {
    using Rows = GatheredRows<Config, TileLayout>;
    const uint32_t ring = smem_address(role.is_v ? smem.v[0] : smem.k[0]) +
                          role.worker * Rows::kRows * TileLayout::kRowBytes;
    const uint32_t slot_bytes = role.is_v ? sizeof(smem.v[0]) : sizeof(smem.k[0]);
    uint64_t* const full = role.is_v ? smem.v_full : smem.k_full;
    uint64_t* const empty = role.is_v ? smem.v_empty : smem.k_empty;
    uint32_t blocks_before = 0;
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
        const Rows rows(params, work, role);
        typename Rows::Pages pages;
        rows.look_up(work.blocks.end - 1, pages);
        if (role.is_v) {
            load_q_tile<Config>(params, smem, work, q_phase,
                                role.worker == 0 && threadIdx.x % kWarpSize == 0);
            q_phase ^= 1;
        }
#pragma unroll 1
        for (int block = work.blocks.end - 1; block >= work.blocks.begin; --block) {
            const uint32_t stage = stage_of(blocks_before);
            mbarrier_wait(empty[stage], phase_of(blocks_before) ^ 1);
            rows.copy(block, pages, ring + stage * slot_bytes);
            cp_async_commit();
            if (block > work.blocks.begin) {
                rows.look_up(block - 1, pages);
            }
            cp_async_wait<0>();
            fence_async_proxy();
            __syncwarp();
            if (threadIdx.x % kWarpSize == 0) {
                mbarrier_arrive(full[stage]);
            }
            ++blocks_before;
        }
    }
}

// The first 2 Config::kGatherWarps warps.
template <class Config>
LIMELIGHT_DEVICE void gather_tiles(const FwdKernelParams& params, typename Config::Smem& smem) {
    const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpSize, 0);
    const GatherRole role{warp >= Config::kGatherWarps, warp % Config::kGatherWarps};
    using KTile = typename Config::KTile;
    using VTile = typename Config::VTile;
    if (std::is_same_v<KTile, VTile> || !role.is_v) {
        gather<Config, KTile>(params, smem, role);
    } else {
        gather<Config, VTile>(params, smem, role);
    }
}

}  // namespace limelight::sm90
