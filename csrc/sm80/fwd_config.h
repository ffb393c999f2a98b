// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "attention/swizzle.cuh"
#include "sm80/fwd_tiles.h"

namespace limelight::sm80 {

template <class Element_, int kHeadDim_, Scores kScores_, Tiles kTiles_>
struct FwdConfig {
    using Element = Element_;
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr bool kChangeScores = kScores_ == Scores::kChange;
    static constexpr FwdTile kTile = find_fwd_tile(kHeadDim_, kTiles_, kScores_);

    static constexpr int kBlockQ = kTile.block_q;
    static constexpr int kBlockKV = kTile.block_kv;
    static constexpr int kStages = kTile.stages;
    static constexpr int kWarps = kTile.warps;
    static constexpr int kThreads = kWarps * kWarpSize;

    static constexpr int kTilesM = kBlockQ / kWarps / 16;  // m16 tiles of a warp
    static constexpr int kTilesN = kBlockKV / 8;           // n8 tiles of S
    static constexpr int kTilesD = kHeadDim / 8;           // n8 tiles of O

    using Layout = SwizzledTile<kHeadDim>;

    struct Smem {
        alignas(
            128) Element q[kBlockQ * kHeadDim];  // holds O on the way out: each warp its own rows
        alignas(128) Element k[kStages][kBlockKV * kHeadDim];
        alignas(128) Element v[kStages][kBlockKV * kHeadDim];
    };

    static_assert(kTile.headdim == kHeadDim, "every head dimension has a row in kFwdTiles");
    static_assert(kBlockQ % (kWarps * 16) == 0, "a warp owns whole m16 tiles");
    static_assert(kBlockKV % 16 == 0, "P is made of whole k16 steps");
    static_assert(sizeof(Smem) == smem_bytes(kTile), "fwd_tiles.h knows the size");
    static_assert(sizeof(Smem) <= smem_limit(kTiles_), "fits every device of the row");
};

}  // namespace limelight::sm80
