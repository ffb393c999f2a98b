// SPDX-License-Identifier: BSD-3-Clause
// One lane stores the result of its warp. Planted: all lanes store, and they disagree.
#include "fault.h"

__global__ void result(int* out) {
    if (PLANTED || threadIdx.x == 31) {
        out[0] = threadIdx.x;
    }
}

int main() {
    int* out = device_zeros<int>(1);
    result<<<1, 32>>>(out);
    return compare(out, {31});
}
