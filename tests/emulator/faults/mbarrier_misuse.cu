// SPDX-License-Identifier: BSD-3-Clause
// One thread arrives at an mbarrier, all wait. PLANTED 1: it was never initialised. 2: more
// arrivals than it expects. 3: its tx-count overflows. 4: it is not aligned.
#include "hopper.h"

__global__ void meet_once(int* out) {
    __shared__ uint64_t storage[2];
    uint64_t* bar =
        PLANTED == 4 ? reinterpret_cast<uint64_t*>(reinterpret_cast<char*>(storage) + 4) : storage;
    const int t = threadIdx.x;
    if (t == 0) {
        if (PLANTED == 1) {
            storage[0] = 0;
        } else {
            mbarrier_init(bar, 1);
        }
        fence_init();
    }
    __syncthreads();
    if (t == 0) {
        if (PLANTED == 2) {
            asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], 2;" ::"r"(shared_of(bar))
                         : "memory");
        } else if (PLANTED == 3) {
            asm volatile(
                "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_of(bar)),
                "r"(1 << 20)
                : "memory");
        }
        arrive(bar);
    }
    wait_parity(bar, 0);
    out[t] = 5;
}

int main() {
    int* out = device_zeros<int>(64);
    meet_once<<<1, 64>>>(out);
    return compare(out, std::vector<int>(64, 5));
}
