// SPDX-License-Identifier: BSD-3-Clause
// What a consumer warpgroup does with its 64 rows of q: two GEMMs on wgmma, softmax between them.
#pragma once

#include "arch/mbarrier.cuh"
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

// Issues O += P V; with the column of ones beside V, the last eight columns of O are sums of P.
template <class Config>
LIMELIGHT_DEVICE void issue_output(float (&o)[1][Config::kTilesO][4],
                                   const uint32_t (&p)[1][Config::kTilesN / 2][4], uint64_t v) {
#pragma unroll
    for (int step = 0; step < Config::kBlockKV / 16; ++step) {
        Wgmma<8 * Config::kTilesO, typename Config::Element>::rs(
            flat(o), p[0][step], v + step * 16 * Config::VTile::kRowBytes / 16, true);
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
LIMELIGHT_DEVICE void mask_scores(float (&s)[1][Config::kTilesN][4], const FwdKernelParams& params,
                                  const Work<Config>& work, const Mask& mask, int warp_row,
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
        const int token = work.token(params, sm80::lane_row(warp_row, r));
        const int begin = scores_before(mask.first_column(token));
        const int end = scores_before(mask.end_column(token));
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

// The sink logits of a lane's rows, in base 2.
template <class Config>
LIMELIGHT_DEVICE void load_sinks(float (&sink)[2], const FwdKernelParams& params,
                                 const Work<Config>& work, int warp_row) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int head = work.head(params, sm80::lane_row(warp_row, r));
        sink[r] = params.call.sink == nullptr ? -INFINITY : params.call.sink[head] * kLog2e;
    }
}

}  // namespace limelight::sm90
