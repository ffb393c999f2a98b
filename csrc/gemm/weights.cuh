// SPDX-License-Identifier: BSD-3-Clause
// How a lane reads weights: kLaneK consecutive k of one row in one load, turned into pairs of
// 16-bit values without rounding.
//
// A span is the 4 * kLaneK values of k that the four lanes of a quad hold. MMA j of a span takes
// pairs 2j and 2j + 1 of every lane, of weight and of x alike: a permutation of k, which a sum over
// k does not see.
#pragma once

#include "arch/atomic.cuh"
#include "arch/base.cuh"
#include "gemm/params.h"

namespace limelight::gemm {

template <class Element, WeightFormat kFormat>
struct WeightLane;

template <class Element>
struct WeightLane<Element, WeightFormat::k16Bit> {
    using Raw = uint4;
    static constexpr int kLaneK = 8;
    static constexpr bool kScaled = false;

    LIMELIGHT_DEVICE static void decode(const Raw& raw, uint32_t, uint32_t (&pairs)[kLaneK / 2]) {
        pairs[0] = raw.x;
        pairs[1] = raw.y;
        pairs[2] = raw.z;
        pairs[3] = raw.w;
    }
};

LIMELIGHT_DEVICE uint4 load_once(const void* global, uint4) {
    return load_once_16(global);
}
LIMELIGHT_DEVICE uint2 load_once(const void* global, uint2) {
    return load_once_8(global);
}

}  // namespace limelight::gemm
