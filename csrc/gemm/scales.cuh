// SPDX-License-Identifier: BSD-3-Clause
// Scales of quantised weights: multiplied in fp32, once per span of k and row of weight.
#pragma once

#include "arch/mma.cuh"
#include "gemm/config.cuh"
#include "gemm/schedule.cuh"

namespace limelight::gemm {

// What a lane needs for the rows that it holds of one k block: kTilesN m16 tiles, rows lane / 4 and
// lane / 4 + 8 of each.
template <class Config, int kTilesN, bool kScaled = Config::Lane::kScaled>
struct LaneScales {
    template <class RowOf>
    LIMELIGHT_DEVICE LaneScales(const GemmParams&, const Cursor&, RowOf) {}
    LIMELIGHT_DEVICE float scale(int, int) const { return 1.0f; }
    LIMELIGHT_DEVICE uint32_t zero(int, int) const { return 0; }
};

template <class Config, int kTilesN>
struct LaneScales<Config, kTilesN, true> {
    using Element = typename Config::Element;
    using Lane = typename Config::Lane;
    static constexpr bool kInt4 = Config::kFormat == WeightFormat::kInt4;
    static constexpr int kSpans = kInt4 ? Config::kSpans : 1;  // an FP8 scale is one k block wide

    float scales[2 * kTilesN][kSpans];
    uint32_t zeros[2 * kTilesN][kSpans];

    // row_of(local) is the TileRow of the warp's row `local`. Scales past the last row and past the
    // end of k are zero.
    template <class RowOf>
    LIMELIGHT_DEVICE LaneScales(const GemmParams& p, const Cursor& at, RowOf row_of) {
        const int lane = threadIdx.x % kWarpSize;
#pragma unroll
        for (int i = 0; i < 2 * kTilesN; ++i) {
            const auto row = row_of(i * 8 + lane / 4);
            const int64_t first = int64_t{row.row >> p.scale_row_shift} * p.scale_row_stride;
#pragma unroll
            for (int span = 0; span < kSpans; ++span) {
                const int k = at.k_block * Config::kBlockK + span * Config::kSpanK;
                const bool valid = row.column < p.n && k < p.k;
                const int64_t index = first + (k >> p.scale_k_shift);
                scales[i][span] = valid ? load(p, index) : 0.0f;
                if constexpr (kInt4) {
                    zeros[i][span] = Lane::zero_pair(
                        valid && p.weight_zero != nullptr ? __ldg(p.weight_zero + index) : 8);
                }
            }
        }
    }

    LIMELIGHT_DEVICE static float load(const GemmParams& p, int64_t index) {
        if constexpr (kInt4) {
            return static_cast<float>(__ldg(static_cast<const Element*>(p.weight_scale) + index));
        } else {
            return __ldg(static_cast<const float*>(p.weight_scale) + index) * Lane::kScaleFactor;
        }
    }

    LIMELIGHT_DEVICE float scale(int i, int span) const { return scales[i][span % kSpans]; }
    LIMELIGHT_DEVICE uint32_t zero(int i, int span) const {
        return kInt4 ? zeros[i][span % kSpans] : 0;
    }
};

// d += scale * (weight x^T) over one span: rows lane / 4 (low) and lane / 4 + 8 (high) of weight,
// row lane / 4 of x.
template <class Config>
LIMELIGHT_DEVICE void multiply_span(float (&d)[4], const uint32_t (&low)[Config::kPairs],
                                    const uint32_t (&high)[Config::kPairs],
                                    const uint32_t (&x)[Config::kPairs], float scale_low,
                                    float scale_high, typename Config::Element element) {
    if constexpr (Config::Lane::kScaled) {
        float part[4] = {};
#pragma unroll
        for (int j = 0; j < Config::kPairs; j += 2) {
            const uint32_t a[4] = {low[j], high[j], low[j + 1], high[j + 1]};
            mma_m16n8k16(part, a, x[j], x[j + 1], element);
        }
        d[0] += scale_low * part[0];
        d[1] += scale_low * part[1];
        d[2] += scale_high * part[2];
        d[3] += scale_high * part[3];
    } else {
#pragma unroll
        for (int j = 0; j < Config::kPairs; j += 2) {
            const uint32_t a[4] = {low[j], high[j], low[j + 1], high[j + 1]};
            mma_m16n8k16(d, a, x[j], x[j + 1], element);
        }
    }
}

}  // namespace limelight::gemm
