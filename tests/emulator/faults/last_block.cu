// SPDX-License-Identifier: BSD-3-Clause
// Split-KV's pattern: every block writes a partial, the last one to finish adds them. Planted: no
// __threadfence.
#include "fault.h"

__global__ void add(float* partial, unsigned* finished, float* out) {
    __shared__ bool last;
    if (threadIdx.x < 32) {
        partial[32 * blockIdx.x + threadIdx.x] = float(blockIdx.x + 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        if (!PLANTED) {
            __threadfence();
        }
        last = atomicAdd(finished, 1u) == gridDim.x - 1;
        if (!PLANTED) {
            __threadfence();
        }
    }
    __syncthreads();
    if (last && threadIdx.x < 32) {
        float sum = 0.0f;
        for (unsigned b = 0; b < gridDim.x; ++b) {
            sum += partial[32 * b + threadIdx.x];
        }
        out[threadIdx.x] = sum;
    }
}

int main() {
    float* out = device_zeros<float>(32);
    add<<<6, 64>>>(device_zeros<float>(6 * 32), device_zeros<unsigned>(1), out);
    return compare(out, std::vector<float>(32, 21.0f));
}
