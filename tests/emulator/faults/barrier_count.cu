// SPDX-License-Identifier: BSD-3-Clause
// Two groups of warps meet at named barriers. Planted: one group expects 96 threads where 64 take
// part.
#include "fault.h"

__global__ void groups(int* out) {
    __shared__ int sums[4];
    const int warp = threadIdx.x / 32, group = warp / 2;
    if (threadIdx.x % 32 == 0) {
        sums[warp] = warp + 1;
    }
    const int count = PLANTED && warp == 3 ? 96 : 64;
    asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "r"(count) : "memory");
    if (threadIdx.x % 32 == 0) {
        out[warp] = sums[2 * group] + sums[2 * group + 1];
    }
}

int main() {
    int* out = device_zeros<int>(4);
    groups<<<1, 128>>>(out);
    return compare(out, {3, 3, 7, 7});
}
