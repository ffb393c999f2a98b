// SPDX-License-Identifier: BSD-3-Clause
// What warpgroups (four warps) of one thread block do with each other: registers, named barriers.
#pragma once

#include "arch/base.cuh"

namespace limelight {

constexpr int kWarpgroupSize = 128;

// This thread's warpgroup, in a form that the compiler knows to be equal in the warp.
LIMELIGHT_DEVICE int warpgroup_index() {
    return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpgroupSize, 0);
}

// setmaxnreg: the whole warpgroup, a multiple of 8.
template <int kRegisters>
LIMELIGHT_DEVICE void give_registers_back() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}
template <int kRegisters>
LIMELIGHT_DEVICE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}

// bar.sync and bar.arrive on one of barriers 1..15; `threads` counts both kinds.
LIMELIGHT_DEVICE void named_barrier_sync(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}
LIMELIGHT_DEVICE void named_barrier_arrive(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}

}  // namespace limelight
