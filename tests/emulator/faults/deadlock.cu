// SPDX-License-Identifier: BSD-3-Clause
// A producer warp and a consumer warp with a full and an empty barrier. Planted: the consumer never
// frees the slot.
#include "fault.h"

__global__ void pipe(int* out) {
    __shared__ int slot[32];
    constexpr int kFull = 1, kEmpty = 2;
    const int lane = threadIdx.x % 32;
    if (threadIdx.x < 32) {
        for (int i = 0; i < 4; ++i) {
            if (i > 0) {
                asm volatile("bar.sync %0, 64;" ::"n"(kEmpty) : "memory");
            }
            slot[lane] = 100 * i + lane;
            asm volatile("bar.arrive %0, 64;" ::"n"(kFull) : "memory");
        }
    } else {
        for (int i = 0; i < 4; ++i) {
            asm volatile("bar.sync %0, 64;" ::"n"(kFull) : "memory");
            out[32 * i + lane] = slot[31 - lane];
            if (i < 3 && !(PLANTED && i == 1)) {
                asm volatile("bar.arrive %0, 64;" ::"n"(kEmpty) : "memory");
            }
        }
    }
}

int main() {
    std::vector<int> expected(128);
    for (int i = 0; i < 128; ++i) {
        expected[i] = 100 * (i / 32) + 31 - i % 32;
    }
    int* out = device_zeros<int>(128);
    pipe<<<1, 64>>>(out);
    return compare(out, expected);
}
