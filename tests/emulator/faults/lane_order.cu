// SPDX-License-Identifier: BSD-3-Clause
// The lanes of a warp hand values to each other through shared memory, with __syncwarp between.
// Planted instead of one: 1 a shuffle, 2 a vote, 3 a match, 4 a fence; none 5 before values are
// overwritten that others read, 6 between writes of two lanes, 7 between halves and whole words,
// 8 between the sides of a branch.
#include "fault.h"

__global__ void exchange(float* out) {
    __shared__ float slots[32];
    __shared__ alignas(4) unsigned short halves[64];
    const unsigned all = 0xffffffffu;
    const int t = threadIdx.x;
    // Neighbours write the halves of one word: no bytes in common.
    halves[t] = static_cast<unsigned short>(t);
    halves[32 + t] = 0;
    slots[t] = float(t);
    float sum = 0;
    if (PLANTED == 1) {
        sum = 0 * __shfl_xor_sync(all, float(t), 1);
    } else if (PLANTED == 2) {
        sum = __any_sync(all, t < 0) ? 1.0f : 0.0f;
    } else if (PLANTED == 3) {
        sum = __match_any_sync(all, t) == 0 ? 1.0f : 0.0f;
    } else if (PLANTED == 4) {
        __threadfence_block();
    } else if (PLANTED == 8) {
        if (t % 2 == 1) {
            slots[t] = float(t);
        } else {
            slots[t] = slots[t + 1] + float(t);
        }
    } else if (PLANTED != 7) {
        __syncwarp();
    }
    if (PLANTED == 7) {
        sum += float(reinterpret_cast<const unsigned*>(halves)[16 + t / 2]);
        __syncwarp();
    }
    sum += slots[t ^ 1];
    if (PLANTED != 5) {
        __syncwarp();
    }
    slots[t] = sum;
    if (PLANTED == 6) {
        slots[t ^ 1] = sum;
    }
    __syncwarp();
    out[t] = slots[t] + float(halves[t ^ 1]);
}

int main() {
    std::vector<float> expected(32);
    for (int i = 0; i < 32; ++i) {
        expected[i] = 2 * float(i ^ 1);
    }
    float* out = device_zeros<float>(32);
    exchange<<<1, 32>>>(out);
    return compare(out, expected);
}
