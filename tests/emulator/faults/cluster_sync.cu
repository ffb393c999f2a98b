// SPDX-License-Identifier: BSD-3-Clause
// Each block of a cluster reads its neighbour's shared memory. Planted: no cluster barrier between
// write and read.
#include "hopper.h"

__global__ void __cluster_dims__(2, 1, 1) exchange(int* out) {
    __shared__ int tile[32];
    const int t = threadIdx.x;
    uint32_t rank, remote;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    tile[t] = 100 * rank + t;
    if (PLANTED) {
        __syncthreads();
    } else {
        asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    }
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(remote)
        : "r"(shared_of(&tile[31 - t])), "r"(rank ^ 1));
    int value;
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(remote) : "memory");
    out[32 * rank + t] = value;
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

int main() {
    std::vector<int> expected(64);
    for (int i = 0; i < 64; ++i) {
        expected[i] = 100 * (1 - i / 32) + 31 - i % 32;
    }
    int* out = device_zeros<int>(64);
    exchange<<<2, 32>>>(out);
    return compare(out, expected);
}
