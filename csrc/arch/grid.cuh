// SPDX-License-Identifier: BSD-3-Clause
// Programmatic dependent launch of sm_90 and newer; PTX ISA, "griddepcontrol". Older: no effect.
#pragma once

#include "arch/base.cuh"

namespace limelight {

// Waits until the grids that this one depends on have ended and their writes are visible.
LIMELIGHT_DEVICE void grid_dependency_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

// Lets dependent grids start once every thread block has said so; they still wait for this one.
LIMELIGHT_DEVICE void grid_launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

}  // namespace limelight
