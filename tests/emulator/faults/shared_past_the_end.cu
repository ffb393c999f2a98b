// SPDX-License-Identifier: BSD-3-Clause
// Dynamic shared memory holds one float a thread. Planted: the launch gives one float less.
#include "fault.h"

__global__ void hold(float* out) {
    extern __shared__ float tile[];
    tile[threadIdx.x] = 2.0f;
    out[threadIdx.x] = tile[threadIdx.x];
}

int main() {
    float* out = device_zeros<float>(64);
    hold<<<1, 64, 4 * (64 - PLANTED)>>>(out);
    return compare(out, std::vector<float>(64, 2.0f));
}
