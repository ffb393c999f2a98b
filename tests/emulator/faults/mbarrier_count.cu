// SPDX-License-Identifier: BSD-3-Clause
// 64 threads arrive at an mbarrier and wait for its phase. Planted: it was initialised for 32, so
// two phases pass.
#include "hopper.h"

__global__ void meet(int* out) {
    __shared__ uint64_t bar;
    __shared__ int slot[64];
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(&bar, PLANTED ? 32 : 64);
        fence_init();
    }
    __syncthreads();
    slot[t] = t;
    arrive(&bar);
    wait_parity(&bar, 0);
    out[t] = slot[63 - t];
}

int main() {
    std::vector<int> expected(64);
    for (int i = 0; i < 64; ++i) {
        expected[i] = 63 - i;
    }
    int* out = device_zeros<int>(64);
    meet<<<1, 64>>>(out);
    return compare(out, expected);
}
