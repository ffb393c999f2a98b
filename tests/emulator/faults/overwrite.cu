// SPDX-License-Identifier: BSD-3-Clause
// A tile in shared memory is used twice. Planted: no __syncthreads before it is filled again.
#include "fault.h"

__global__ void twice(const float* in, float* out) {
    __shared__ float tile[128];
    const int t = threadIdx.x;
    for (int round = 0; round < 2; ++round) {
        tile[t] = in[128 * round + t];
        __syncthreads();
        out[128 * round + t] = tile[127 - t];
        if (!PLANTED) {
            __syncthreads();
        }
    }
}

int main() {
    const std::vector<float> in = ramp(256);
    std::vector<float> expected(256);
    for (int i = 0; i < 256; ++i) {
        expected[i] = in[i / 128 * 128 + 127 - i % 128];
    }
    float* out = device_zeros<float>(256);
    twice<<<1, 128>>>(on_device(in), out);
    return compare(out, expected);
}
