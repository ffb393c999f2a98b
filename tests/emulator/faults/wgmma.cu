// SPDX-License-Identifier: BSD-3-Clause
// One wgmma. PLANTED 1: the accumulator is read before wait_group. 2: an operand is overwritten
// before wait_group. 3: the operands were written without fence.proxy.async.
#include <cuda_fp16.h>

#include "hopper.h"

// K-major without swizzle: core matrices of 8 rows x 16 bytes, 128 bytes each; two side by side
// make K = 16.
__device__ int core(int row, int k) {
    return row / 8 * 128 + k / 8 * 64 + row % 8 * 8 + k % 8;
}

__global__ void multiply(float* out) {
    __shared__ alignas(128) half a[64 * 16], b[8 * 16];
    const int t = threadIdx.x;
    for (int i = t; i < 64 * 16; i += 128) {
        a[core(i / 16, i % 16)] = __int2half_rn(i / 16 % 5 + i % 16 % 3);
    }
    b[core(t / 16, t % 16)] = __int2half_rn(t / 16 + t % 16 % 2);
    if (PLANTED != 3) {
        fence_proxy_async();
    }
    __syncthreads();
    float d[4] = {};
    wgmma_fence();
    wgmma_m64n8k16(d, descriptor(a, 128, 256, kNone), descriptor(b, 128, 256, kNone));
    wgmma_commit();
    if (PLANTED == 1) {
        for (int i = 0; i < 4; ++i) {
            out[d_row(i) * 8 + d_column(i)] = d[i];
        }
    }
    if (PLANTED == 2) {
        b[core(t / 16, t % 16)] = __int2half_rn(0);
    }
    wgmma_wait();
    b[core(t / 16, t % 16)] = __int2half_rn(0);
    for (int i = 0; i < 4; ++i) {
        asm volatile("" : "+f"(d[i])::"memory");
        out[d_row(i) * 8 + d_column(i)] = d[i];
    }
}

int main() {
    std::vector<float> expected(64 * 8);
    for (int row = 0; row < 64; ++row) {
        for (int column = 0; column < 8; ++column) {
            for (int k = 0; k < 16; ++k) {
                expected[row * 8 + column] += float((row % 5 + k % 3) * (column + k % 2));
            }
        }
    }
    float* out = device_zeros<float>(64 * 8);
    multiply<<<1, 128>>>(out);
    return compare(out, expected);
}
