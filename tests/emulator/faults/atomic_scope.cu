// SPDX-License-Identifier: BSD-3-Clause
// All blocks count into one word. Planted: the atomics reach only their own block.
#include "fault.h"

__global__ void count(int* total) {
    if (PLANTED) {
        atomicAdd_block(total, 1);
    } else {
        atomicAdd(total, 1);
    }
}

int main() {
    int* total = device_zeros<int>(1);
    count<<<4, 64>>>(total);
    return compare(total, {256});
}
