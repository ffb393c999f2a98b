// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "gemm/tiles.h"
#include "gemm/weights.cuh"

namespace limelight::gemm {

// What a quad of lanes reads of a row of weight, and of x for it.
template <class Element_, WeightFormat kFormat_>
struct SpanConfig {
    using Element = Element_;
    using Lane = WeightLane<Element_, kFormat_>;
    static constexpr WeightFormat kFormat = kFormat_;
    static constexpr int kLaneK = Lane::kLaneK;
    static constexpr int kPairs = kLaneK / 2;  // of 16-bit values a lane holds of a row
    static constexpr int kSpanK = 4 * kLaneK;  // k of a span
    static constexpr int kRowBytes = row_bytes(kFormat_);
    static constexpr int kBlockK = block_k(kFormat_);
    static constexpr int kStoredBytes = kFormat_ == WeightFormat::k16Bit ? 2 : 1;
    static constexpr int kSpans = kBlockK / kSpanK;  // of a k block
    static constexpr int kSpanBytes = kRowBytes / kSpans;
    static_assert(kSpanBytes == 4 * sizeof(typename Lane::Raw),
                  "a lane reads all it needs at once");

    // Byte offsets of 16-byte chunks in shared tiles of weight and x. Swizzled so that the lanes of
    // one shared-memory access (two rows by four chunks, INT4: four rows by two) fall into
    // different banks.
    LIMELIGHT_DEVICE static int weight_offset(int row, int chunk) {
        const int swizzle = kRowBytes == 128 ? (row & 1) * 4 : (row & 2);
        return row * kRowBytes + (chunk ^ swizzle) * 16;
    }
    LIMELIGHT_DEVICE static int x_offset(int row, int chunk) {
        const int swizzle = kBlockK == 64 ? (row & 1) * 4 : (row & 1);
        return row * kBlockK * 2 + (chunk ^ swizzle) * 16;
    }
};

template <class Element_, WeightFormat kFormat_, int kMaxRows_>
struct FlatConfig : SpanConfig<Element_, kFormat_> {
    using Span = SpanConfig<Element_, kFormat_>;
    static constexpr FlatTile kTile = find_flat_tile(kFormat_, kMaxRows_);
    static constexpr int kStages = kTile.stages;
    static constexpr int kWarpsN = kTile.warps_n;
    static constexpr int kWarpsM = kTile.warps_m;
    static constexpr int kWarps = kWarpsN * kWarpsM;
    static constexpr int kThreads = kWarps * kWarpSize;
    static constexpr int kMaxRows = kTile.m;                // of x
    static constexpr int kWarpRows = kFlatRows / kWarpsN;   // of weight
    static constexpr int kTilesN = kWarpRows / 16;          // m16 tiles of weight rows a warp owns
    static constexpr int kTilesM = kMaxRows / kWarpsM / 8;  // n8 tiles of x rows a warp owns
    static constexpr int kGroupM = kTilesM >= 8 ? 2 : 1;    // skipped together

    // Registers for two thread blocks, which the accumulators of 128 rows do not leave.
    static constexpr int kBlocksPerMultiprocessor = kWarpsM == 1 ? 2 : 1;

    struct Smem {
        alignas(128) char weight[kStages][kFlatRows * Span::kRowBytes];
        alignas(128) char x[kStages][kMaxRows * Span::kBlockK * 2];
        alignas(128) uint32_t ticket;
    };

    static_assert(kWarps * kTurnFloats * 4 <= kFlatRows * Span::kRowBytes,
                  "a slot holds what the warps turn");
    static_assert(kTile.m == kMaxRows_, "every size has a row in kFlatTiles");
    static_assert(kTilesN == 1 || kTilesN == 2, "SwiGLU pairs rows of one lane");
    static_assert(sizeof(Smem) <= kSmemLimit, "fits every device");
    static_assert(sizeof(Smem) == smem_bytes(kTile), "tiles.h knows the size");
};

}  // namespace limelight::gemm
