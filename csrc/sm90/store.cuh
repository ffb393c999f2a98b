// SPDX-License-Identifier: BSD-3-Clause
// How a consumer warpgroup writes its rows of the result.
#pragma once

#include "arch/global.cuh"
#include "arch/tma.cuh"
#include "sm90/consumer.cuh"

namespace limelight::sm90 {

// Writes the group's rows of O: rounded into `tile` (rows of the group), from there by TMA where
// everything outside the sequence is outside the tensor map too, by plain stores otherwise. Rows
// from `used` to `extent` become zeros.
template <class Config, class Element = typename Config::Element>
LIMELIGHT_DEVICE void store_output(const float (&o)[1][Config::kTilesO][4],
                                   const FwdKernelParams& params, const Work<Config>& work,
                                   int group, char* tile) {
    using OTile = typename Config::OTile;
    constexpr int kChunkElements = 8;
    const int warp_first = threadIdx.x % kWarpgroupSize / kWarpSize * 16;
    const int first = work.q_begin + group * Config::kGroupRows;
    const int used = (work.sequence.seqlen_q << params.pack_shift) - first;
    const int extent = (work.sequence.q_extent << params.pack_shift) - first;
    const int lane = threadIdx.x % kWarpSize;
    const bool leader = threadIdx.x % kWarpgroupSize == 0;
    if (leader) {
        tma_store_wait_read();  // the tile before this one
    }
    sync_warpgroup(group);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = sm80::lane_row(warp_first, r);
#pragma unroll
        for (int d = 0; d < Config::kTilesD; ++d) {
            *reinterpret_cast<uint32_t*>(tile + OTile::offset(row, d) + lane % 4 * 4) =
                row < used ? pack2(o[0][d][2 * r], o[0][d][2 * r + 1], Element{}) : 0u;
        }
    }
    fence_async_proxy();
    const bool whole = params.call.cu_seqlens_q == nullptr || extent >= Config::kGroupRows;
    if (whole) {
        sync_warpgroup(group);
        if (leader) {
#pragma unroll
            for (int panel = 0; panel < OTile::kPanels; ++panel) {
                tma_store_4d(
                    params.out.map, panel * OTile::kPanel, work.tile.head * params.out.head_step,
                    work.q_row() + work.token(params, first),
                    work.q_batch() * params.out.batch_step, tile + panel * OTile::kPanelBytes);
            }
            tma_store_commit();
        }
        return;
    }
    __syncwarp();
    constexpr int kLanesPerRow = OTile::Layout::kChunks;
#pragma unroll 1
    for (int pass = 0; pass < 16; pass += kWarpSize / kLanesPerRow) {
        const int row = warp_first + pass + lane / kLanesPerRow;
        Element* const out = work.template out_row<Element>(params, first + row);
#pragma unroll 1
        for (int chunk = lane % kLanesPerRow; chunk * kChunkElements < params.call.headdim_v;
             chunk += kLanesPerRow) {
            if (row < extent) {
                *reinterpret_cast<uint4*>(out + chunk * kChunkElements) =
                    *reinterpret_cast<const uint4*>(tile + OTile::offset(row, chunk));
            }
        }
    }
}

// Writes the rows of O of one split of the keys in fp32, whole sectors of 32 bytes by four lanes.
template <class Config>
LIMELIGHT_DEVICE void store_partial(const float (&o)[1][Config::kTilesO][4],
                                    const FwdKernelParams& params, const Work<Config>& work,
                                    int warp_row) {
    const int64_t first_row = work.tile.split * params.split_rows +
                              work.q_batch() * int64_t{params.call.seqlen_q} + work.q_row();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = sm80::lane_row(warp_row, r);
        const int token = work.token(params, row);
        float* const out = params.split_out +
                           ((first_row + token) * params.call.heads_q + work.head(params, row)) *
                               Config::kHeadDimV +
                           sm80::lane_column(0, 0);
#pragma unroll
        for (int d = 0; d < Config::kTilesD; ++d) {
            store_if(token < work.sequence.seqlen_q, reinterpret_cast<float2*>(out + 8 * d),
                     float2{o[0][d][2 * r], o[0][d][2 * r + 1]});
        }
    }
}

template <class Config>
LIMELIGHT_DEVICE void store_lse(const float (&lse)[2], const FwdKernelParams& params,
                                const Work<Config>& work, int warp_row) {
    const Sequence& sequence = work.sequence;
    float* const rows = params.call.lse + work.tile.split * params.lse_split_stride +
                        work.q_batch() * params.call.lse_batch_stride + work.q_row();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = sm80::lane_row(warp_row, r);
        const int token = work.token(params, row);
        if (threadIdx.x % 4 == 0 && token < sequence.q_extent) {
            rows[work.head(params, row) * params.call.lse_head_stride + token] =
                token < sequence.seqlen_q ? lse[r] : -INFINITY;
        }
    }
}

// O = 0 and lse = -inf for a tile that sees no key; touches no shared memory, which may be filling
// for the next tile. Of a split lse alone says that there is nothing.
template <class Config, class Element = typename Config::Element>
LIMELIGHT_DEVICE void store_nothing(const FwdKernelParams& params, const Work<Config>& work,
                                    int warp_row) {
    const int lane = threadIdx.x % kWarpSize;
    const int extent = params.splits > 1 ? 0 : work.sequence.q_extent << params.pack_shift;
#pragma unroll 1
    for (int row = warp_row; row < min(warp_row + 16, extent); ++row) {
        if (lane * 8 < params.call.headdim_v) {
            *reinterpret_cast<uint4*>(work.template out_row<Element>(params, row) + lane * 8) =
                uint4{};
        }
    }
    store_lse<Config>({-INFINITY, -INFINITY}, params, work, warp_row);
}

}  // namespace limelight::sm90
