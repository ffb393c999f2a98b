// SPDX-License-Identifier: BSD-3-Clause
// Atomics and loads of global memory; PTX ISA, "Memory Consistency Model" and "ld.global.nc".
#pragma once

#include "arch/base.cuh"

namespace limelight {

// Adds to a counter of the whole GPU: releases what this thread knows of, acquires what earlier
// adders released.
LIMELIGHT_DEVICE uint32_t atomic_add_acq_rel(uint32_t* counter, uint32_t value) {
    uint32_t before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;\n"
                 : "=r"(before)
                 : "l"(counter), "r"(value)
                 : "memory");
    return before;
}

// Reads what no thread writes while the kernel runs, once: not kept in L1.
LIMELIGHT_DEVICE uint4 load_once_16(const void* global) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(global));
    return v;
}
LIMELIGHT_DEVICE uint2 load_once_8(const void* global) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];\n"
                 : "=r"(v.x), "=r"(v.y)
                 : "l"(global));
    return v;
}

}  // namespace limelight
