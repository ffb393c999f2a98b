// SPDX-License-Identifier: BSD-3-Clause
// A block reverses an array through shared memory. Planted: the __syncthreads between write and
// read is gone.
#include "fault.h"

__global__ void reverse(const float* in, float* out) {
    __shared__ float tile[128];
    const int t = threadIdx.x;
    tile[t] = in[t];
    if (!PLANTED) {
        __syncthreads();
    }
    out[t] = tile[127 - t];
}

int main() {
    const std::vector<float> in = ramp(128);
    std::vector<float> expected(in.rbegin(), in.rend());
    float* out = device_zeros<float>(128);
    reverse<<<1, 128>>>(on_device(in), out);
    return compare(out, expected);
}
