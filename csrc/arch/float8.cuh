// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda_fp8.h>

#include "arch/base.cuh"

namespace limelight {

// Two e4m3 numbers, low byte first, rounded to nearest even and saturated to +-448; NaN stays NaN.
LIMELIGHT_DEVICE uint32_t pack2_e4m3(float low, float high) {
    return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}

}  // namespace limelight
