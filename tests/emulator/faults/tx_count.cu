// SPDX-License-Identifier: BSD-3-Clause
// Two copies complete on one mbarrier. Planted: expect_tx names the bytes of one of them.
#include "hopper.h"

__global__ void load(const float* in, float* out) {
    __shared__ alignas(128) float tile[2][64];
    __shared__ uint64_t full;
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(&full, 1);
        fence_init();
    }
    __syncthreads();
    if (t == 0) {
        arrive_expect_tx(&full, PLANTED ? sizeof tile / 2 : sizeof tile);
        bulk_load(tile[0], in, sizeof tile[0], &full);
        bulk_load(tile[1], in + 64, sizeof tile[1], &full);
    }
    wait_parity(&full, 0);
    out[t] = tile[0][63 - t] + tile[1][t];
}

int main() {
    const std::vector<float> in = ramp(128);
    std::vector<float> expected(64);
    for (int i = 0; i < 64; ++i) {
        expected[i] = in[63 - i] + in[64 + i];
    }
    float* out = device_zeros<float>(64);
    load<<<1, 64>>>(on_device(in), out);
    return compare(out, expected);
}
