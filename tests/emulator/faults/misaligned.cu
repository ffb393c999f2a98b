// SPDX-License-Identifier: BSD-3-Clause
// Copies by 16 bytes. Planted: the source starts one element late.
#include "fault.h"

__global__ void copy(const float* in, float* out) {
    reinterpret_cast<float4*>(out)[threadIdx.x] = reinterpret_cast<const float4*>(in)[threadIdx.x];
}

int main() {
    const std::vector<float> in = ramp(132);
    const int skip = PLANTED ? 1 : 4;
    float* out = device_zeros<float>(128);
    copy<<<1, 32>>>(on_device(in) + skip, out);
    return compare(out, std::vector<float>(in.begin() + skip, in.begin() + skip + 128));
}
