// SPDX-License-Identifier: BSD-3-Clause
// A bulk store reads shared memory. Planted: the block ends without waiting for it.
#include "hopper.h"

__global__ void store(float* out) {
    __shared__ alignas(128) float tile[128];
    const int t = threadIdx.x;
    tile[t] = 2.0f * t;
    fence_proxy_async();
    __syncthreads();
    if (t == 0) {
        bulk_store(out, tile, sizeof tile);
        if (!PLANTED) {
            bulk_wait();
        }
    }
}

int main() {
    std::vector<float> expected(128);
    for (int i = 0; i < 128; ++i) {
        expected[i] = 2.0f * i;
    }
    float* out = device_zeros<float>(128);
    store<<<1, 128>>>(out);
    return compare(out, expected);
}
