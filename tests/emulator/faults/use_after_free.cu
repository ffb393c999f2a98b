// SPDX-License-Identifier: BSD-3-Clause
// Doubles a tensor. Planted: it has been freed.
#include "fault.h"

__global__ void twice(const float* in, float* out) {
    out[threadIdx.x] = 2.0f * in[threadIdx.x];
}

int main() {
    const std::vector<float> in = ramp(64);
    std::vector<float> expected;
    for (float x : in) {
        expected.push_back(2.0f * x);
    }
    float* out = device_zeros<float>(64);
    float* device = on_device(in);
    if (PLANTED) {
        must(cudaFree(device));
    }
    twice<<<1, 64>>>(device, out);
    return compare(out, expected);
}
