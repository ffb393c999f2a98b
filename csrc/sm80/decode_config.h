// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "attention/swizzle.cuh"
#include "sm80/decode_tiles.h"

namespace limelight::sm80 {

enum class KvElement { kAsQ, kE4m3 };

// Element is what the GEMMs multiply: the dtype of q, or half where keys and values are FP8.
template <class Element_, KvElement kKv_, int kHeadDim_, int kRows_, Tiles kTiles_>
struct DecodeConfig {
    using Element = Element_;
    static constexpr bool kFp8 = kKv_ == KvElement::kE4m3;
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr DecodeTile kTile = find_decode_tile(kHeadDim_, kTiles_, kRows_);

    static constexpr int kRows = kTile.rows;
    static constexpr int kBlockKV = kTile.block_kv;
    static constexpr int kGroups = kTile.key_groups;
    static constexpr int kRowWarps = kRows / 16;  // warps of a group, 16 rows each
    static constexpr int kThreads = kGroups * kRowWarps * kWarpSize;
    static constexpr int kGroupKeys = kBlockKV / kGroups;
    static constexpr int kLoadRows = kGroupKeys / kRowWarps;  // keys that a warp copies per step
    static constexpr int kSlots = kTile.slots * (kFp8 ? 2 : 1);
    static constexpr bool kQInSmem = kTile.q_in_smem;

    static constexpr int kTilesM = 1;               // m16 tiles of a warp
    static constexpr int kTilesN = kGroupKeys / 8;  // n8 tiles of S
    static constexpr int kTilesD = kHeadDim / 8;    // n8 tiles of O
    static constexpr int kStepsD = kHeadDim / 16;   // k16 steps of Q K^T

    static constexpr int kKvBytes = kFp8 ? 1 : 2;
    using Layout = SwizzledTile<kHeadDim * kKvBytes / 2>;  // of K and V
    static constexpr int kSlotBytes = kBlockKV * Layout::kPitchBytes;

    // O of a lane lies in pairs, or in fours where V is FP8: each needs its own padding.
    static constexpr int kStagingPitch = kHeadDim + (kFp8 ? 16 : 8);

    static_assert(kTile.headdim == kHeadDim, "every head dimension has a row in kDecodeTiles");
    static_assert(kGroupKeys % 16 == 0, "P is made of whole k16 steps");
    static_assert(kLoadRows == 8 || kLoadRows == 16, "a lane looks up one key");
    static_assert(kGroups == 1 || kRowWarps == 1, "a group of one warp needs no barrier");
    static_assert(smem_bytes(kTile) <= smem_limit(kTiles_), "fits every device of the row");
};

}  // namespace limelight::sm80
