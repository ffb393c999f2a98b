// SPDX-License-Identifier: BSD-3-Clause
// Threads write a tile that one of them stores by a bulk copy. Planted: no fence.proxy.async
// between the two.
#include "hopper.h"

__global__ void store(float* out) {
    __shared__ alignas(128) float tile[128];
    const int t = threadIdx.x;
    tile[t] = 2.0f * t;
    if (!PLANTED) {
        fence_proxy_async();
    }
    __syncthreads();
    if (t == 0) {
        bulk_store(out, tile, sizeof tile);
        bulk_wait();
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
