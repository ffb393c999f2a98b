// SPDX-License-Identifier: BSD-3-Clause
// Each warp writes its own 16 rows of A and needs only __syncwarp before the wgmma. Planted: warps
// write the rows of their neighbours.
#include <cuda_fp16.h>

#include "hopper.h"

namespace rows {
__device__ int core(int row, int k) {
    return row / 8 * 128 + k / 8 * 64 + row % 8 * 8 + k % 8;
}
}  // namespace rows

__global__ void multiply_rows(float* out) {
    __shared__ alignas(128) half a[64 * 16], b[8 * 16];
    const int t = threadIdx.x, warp = (t / 32 + PLANTED) % 4;
    b[rows::core(t / 16, t % 16)] = __int2half_rn(t / 16 + t % 16 % 2);
    fence_proxy_async();
    __syncthreads();
    for (int i = t % 32; i < 16 * 16; i += 32) {
        const int row = 16 * warp + i / 16, k = i % 16;
        a[rows::core(row, k)] = __int2half_rn(row % 5 + k % 3);
    }
    fence_proxy_async();
    __syncwarp();
    float d[4] = {};
    wgmma_fence();
    wgmma_m64n8k16(d, descriptor(a, 128, 256, kNone), descriptor(b, 128, 256, kNone));
    wgmma_commit();
    wgmma_wait();
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
    multiply_rows<<<1, 128>>>(out);
    return compare(out, expected);
}
