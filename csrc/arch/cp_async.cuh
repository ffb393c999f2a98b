// SPDX-License-Identifier: BSD-3-Clause
// cp.async of sm_80 and newer; PTX ISA, "Data Movement and Conversion Instructions: cp.async".
#pragma once

#include "arch/base.cuh"

namespace limelight {

// Copies the first source_bytes of 16 past L1 and writes zeros for the others.
LIMELIGHT_DEVICE void cp_async_16_bytes(uint32_t smem, const void* global, int source_bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(smem), "l"(global),
                 "r"(source_bytes)
                 : "memory");
}

// Copies 16 bytes past L1; an invalid source writes zeros and reads nothing.
LIMELIGHT_DEVICE void cp_async_16(uint32_t smem, const void* global, bool valid) {
    cp_async_16_bytes(smem, global, valid ? 16 : 0);
}

// Copies 4 bytes; an invalid source writes zeros and reads nothing.
LIMELIGHT_DEVICE void cp_async_4(uint32_t smem, const void* global, bool valid) {
    const int source_bytes = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(smem), "l"(global),
                 "r"(source_bytes)
                 : "memory");
}

LIMELIGHT_DEVICE void cp_async_commit() {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

// Waits for this thread's own groups but the newest kPending; others' copies need a barrier after
// it.
template <int kPending>
LIMELIGHT_DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

}  // namespace limelight
