// SPDX-License-Identifier: BSD-3-Clause
// A warp loads a matrix with ldmatrix.sync.aligned. Planted: only half of the warp does.
#include "fault.h"

__global__ void load(unsigned* out, int active) {
    __shared__ alignas(16) unsigned tile[32];
    const int t = threadIdx.x;
    tile[t] = t;
    __syncthreads();
    unsigned r = 0;
    if (t < active) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                     : "=r"(r)
                     : "r"(shared_of(&tile[4 * (t % 8)])));
    }
    out[t] = r;
}

int main() {
    std::vector<unsigned> expected(32);
    for (unsigned i = 0; i < 32; ++i) {
        expected[i] = i;
    }
    unsigned* out = device_zeros<unsigned>(32);
    load<<<1, 32>>>(out, PLANTED ? 16 : 32);
    return compare(out, expected);
}
