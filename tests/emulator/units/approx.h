// SPDX-License-Identifier: BSD-3-Clause
// The .approx functions of the PTX ISA: deterministic, inside the ISA's error bounds, not bit-equal
// to any GPU.
#pragma once

#include "numeric.h"

namespace emu::num {

// ex2.approx.f32, relative error < 2^-22, exact at integers; branch-free so that lane loops
// vectorise.
inline float ex2_approx(float x) {
    const float clamped = x > 130.0f ? 130.0f : (x < -152.0f ? -152.0f : x);
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const float whole = (clamped + magic) - magic;
    const float f = clamped - whole;
    float p = 1.5252734e-5f;
    p = p * f + 1.5403530e-4f;
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    const int n = static_cast<int>(whole), half = n >> 1;
    const float scaled = p * bits_f32(static_cast<uint32_t>(half + 127) << 23) *
                         bits_f32(static_cast<uint32_t>(n - half + 127) << 23);
    return x != x ? bits_f32(kNanF32) : scaled;
}
// Subnormal inputs give 1 either way; .ftz flushes subnormal results.
inline float ex2_approx_ftz(float x) {
    return f32_ftz(ex2_approx(x));
}
float lg2_approx(float x);    // absolute error < 2^-22 in (0.5, 2), relative elsewhere
float rcp_approx(float x);    // 1 ulp
float rsqrt_approx(float x);  // relative error < 2^-22.9
float sqrt_approx(float x);   // relative error < 2^-23
float sin_approx(float x);    // absolute error < 2^-20.5 in [-pi, pi]
float cos_approx(float x);
float tanh_approx(float x);  // relative error < 2^-11
float div_approx(
    float a, float b);  // 2 ulp for |b| in [2^-126, 2^126]; b above 2^126 gives 0 as the ISA states
uint16_t ex2_approx_f16(uint16_t x);
uint16_t ex2_approx_bf16(uint16_t x);
uint16_t tanh_approx_f16(uint16_t x);
uint16_t tanh_approx_bf16(uint16_t x);

}  // namespace emu::num
