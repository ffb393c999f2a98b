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
