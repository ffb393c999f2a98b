// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda_fp8.h>

#include "sm90/fwd_config.h"
#include "sm90/fwd_fp8_tiles.h"

namespace limelight::sm90 {

// A tile of 8-bit elements: panels of 128 columns, or of 64.
template <int kRows, int kColumns_>
struct ByteTile : PanelTile<kRows, kColumns_ / 2> {
    using Base = PanelTile<kRows, kColumns_ / 2>;
    static constexpr int kColumns = kColumns_;
    static constexpr int kPanel = Base::kRowBytes;
    static constexpr int kElements = Base::kBytes;
};

template <int kHeadDim_, int kHeadDimV_, Scores kScores_>
struct Fp8Config {
    using Element = __nv_fp8_e4m3;
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr int kHeadDimV = kHeadDimV_;
    static constexpr bool kChangeScores = kScores_ == Scores::kChange;
    static constexpr Fp8Tile kTile = find_fp8_tile(kHeadDim_, kHeadDimV_, kScores_);

    static constexpr int kConsumers = kFp8Consumers;
    static constexpr int kGroupRows = 64;  // rows of q of a consumer warpgroup
    static constexpr int kBlockQ = kConsumers * kGroupRows;
    static constexpr int kBlockKV = kTile.block_kv;
    static constexpr int kParts = kTile.parts;
    static constexpr bool kOverlap = kTile.overlap;
    static constexpr bool kPingPong = true;
    static constexpr bool kLeftpad = false;  // serialises the GEMMs of headdim 256 (C7511)
    static constexpr int kThreads = (1 + kConsumers) * kWarpgroupSize;
    static constexpr int kTransposers = 3;  // warps of the producer warpgroup that turn V

    static constexpr int kProducerRegisters = 40;
    static constexpr int kConsumerRegisters = 232;
    static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <=
                  (1 + kConsumers) * (65536 / kThreads / 8 * 8));

    static constexpr int kTilesM = 1;              // m16 tiles of a warp
    static constexpr int kTilesN = kBlockKV / 8;   // n8 tiles of S
    static constexpr int kTilesD = kHeadDimV / 8;  // n8 tiles of O
    static constexpr int kTilesO = kTilesD + 1;    // with the row sums

    using QTile = ByteTile<kBlockQ, kHeadDim>;
    using KTile = ByteTile<kBlockKV, kHeadDim>;
    using VTile = ByteTile<kBlockKV, kHeadDimV>;
    using TurnedTile = ByteTile<kHeadDimV + kOnesRows, kBlockKV>;  // V transposed
    using OTile = PanelTile<kBlockQ, kHeadDimV>;

    struct Smem {
        alignas(1024) uint8_t q[QTile::kBytes];
        alignas(1024) uint8_t k[kStages][KTile::kBytes];
        alignas(1024) uint8_t v[kStages][VTile::kBytes];
        alignas(1024) uint8_t turned[kStages][TurnedTile::kBytes];
        alignas(1024) uint16_t out[OTile::kElements];
        // Each barrier in pairs: full when the tile has landed, empty when its readers are done.
        uint64_t q_full[kConsumers];
        uint64_t q_empty[kConsumers];
        uint64_t k_full[kStages];
        uint64_t k_empty[kStages];
        uint64_t v_full[kStages];  // of V as it lies in memory
        uint64_t v_empty[kStages];
        uint64_t turned_full[kStages];
        uint64_t turned_empty[kStages];
    };

    // The transposing warps clear the tails of V.
    LIMELIGHT_DEVICE static uint64_t& v_arrival(Smem& smem, int stage, bool) {
        return smem.v_full[stage];
    }

    static_assert(kTile.headdim == kHeadDim, "every instantiation has a row in kFp8Tiles");
    static_assert(TurnedTile::kPanels == 1 && kBlockKV % 32 == 0, "whole k32 steps in one panel");
    static_assert(kHeadDimV % (8 * kParts) == 0);
    static_assert(sizeof(Smem) <= kSmemLimit && sizeof(Smem) <= fp8_smem_bytes(kTile) + 1024);
};

}  // namespace limelight::sm90
