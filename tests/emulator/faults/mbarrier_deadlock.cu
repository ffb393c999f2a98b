// SPDX-License-Identifier: BSD-3-Clause
// A producer warp fills a ring of two buffers for a consumer warp. Planted: the consumer never
// frees a buffer.
#include "hopper.h"

__global__ void ring(const float* in, float* out) {
    __shared__ alignas(128) float tile[2][32];
    __shared__ uint64_t full[2], empty[2];
    const int lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int s = 0; s < 2; ++s) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&empty[s], 32);
        }
        fence_init();
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        if (lane == 0) {
            for (int i = 0; i < 6; ++i) {
                const int s = i % 2;
                wait_parity(&empty[s], (i / 2 & 1) ^ 1);
                arrive_expect_tx(&full[s], sizeof tile[s]);
                bulk_load(tile[s], in + 32 * i, sizeof tile[s], &full[s]);
            }
        }
    } else {
        for (int i = 0; i < 6; ++i) {
            const int s = i % 2;
            wait_parity(&full[s], i / 2 & 1);
            out[32 * i + lane] = tile[s][31 - lane];
            fence_proxy_async();
            if (!PLANTED) {
                arrive(&empty[s]);
            }
        }
    }
}

int main() {
    const std::vector<float> in = ramp(192);
    std::vector<float> expected(192);
    for (int i = 0; i < 192; ++i) {
        expected[i] = in[i / 32 * 32 + 31 - i % 32];
    }
    float* out = device_zeros<float>(192);
    ring<<<1, 64>>>(on_device(in), out);
    return compare(out, expected);
}
