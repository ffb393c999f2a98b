// SPDX-License-Identifier: BSD-3-Clause
// A padded tile in shared memory is summed. Planted: the padding is not zeroed.
#include "fault.h"

__global__ void sum(const float* in, float* out, int n) {
    __shared__ float tile[128];
    const int t = threadIdx.x;
    if (t < n) {
        tile[t] = in[t];
    } else if (!PLANTED) {
        tile[t] = 0.0f;
    }
    __syncthreads();
    for (int half = 64; half > 0; half /= 2) {
        if (t < half) {
            tile[t] += tile[t + half];
        }
        __syncthreads();
    }
    if (t == 0) {
        out[0] = tile[0];
    }
}

int main() {
    const std::vector<float> in = ramp(100);
    float* out = device_zeros<float>(1);
    sum<<<1, 128>>>(on_device(in), out, 100);
    return compare(out, {4950.0f});
}
