// SPDX-License-Identifier: BSD-3-Clause
// st.shared of several words in one instruction: nvcc splits some of those it makes of C++.
#pragma once

#include "arch/base.cuh"

namespace limelight {

LIMELIGHT_DEVICE void store_shared(uint32_t smem, const float2& x) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};\n" ::"r"(smem), "f"(x.x), "f"(x.y) : "memory");
}
LIMELIGHT_DEVICE void store_shared(uint32_t smem, const float4& x) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"r"(smem), "f"(x.x), "f"(x.y),
                 "f"(x.z), "f"(x.w)
                 : "memory");
}

}  // namespace limelight
