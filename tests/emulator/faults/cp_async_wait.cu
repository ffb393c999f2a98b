// SPDX-License-Identifier: BSD-3-Clause
// Two stages of cp.async. Planted: the wait for the first group is gone, the barrier is still
// there.
#include "fault.h"

__global__ void copy(const float* in, float* out) {
    __shared__ alignas(16) float tile[2][128];
    const int t = threadIdx.x;
    for (int stage = 0; stage < 2; ++stage) {
        if (t < 32) {
            asm volatile(
                "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_of(&tile[stage][4 * t])),
                "l"(in + 128 * stage + 4 * t)
                : "memory");
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    if (PLANTED) {
        asm volatile("cp.async.wait_group 2;" ::: "memory");
    } else {
        asm volatile("cp.async.wait_group 1;" ::: "memory");
    }
    __syncthreads();
    out[t] = tile[0][127 - t];
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    out[128 + t] = tile[1][127 - t];
}

int main() {
    const std::vector<float> in = ramp(256);
    std::vector<float> expected(256);
    for (int i = 0; i < 256; ++i) {
        expected[i] = in[i / 128 * 128 + 127 - i % 128];
    }
    float* out = device_zeros<float>(256);
    copy<<<1, 128>>>(on_device(in), out);
    return compare(out, expected);
}
