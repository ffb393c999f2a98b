// SPDX-License-Identifier: BSD-3-Clause
// What a consumer warpgroup does with its 64 rows of q: two GEMMs on wgmma, softmax between them,
// stores.
#pragma once

#include "arch/mbarrier.cuh"
#include "arch/tma.cuh"
#include "arch/warpgroup.cuh"
#include "arch/wgmma.cuh"
#include "attention/softmax.cuh"
#include "sm80/tile.cuh"
#include "sm90/schedule.cuh"

namespace limelight::sm90 {

template <int kTiles>
LIMELIGHT_DEVICE float (&flat(float (&fragments)[1][kTiles][4]))[4 * kTiles] {
    return reinterpret_cast<float (&)[4 * kTiles]>(fragments);
}

// Named barriers: 0 is __syncthreads, then one per consumer for its own warps, then one per
// consumer for its turn.
LIMELIGHT_DEVICE void sync_warpgroup(int group) {
    named_barrier_sync(1 + group, kWarpgroupSize);
}

// Consumers issue GEMMs in turn, so that the softmax of one runs under the GEMMs of another. Each
// turn is one bar.sync of its taker and one bar.arrive of the one before.
template <class Config>
struct Turns {
    static constexpr int kFirst = 1 + Config::kConsumers;
    int group;

    LIMELIGHT_DEVICE explicit Turns(int group) : group(group) {
        if (Config::kPingPong && group == Config::kConsumers - 1) {
            named_barrier_arrive(kFirst, 2 * kWarpgroupSize);
        }
    }
    LIMELIGHT_DEVICE void take() const {
        if (Config::kPingPong) {
            named_barrier_sync(kFirst + group, 2 * kWarpgroupSize);
        }
    }
    LIMELIGHT_DEVICE void pass() const {
        if (Config::kPingPong) {
            const int next = group + 1 == Config::kConsumers ? 0 : group + 1;
            named_barrier_arrive(kFirst + next, 2 * kWarpgroupSize);
        }
    }
    // Takes the arrival that nobody waits for at the end.
    LIMELIGHT_DEVICE void finish() const {
        if (group == 0) {
            take();
        }
    }
};

// Issues S = Q K^T.
template <class Config>
LIMELIGHT_DEVICE void issue_scores(float (&s)[1][Config::kTilesN][4], uint64_t q, uint64_t k) {
    using QTile = typename Config::QTile;
    using KTile = typename Config::KTile;
    constexpr int kStepBytes = 32;  // of k16 or, in 8 bits, k32
    constexpr int kStepsPerPanel = QTile::kRowBytes / kStepBytes;
#pragma unroll
    for (int step = 0; step < QTile::kPanels * kStepsPerPanel; ++step) {
        const int panel = step / kStepsPerPanel;
        const int inside = step % kStepsPerPanel * kStepBytes;
        Wgmma<Config::kBlockKV, typename Config::Element>::ss(
            flat(s), q + (panel * QTile::kPanelBytes + inside) / 16,
            k + (panel * KTile::kPanelBytes + inside) / 16, step > 0);
    }
}

// Moves V's descriptor on by `bytes`. The columns of ones are one k16 step that all steps share:
// their distance, the leading offset, shrinks by as much.
template <class Config>
LIMELIGHT_DEVICE uint64_t advance_v(uint64_t v, uint32_t bytes) {
    const uint64_t units = bytes / 16;
    return v + units - (Config::kSumColumn ? units << 16 : 0);
}

// Issues O += P V.
template <class Config>
LIMELIGHT_DEVICE void issue_output(float (&o)[1][Config::kTilesO][4],
                                   const uint32_t (&p)[1][Config::kTilesN / 2][4], uint64_t v) {
#pragma unroll
    for (int step = 0; step < Config::kBlockKV / 16; ++step) {
        Wgmma<8 * Config::kTilesO, typename Config::Element>::rs(
            flat(o), p[0][step], advance_v<Config>(v, step * 16 * Config::VTile::kRowBytes), true);
    }
}

template <int kTiles>
LIMELIGHT_DEVICE void rescale(float (&o)[1][kTiles][4], const float (&factor)[2]) {
#pragma unroll
    for (int d = 0; d < kTiles; ++d) {
        o[0][d][0] *= factor[0];
        o[0][d][1] *= factor[0];
        o[0][d][2] *= factor[1];
        o[0][d][3] *= factor[1];
    }
}

// Bits [begin, end) of a word whose bit 0 has the number `first`.
LIMELIGHT_DEVICE uint32_t bits_between(int begin, int end, int first) {
    const int low = min(max(begin - first, 0), 32);
    const int high = min(max(end - first, 0), 32);
    const uint32_t below_high = high == 32 ? ~0u : (1u << high) - 1;
    return low == 32 ? 0u : below_high >> low << low;
}

// Hides the keys that a row does not see: one bit per score of a lane, 32 to a word, which the
// compiler turns into predicates eight at a time.
template <class Config>
LIMELIGHT_DEVICE void mask_scores(float (&s)[1][Config::kTilesN][4], const Mask& mask, int warp_row,
                                  int first_column) {
    constexpr int kScores = Config::kBlockKV / 4;  // of one lane in one row
    // Score i of a lane lies in column 8 (i / 2) + i % 2 from its first.
    const int lane_first = first_column + sm80::lane_column(0, 0);
    const auto scores_before = [&](int column) {
        const int distance = max(column - lane_first, 0);
        return distance / 8 * 2 + min(distance % 8, 2);
    };
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = sm80::lane_row(warp_row, r);
        const int begin = scores_before(mask.first_column(row));
        const int end = scores_before(mask.end_column(row));
#pragma unroll
        for (int word = 0; word < ceil_div(kScores, 32); ++word) {
            const uint32_t seen = bits_between(begin, end, 32 * word);
#pragma unroll
            for (int bit = 0; bit < 32 && 32 * word + bit < kScores; ++bit) {
                float& x = s[0][16 * word + bit / 2][2 * r + bit % 2];
                x = seen & (1u << bit) ? x : -INFINITY;
            }
        }
    }
}

// A release by one lane of each warp.
LIMELIGHT_DEVICE void release(uint64_t& barrier) {
    __syncwarp();
    if (threadIdx.x % kWarpSize == 0) {
        mbarrier_arrive(barrier);
    }
}

// Writes the group's rows of O: rounded into `tile` (rows of the group), from there by TMA where
// everything outside the sequence is outside the tensor map too, by plain stores otherwise. Rows
// from `used` to `extent` become zeros.
template <class Config, class Element = typename Config::Element>
LIMELIGHT_DEVICE void store_output(const float (&o)[1][Config::kTilesO][4],
                                   const FwdKernelParams& params, const Work<Config>& work,
                                   int group, char* tile) {
    using OTile = typename Config::OTile;
    constexpr int kChunkElements = 8;
    const int first = work.q_begin + group * Config::kGroupRows;
    const int used = work.sequence.seqlen_q - first;
    const int extent = work.sequence.q_extent - first;
    const int lane = threadIdx.x % kWarpSize;
    const int warp_first = threadIdx.x % kWarpgroupSize / kWarpSize * 16;
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
                tma_store_4d(params.out.map, panel * OTile::kPanel,
                             static_cast<int>(work.sequence.q_row) + first,
                             work.tile.head * params.out.head_step,
                             static_cast<int>(work.sequence.q_batch) * params.out.batch_step,
                             tile + panel * OTile::kPanelBytes);
            }
            tma_store_commit();
        }
        return;
    }
    __syncwarp();
    Element* const out = sm80::head_rows(static_cast<Element*>(params.call.out),
                                         params.call.out_strides, work.sequence.q_batch,
                                         work.sequence.q_row + first + warp_first, work.tile.head);
    constexpr int kLanesPerRow = OTile::Layout::kChunks;
#pragma unroll 1
    for (int pass = 0; pass < 16; pass += kWarpSize / kLanesPerRow) {
        const int row = pass + lane / kLanesPerRow;
#pragma unroll 1
        for (int chunk = lane % kLanesPerRow; chunk * kChunkElements < params.call.headdim_v;
             chunk += kLanesPerRow) {
            if (warp_first + row < extent) {
                *reinterpret_cast<uint4*>(out + row * params.call.out_strides.row +
                                          chunk * kChunkElements) =
                    *reinterpret_cast<const uint4*>(tile + OTile::offset(warp_first + row, chunk));
            }
        }
    }
}

template <class Config>
LIMELIGHT_DEVICE void store_lse(const float (&lse)[2], const FwdKernelParams& params,
                                const Work<Config>& work, int warp_row) {
    const Sequence& sequence = work.sequence;
    float* const rows = params.call.lse + sequence.q_batch * params.call.lse_batch_stride +
                        work.tile.head * params.call.lse_head_stride + sequence.q_row;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = sm80::lane_row(warp_row, r);
        if (threadIdx.x % 4 == 0 && row < sequence.q_extent) {
            rows[row] = row < sequence.seqlen_q ? lse[r] : -INFINITY;
        }
    }
}

// O = 0 and lse = -inf for a tile that sees no key; touches no shared memory, which may be filling
// for the next tile.
template <class Config, class Element = typename Config::Element>
LIMELIGHT_DEVICE void store_nothing(const FwdKernelParams& params, const Work<Config>& work,
                                    int warp_row) {
    const int lane = threadIdx.x % kWarpSize;
#pragma unroll 1
    for (int row = warp_row; row < min(warp_row + 16, work.sequence.q_extent); ++row) {
        Element* const out =
            sm80::head_rows(static_cast<Element*>(params.call.out), params.call.out_strides,
                            work.sequence.q_batch, work.sequence.q_row + row, work.tile.head);
        if (lane * 8 < params.call.headdim_v) {
            *reinterpret_cast<uint4*>(out + lane * 8) = uint4{};
        }
    }
    store_lse<Config>({-INFINITY, -INFINITY}, params, work, warp_row);
}

}  // namespace limelight::sm90
