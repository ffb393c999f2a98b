// SPDX-License-Identifier: BSD-3-Clause
// Accesses of global memory; PTX ISA, "st".
#pragma once

#include "arch/base.cuh"

namespace limelight {

// Stores where `on`: one predicated instruction. A branch around many of them takes registers away
// from loops before it.
LIMELIGHT_DEVICE void store_if(bool on, float2* to, float2 x) {
    asm volatile(
        "{\n"
        ".reg .pred on;\n"
        "setp.ne.s32 on, %0, 0;\n"
        "@on st.global.v2.f32 [%1], {%2, %3};\n"
        "}\n" ::"r"(static_cast<int>(on)),
        "l"(__cvta_generic_to_global(to)), "f"(x.x), "f"(x.y)
        : "memory");
}

}  // namespace limelight
