// SPDX-License-Identifier: BSD-3-Clause
// Four tiles pass through one buffer. Planted: the wait names the parity of the phase before, which
// has ended already.
#include "hopper.h"

__global__ void stream(const float* in, float* out) {
    __shared__ alignas(128) float tile[64];
    __shared__ uint64_t full;
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(&full, 1);
        fence_init();
    }
    __syncthreads();
    for (int i = 0; i < 4; ++i) {
        if (t == 0) {
            arrive_expect_tx(&full, sizeof tile);
            bulk_load(tile, in + 64 * i, sizeof tile, &full);
        }
        wait_parity(&full, (i + PLANTED) & 1);
        out[64 * i + t] = tile[63 - t];
        fence_proxy_async();
        __syncthreads();
    }
}

int main() {
    const std::vector<float> in = ramp(256);
    std::vector<float> expected(256);
    for (int i = 0; i < 256; ++i) {
        expected[i] = in[i / 64 * 64 + 63 - i % 64];
    }
    float* out = device_zeros<float>(256);
    stream<<<1, 64>>>(on_device(in), out);
    return compare(out, expected);
}
