// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "arch/base.cuh"

namespace limelight {

// ex2.approx.ftz: 2^x with 2 ulp, subnormal results flushed; exp2(-inf) = +0.
LIMELIGHT_DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

// rcp.approx.ftz: 1 ulp.
LIMELIGHT_DEVICE float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

// tanh by one exponential, absolute error below 3e-7; tanh.approx has 5e-4, too coarse for a
// softcap of 50.
LIMELIGHT_DEVICE float tanh_exp2(float x) {
    const float e = exp2_approx(2.0f * kLog2e * x);
    return 1.0f - 2.0f * reciprocal_approx(1.0f + e);
}

// Reductions over the four lanes that share a row of an mma accumulator.
LIMELIGHT_DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
LIMELIGHT_DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

}  // namespace limelight
