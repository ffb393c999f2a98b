// SPDX-License-Identifier: BSD-3-Clause
// Ordinary kernels: vector add, reductions, tiled GEMM, grid-wide barrier, divergence, printf,
// atomics.
#include <cooperative_groups.h>

#include <cmath>
#include <vector>

#include "expect.h"

namespace cg = cooperative_groups;

__global__ void vector_add(const float* a, const float* b, float* c, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        c[i] = a[i] + b[i];
    }
}

__global__ void reduce(const float* x, float* out, int n) {
    __shared__ float partial[32];
    float sum = 0.f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        sum += x[i];
    }
    for (int offset = 16; offset > 0; offset /= 2) {
        sum += __shfl_down_sync(0xffffffffu, sum, offset);
    }
    if (threadIdx.x % 32 == 0) {
        partial[threadIdx.x / 32] = sum;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0.f;
        for (int offset = 16; offset > 0; offset /= 2) {
            sum += __shfl_down_sync(0xffffffffu, sum, offset);
        }
        if (threadIdx.x == 0) {
            atomicAdd(out, sum);
        }
    }
}

constexpr int kTile = 16;
__global__ void gemm(const float* a, const float* b, float* c, int m, int n, int k) {
    __shared__ float tile_a[kTile][kTile], tile_b[kTile][kTile + 1];
    const int row = blockIdx.y * kTile + threadIdx.y, col = blockIdx.x * kTile + threadIdx.x;
    float sum = 0.f;
    for (int k0 = 0; k0 < k; k0 += kTile) {
        tile_a[threadIdx.y][threadIdx.x] =
            row < m && k0 + threadIdx.x < k ? a[row * k + k0 + threadIdx.x] : 0.f;
        tile_b[threadIdx.y][threadIdx.x] =
            col < n && k0 + threadIdx.y < k ? b[(k0 + threadIdx.y) * n + col] : 0.f;
        __syncthreads();
        for (int i = 0; i < kTile; ++i) {
            sum += tile_a[threadIdx.y][i] * tile_b[i][threadIdx.x];
        }
        __syncthreads();
    }
    if (row < m && col < n) {
        c[row * n + col] = sum;
    }
}

// Each round every block reads what all the others wrote in the round before.
__global__ void rounds(int* values, int* next, int count) {
    cg::grid_group grid = cg::this_grid();
    for (int r = 0; r < count; ++r) {
        int sum = 0;
        for (unsigned i = 0; i < gridDim.x; ++i) {
            sum += values[i];
        }
        if (threadIdx.x == 0) {
            next[blockIdx.x] = sum;
        }
        grid.sync();
        int* t = values;
        values = next;
        next = t;
    }
}

__global__ void collatz(int* steps) {
    unsigned long long n = blockIdx.x * blockDim.x + threadIdx.x + 1;
    int count = 0;
    while (n != 1) {
        n = n % 2 ? 3 * n + 1 : n / 2;
        ++count;
    }
    steps[blockIdx.x * blockDim.x + threadIdx.x] = count;
}

__global__ void histogram(const unsigned char* data, int n, unsigned* bins) {
    extern __shared__ unsigned local[];
    for (int i = threadIdx.x; i < 64; i += blockDim.x) {
        local[i] = 0;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        atomicAdd(&local[data[i] & 63], 1u);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 64; i += blockDim.x) {
        atomicAdd(&bins[i], local[i]);
    }
}

__global__ void greet() {
    if (threadIdx.x == 1) {
        printf("block %u says %s %.2f %llx\n", blockIdx.x, "hello", 1.5, 0x123456789abcull);
    }
}

template <class T>
T* managed(size_t count) {
    T* p;
    OK(cudaMallocManaged(&p, count * sizeof(T)));
    for (size_t i = 0; i < count; ++i) {
        p[i] = T{};
    }
    return p;
}

int main() {
    constexpr int kCount = 10007;
    float *a = managed<float>(kCount), *b = managed<float>(kCount), *c = managed<float>(kCount);
    double expected = 0;
    for (int i = 0; i < kCount; ++i) {
        a[i] = static_cast<float>(i % 17);
        b[i] = static_cast<float>(i % 5) * 0.5f;
        expected += a[i];
    }
    vector_add<<<(kCount + 255) / 256, 256>>>(a, b, c, kCount);
    float* total = managed<float>(1);
    reduce<<<7, 256>>>(a, total, kCount);
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < kCount; ++i) {
        EXPECT(c[i] == a[i] + b[i]);
    }
    EXPECT(*total == static_cast<float>(expected));

    constexpr int kM = 33, kN = 47, kK = 29;
    gemm<<<dim3((kN + kTile - 1) / kTile, (kM + kTile - 1) / kTile), dim3(kTile, kTile)>>>(
        a, b, c, kM, kN, kK);
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < kM; ++i) {
        for (int j = 0; j < kN; ++j) {
            float sum = 0;  // small integers and halves: exact in any order
            for (int l = 0; l < kK; ++l) {
                sum += a[i * kK + l] * b[l * kN + j];
            }
            EXPECT(c[i * kN + j] == sum);
        }
    }

    constexpr int kBlocks = 5;
    int *values = managed<int>(kBlocks), *next = managed<int>(kBlocks), count = 3;
    for (int i = 0; i < kBlocks; ++i) {
        values[i] = i;
    }
    void* arguments[] = {&values, &next, &count};
    OK(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(rounds), dim3(kBlocks), dim3(64),
                                   arguments, 0, nullptr));
    OK(cudaDeviceSynchronize());
    EXPECT(next[0] == 250 && next[4] == 250);  // 10, then 5 * 10, then 5 * 50

    int* steps = managed<int>(512);
    collatz<<<4, 128>>>(steps);
    OK(cudaDeviceSynchronize());
    EXPECT(steps[0] == 0 && steps[26] == 111 && steps[96] == 118);

    unsigned char* bytes = managed<unsigned char>(5000);
    for (int i = 0; i < 5000; ++i) {
        bytes[i] = static_cast<unsigned char>(i * i);
    }
    unsigned* bins = managed<unsigned>(64);
    histogram<<<1, 96, 64 * sizeof(unsigned)>>>(bytes, 5000, bins);
    OK(cudaDeviceSynchronize());
    std::vector<unsigned> reference(64);
    for (int i = 0; i < 5000; ++i) {
        reference[bytes[i] & 63] += 1;
    }
    for (int i = 0; i < 64; ++i) {
        EXPECT(bins[i] == reference[i]);
    }
    greet<<<2, 32>>>();
    OK(cudaDeviceSynchronize());
    std::puts("ok");
}
