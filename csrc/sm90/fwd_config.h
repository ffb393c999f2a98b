// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "arch/warpgroup.cuh"
#include "attention/swizzle.cuh"
#include "sm90/fwd_tiles.h"

namespace limelight::sm90 {

// A tile of rows in shared memory as TMA writes it and wgmma reads it: panels of kPanel columns,
// all rows of one panel after each other, 16-byte chunks swizzled inside a row of the panel.
template <int kRows_, int kColumns_>
struct PanelTile {
    static constexpr int kRows = kRows_;
    static constexpr int kColumns = kColumns_;
    static constexpr int kPanel = kColumns % 64 == 0 ? 64 : 32;
    static constexpr int kPanels = kColumns / kPanel;
    static constexpr int kRowBytes = kPanel * 2;
    static constexpr int kPanelBytes = kRows * kRowBytes;
    static constexpr int kBytes = kPanels * kPanelBytes;
    static constexpr int kElements = kRows * kColumns;
    using Layout = SwizzledTile<kPanel>;

    static_assert(kColumns % kPanel == 0 && kRows % 8 == 0, "whole swizzle patterns");

    // Byte offset of the 16-byte chunk `chunk` of row `row`.
    LIMELIGHT_DEVICE static uint32_t offset(int row, int chunk) {
        constexpr int kChunks = Layout::kChunks;
        return chunk / kChunks * kPanelBytes + Layout::offset(row, chunk % kChunks);
    }
};

template <class Element_, int kHeadDim_, int kHeadDimV_, Scores kScores_,
          Visible kVisible_ = Visible::kSome>
struct FwdConfig {
    using Element = Element_;
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr int kHeadDimV = kHeadDimV_;
    static constexpr bool kChangeScores = kScores_ == Scores::kChange;
    static constexpr FwdTile kTile = find_fwd_tile(kHeadDim_, kHeadDimV_, kScores_, kVisible_);

    static constexpr int kConsumers = kTile.consumers;
    static constexpr int kGroupRows = 64;  // rows of q of a consumer warpgroup
    static constexpr int kBlockQ = kConsumers * kGroupRows;
    static constexpr int kBlockKV = kTile.block_kv;
    static constexpr bool kPingPong = kTile.ping_pong;
    static constexpr bool kSumColumn = kTile.sum_column;
    static constexpr bool kLeftpad = true;  // takes leftpad_k
    static constexpr bool kOwnOutput = owns_output(kTile);
    static constexpr int kThreads = (1 + kConsumers) * kWarpgroupSize;
    static constexpr int kGatherWarps = 2;  // that copy K where TMA does not, and V

    // setmaxnreg: the sum over warpgroups stays below what the block has from its launch, multiples
    // of 8 a thread; the last warpgroup would wait for ever otherwise.
    static constexpr int kProducerRegisters = kConsumers == 2 ? 40 : 32;
    static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
    static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
    static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <=
                  (1 + kConsumers) * kLaunchRegisters);

    static constexpr int kTilesM = 1;                               // m16 tiles of a warp
    static constexpr int kTilesN = kBlockKV / 8;                    // n8 tiles of S
    static constexpr int kTilesD = kHeadDimV / 8;                   // n8 tiles of O
    static constexpr int kTilesO = kTilesD + (kSumColumn ? 1 : 0);  // with the sums of P

    using QTile = PanelTile<kBlockQ, kHeadDim>;
    using KTile = PanelTile<kBlockKV, kHeadDim>;
    using VTile = PanelTile<kBlockKV, kHeadDimV>;
    using OTile = PanelTile<kBlockQ, kHeadDimV>;

    // A tile of V and, for the sums of P, one more panel of which the GEMM reads eight columns:
    // ones from the start of the kernel to its end.
    static constexpr int kOnesElements = kSumColumn ? kBlockKV * VTile::kPanel : 0;
    static constexpr int kVSlotElements = VTile::kElements + kOnesElements;

    struct Smem {
        static constexpr int kQElements =
            kOwnOutput || QTile::kElements > OTile::kElements ? QTile::kElements : OTile::kElements;
        alignas(1024) Element q[kQElements];  // O as well where it has no place of its own
        alignas(1024) Element k[kStages][KTile::kElements];
        alignas(1024) Element v[kStages][kVSlotElements];
        alignas(kOwnOutput ? 1024 : 16) Element out[kOwnOutput ? OTile::kElements : 8];
        // Each barrier in pairs: full when the tile has landed, empty when its readers are done.
        uint64_t q_full[kConsumers];
        uint64_t q_empty[kConsumers];
        uint64_t k_full[kStages];
        uint64_t k_empty[kStages];
        uint64_t v_full[kStages];
        uint64_t v_empty[kStages];
        uint64_t v_landed[kStages];  // of a V tile whose tail must be cleared before it is full
    };

    // What a tile of V counts on when TMA has written it.
    LIMELIGHT_DEVICE static uint64_t& v_arrival(Smem& smem, int stage, bool has_tail) {
        return has_tail ? smem.v_landed[stage] : smem.v_full[stage];
    }

    static_assert(kTile.headdim == kHeadDim, "every instantiation has a row in kFwdTiles");
    static_assert(kBlockKV % 16 == 0 && kBlockKV <= 256, "whole k16 steps, one TMA box");
    static_assert(kOnesElements * sizeof(Element) * kStages == ones_bytes(kTile));
    static_assert(kOwnOutput || QTile::kPanel == OTile::kPanel);
    static_assert(QTile::kBytes % 1024 == 0 && KTile::kBytes % 1024 == 0 &&
                      VTile::kBytes % 1024 == 0,
                  "each slot begins with a whole swizzle pattern");
    static_assert(sizeof(Smem) <= smem_bytes(kTile) && smem_bytes(kTile) <= kSmemLimit);
};

}  // namespace limelight::sm90
