// SPDX-License-Identifier: BSD-3-Clause
// TMA brings two tiles in the 128-byte swizzle, wgmma multiplies them. Planted: the descriptors say
// 64-byte swizzle: no rule is broken, the numbers are wrong.
#include <cuda.h>
#include <cuda_fp16.h>

#include "hopper.h"

__device__ void tensor_load(void* shared, const CUtensorMap* map, int x, int y, uint64_t* bar) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%2, %3}], [%4];" ::"r"(shared_of(shared)),
        "l"(map), "r"(x), "r"(y), "r"(shared_of(bar))
        : "memory");
}

__global__ void multiply(const __grid_constant__ CUtensorMap map_a,
                         const __grid_constant__ CUtensorMap map_b, float* out) {
    __shared__ alignas(1024) half a[64 * 64];
    __shared__ alignas(1024) half b[8 * 64];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        fence_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        arrive_expect_tx(&full, sizeof a + sizeof b);
        tensor_load(a, &map_a, 0, 0, &full);
        tensor_load(b, &map_b, 0, 0, &full);
    }
    wait_parity(&full, 0);
    float d[4] = {};
    wgmma_fence();
    for (int k = 0; k < 4; ++k) {
        wgmma_m64n8k16(d, descriptor(a + 16 * k, 16, 1024, PLANTED ? k64B : k128B),
                       descriptor(b + 16 * k, 16, 1024, PLANTED ? k64B : k128B));
    }
    wgmma_commit();
    wgmma_wait();
    for (int i = 0; i < 4; ++i) {
        asm volatile("" : "+f"(d[i])::"memory");
        out[d_row(i) * 8 + d_column(i)] = d[i];
    }
}

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                            const cuuint64_t*, const cuuint32_t*, const cuuint32_t*,
                            CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                            CUtensorMapFloatOOBfill);

CUtensorMap map_of(half* data, uint64_t rows) {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    must(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                          cudaEnableDefault, &found));
    CUtensorMap map;
    const cuuint64_t dims[] = {64, rows}, strides[] = {128};
    const cuuint32_t box[] = {64, cuuint32_t(rows)}, steps[] = {1, 1};
    const CUresult r = reinterpret_cast<Encode>(entry)(
        &map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, data, dims, strides, box, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (r != CUDA_SUCCESS) {
        std::printf("cuTensorMapEncodeTiled: %d\n", int(r));
        std::exit(3);
    }
    return map;
}

int main() {
    std::vector<half> a(64 * 64), b(8 * 64);
    std::vector<float> expected(64 * 8);
    for (int i = 0; i < 64 * 64; ++i) {
        a[i] = half(float((i / 64 * 3 + i % 64) % 7));
    }
    for (int i = 0; i < 8 * 64; ++i) {
        b[i] = half(float((i / 64 + 5 * (i % 64)) % 9));
    }
    for (int row = 0; row < 64; ++row) {
        for (int column = 0; column < 8; ++column) {
            for (int k = 0; k < 64; ++k) {
                expected[row * 8 + column] += float(a[row * 64 + k]) * float(b[column * 64 + k]);
            }
        }
    }
    float* out = device_zeros<float>(64 * 8);
    multiply<<<1, 128>>>(map_of(on_device(a), 64), map_of(on_device(b), 8), out);
    return compare(out, expected);
}
