// SPDX-License-Identifier: BSD-3-Clause
// A bulk copy brings 400 bytes. Planted: 16 bytes more than the tensor has.
#include "hopper.h"

__global__ void bring(const float* in, float* out) {
    __shared__ alignas(128) float tile[104];
    __shared__ uint64_t full;
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(&full, 1);
        fence_init();
    }
    __syncthreads();
    if (t == 0) {
        const uint32_t bytes = PLANTED ? 416 : 400;
        arrive_expect_tx(&full, bytes);
        bulk_load(tile, in, bytes, &full);
    }
    wait_parity(&full, 0);
    if (t < 100) {
        out[t] = tile[99 - t];
    }
}

int main() {
    const std::vector<float> in = ramp(100);
    float* out = device_zeros<float>(100);
    bring<<<1, 128>>>(on_device(in), out);
    return compare(out, std::vector<float>(in.rbegin(), in.rend()));
}
