// SPDX-License-Identifier: BSD-3-Clause
// mbarriers of sm_90; PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier".
#pragma once

#include <cuda/ptx>

#include "arch/base.cuh"

namespace limelight {

LIMELIGHT_DEVICE void mbarrier_init(uint64_t& barrier, uint32_t arrivals) {
    cuda::ptx::mbarrier_init(&barrier, arrivals);
}

// Makes this thread's mbarrier_inits known to the asynchronous copies; a barrier after it makes
// them known to the other threads.
LIMELIGHT_DEVICE void fence_mbarrier_init() {
    cuda::ptx::fence_mbarrier_init(cuda::ptx::sem_release, cuda::ptx::scope_cluster);
}

// Returns once the phase of that parity has ended; on a fresh barrier parity 1 returns at once.
LIMELIGHT_DEVICE void mbarrier_wait(uint64_t& barrier, uint32_t parity) {
    while (!cuda::ptx::mbarrier_try_wait_parity(&barrier, parity)) {
    }
}

LIMELIGHT_DEVICE void mbarrier_arrive(uint64_t& barrier) {
    cuda::ptx::mbarrier_arrive(&barrier);
}

// Arrives and lets the phase wait for `bytes` of asynchronous copies as well.
LIMELIGHT_DEVICE void mbarrier_arrive_expect_tx(uint64_t& barrier, uint32_t bytes) {
    cuda::ptx::mbarrier_arrive_expect_tx(cuda::ptx::sem_release, cuda::ptx::scope_cta,
                                         cuda::ptx::space_shared, &barrier, bytes);
}

}  // namespace limelight
