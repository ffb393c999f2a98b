// SPDX-License-Identifier: BSD-3-Clause
// Distributed shared memory: every block of a cluster writes into its neighbour's.
#include <cooperative_groups.h>

#include "expect.h"

namespace cg = cooperative_groups;

__global__ void __cluster_dims__(4, 1, 1) ring(int* out) {
    __shared__ int inbox[32];
    cg::cluster_group cluster = cg::this_cluster();
    const unsigned rank = cluster.block_rank();
    inbox[threadIdx.x] = -1;
    cluster.sync();
    int* neighbour = cluster.map_shared_rank(inbox, (rank + 1) % cluster.num_blocks());
    neighbour[threadIdx.x] = static_cast<int>(100 * rank + threadIdx.x);
    cluster.sync();
    out[blockIdx.x * 32 + threadIdx.x] = inbox[threadIdx.x];
}

int main() {
    int* out;
    OK(cudaMallocManaged(&out, 8 * 32 * sizeof(int)));
    ring<<<8, 32>>>(out);
    OK(cudaGetLastError());
    OK(cudaDeviceSynchronize());
    for (int block = 0; block < 8; ++block) {
        for (int i = 0; i < 32; ++i) {
            EXPECT(out[block * 32 + i] == 100 * ((block + 3) % 4) + i);
        }
    }
    ring<<<6, 32>>>(out);
    EXPECT(cudaGetLastError() == cudaErrorInvalidClusterSize);
    std::puts("ok");
}
