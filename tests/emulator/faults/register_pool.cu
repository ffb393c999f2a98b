// SPDX-License-Identifier: BSD-3-Clause
// A producer gives registers to two consumers: 40 + 232 + 232 is what 168 a thread at launch allow.
// Planted: 40 + 240 + 232, which fits the register file but not what the block was launched with.
#include "hopper.h"

__global__ void __launch_bounds__(384, 1) ration(int* out) {
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    } else if (group == 1) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(PLANTED ? 240 : 232));
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    }
    out[threadIdx.x] = group;
}

int main() {
    std::vector<int> expected(384);
    for (int i = 0; i < 384; ++i) {
        expected[i] = i / 128;
    }
    int* out = device_zeros<int>(384);
    ration<<<1, 384>>>(out);
    return compare(out, expected);
}
