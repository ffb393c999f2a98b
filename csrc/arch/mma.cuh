// SPDX-License-Identifier: BSD-3-Clause
// mma.sync m16n8k16 with fp32 accumulators; PTX ISA, "Matrix Fragments for mma.m16n8k16".
//
// Lane l owns, with g = l / 4 and t = l % 4:
//   a[0..3]  rows g, g+8, g, g+8; k = 2t, 2t, 2t+8, 2t+8 (pairs)
//   b[0..1]  column g; k = 2t, 2t+8 (pairs)
//   d[0..3]  rows g, g, g+8, g+8; columns 2t, 2t+1, 2t, 2t+1
#pragma once

#include "arch/base.cuh"

namespace limelight {

LIMELIGHT_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                   __half) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

LIMELIGHT_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                   __nv_bfloat16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace limelight
