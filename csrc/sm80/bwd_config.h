// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "attention/swizzle.cuh"
#include "sm80/bwd_tiles.h"

namespace limelight::sm80 {

template <class Element_, int kHeadDim_, Scores kScores_, Tiles kTiles_, Gradient kGradient_>
struct BwdConfig {
    using Element = Element_;
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr bool kChangeScores = kScores_ == Scores::kChange;
    static constexpr bool kWantsDk =
        kGradient_ == Gradient::kKeyValue || kGradient_ == Gradient::kKey;
    static constexpr bool kWantsDv =
        kGradient_ == Gradient::kKeyValue || kGradient_ == Gradient::kValue;
    static constexpr bool kWantsDs = kGradient_ != Gradient::kValue;
    static constexpr bool kWantsBias = kGradient_ == Gradient::kBias;
    static constexpr BwdTile kTile =
        kWantsBias ? find_bias_tile(kHeadDim_) : find_bwd_tile(kHeadDim_, kTiles_);

    static constexpr int kOwnRows = kTile.own_rows;
    static constexpr int kOtherRows = kTile.other_rows;
    static constexpr int kStages = kTile.stages;
    static constexpr int kWarps = kTile.warps;
    static constexpr int kThreads = kWarps * kWarpSize;

    static constexpr int kTilesM = kOwnRows / kWarps / 16;  // m16 tiles of a warp
    static constexpr int kTilesN = kOtherRows / 8;          // n8 tiles of S and dP
    static constexpr int kTilesD = kHeadDim / 8;            // n8 tiles of a gradient

    using Layout = SwizzledTile<kHeadDim>;

    // "score" operands make S (Q, K), "value" operands make dP (dO, V). The owned ones hold
    // gradients on the way out: each warp its own rows.
    struct Smem {
        alignas(128) Element own_score[kOwnRows * kHeadDim];
        alignas(128) Element own_value[kOwnRows * kHeadDim];
        alignas(128) Element other_score[kStages][kOtherRows * kHeadDim];
        alignas(128) Element other_value[kStages][kOtherRows * kHeadDim];
        alignas(128) float lse_log2[kStages][kOtherRows];  // of the rows of q, when they are others
        float delta[kStages][kOtherRows];
    };

    static_assert(kTile.headdim == kHeadDim, "every head dimension has a row in kBwdTiles");
    static_assert(kOwnRows % (kWarps * 16) == 0, "a warp owns whole m16 tiles");
    static_assert(kOtherRows % 16 == 0, "P and dS are made of whole k16 steps");
    static_assert(2 * kOtherRows <= kThreads, "one copy of the statistics a thread");
    static_assert(sizeof(Smem) == smem_bytes(kTile), "bwd_tiles.h knows the size");
    static_assert(sizeof(Smem) <= smem_limit(kTiles_), "fits every device of the row");
};

}  // namespace limelight::sm80
