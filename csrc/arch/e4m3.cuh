// SPDX-License-Identifier: BSD-3-Clause
// e4m3 to half without the conversion instructions of sm_89: the bits of x move to where they mean
// x * 2^-8 exactly, subnormals included; the caller's scale makes up for the factor.
#pragma once

#include "arch/base.cuh"

namespace limelight {

constexpr float kE4m3HalfScale = 256.0f;

// The e4m3 bytes 1 and 3 of x as two halves, each times 2^-8; NaN stays NaN.
LIMELIGHT_DEVICE uint32_t e4m3_odd_to_half2(uint32_t x) {
    const uint32_t magnitude = (x & 0x7f007f00u) >> 1;
    const uint32_t nan = (magnitude + 0x00800080u) & 0x40004000u;  // the carry of 0x7f
    return magnitude | (x & 0x80008000u) | nan;
}
// Bytes 0 and 2.
LIMELIGHT_DEVICE uint32_t e4m3_even_to_half2(uint32_t x) {
    return e4m3_odd_to_half2(x << 8);
}

}  // namespace limelight
