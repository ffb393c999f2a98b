// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "attention/swizzle.cuh"
#include "sm80/mla_tiles.h"

namespace limelight::sm80 {

// Names are those of DecodeConfig, whose parts this kernel shares.
template <class Element_, MlaTile kTile_>
struct MlaConfig {
    using Element = Element_;
    static constexpr bool kFp8 = false;
    static constexpr MlaTile kTile = kTile_;
    static constexpr int kHeadDim = kMlaHeadDimV;  // of O

    static constexpr int kRows = kTile.rows;
    static constexpr int kBlockKV = kTile.block_kv;
    static constexpr int kWarps = kTile.warps;
    static constexpr int kThreads = kWarps * kWarpSize;
    static constexpr int kSlots = kTile.slots;
    static constexpr bool kQInSmem = true;
    static constexpr int kGroups = 1;  // the warps have one O together

    static constexpr int kRowWarps = kRows / 16;
    static constexpr int kKeyGroups = kBlockKV / 16;
    static constexpr int kParts = score_parts(kTile);
    static constexpr int kDepth = kWarps / kParts;       // warps of a part, each a share of headdim
    static constexpr int kLoadRows = kBlockKV / kWarps;  // keys that a warp copies per step
    static constexpr int kStepsD = kMlaHeadDim / 16;     // k16 steps of Q K^T

    static constexpr int kTilesM = kRows / 16;  // m16 tiles of a warp's part of O
    static constexpr int kColumns = kMlaHeadDimV / kWarps;
    static constexpr int kTilesD = kColumns / 8;

    static constexpr int kKvBytes = 2;
    using Layout = SwizzledTile<kMlaHeadDim>;
    static constexpr int kSlotBytes = kBlockKV * Layout::kPitchBytes;
    static constexpr int kStagingPitch = kMlaHeadDimV + 8;

    static_assert(kDepth * kParts == kWarps && kStepsD % kDepth == 0, "equal shares of S");
    static_assert(kDepth <= 4, "the steps of a warp keep the swizzle phase");
    static_assert(kColumns % 64 == 0, "a warp's columns keep the swizzle phase");
    static_assert(smem_bytes(kTile) <= smem_limit(kTile.tiles), "fits every device of the row");
};

// A part of the scores: 16 rows, 16 keys, one A fragment of P. All warps load fragments of Q.
template <class Config>
struct MlaPart : Config {
    static constexpr int kGroups = Config::kWarps / Config::kRowWarps;
    static constexpr int kGroupKeys = 16;
    static constexpr int kTilesM = 1;
    static constexpr int kTilesN = 2;
};

}  // namespace limelight::sm80
