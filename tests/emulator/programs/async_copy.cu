// SPDX-License-Identifier: BSD-3-Clause
// A producer warp hands its copies to an mbarrier and exits; the other warp waits there.
#include "expect.h"

__global__ void hand_over(const int* in, int* out) {
    __shared__ alignas(16) int buffer[32];
    __shared__ alignas(8) unsigned long long barrier;
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(&barrier));
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared.b64 [%0], 32;" ::"r"(at) : "memory");
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(&buffer[threadIdx.x]));
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(in + threadIdx.x)
                     : "memory");
        asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(at) : "memory");
        return;
    }
    int done = 0;
    while (!done) {
        asm volatile(
            "{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], 0; selp.b32 %0, 1, 0, "
            "p; }"
            : "=r"(done)
            : "r"(at)
            : "memory");
    }
    out[threadIdx.x - 32] = buffer[63 - threadIdx.x];
}

int main() {
    int *in, *out;
    OK(cudaMallocManaged(&in, 128));
    OK(cudaMallocManaged(&out, 128));
    for (int i = 0; i < 32; ++i) {
        in[i] = 10 * i;
    }
    hand_over<<<1, 64>>>(in, out);
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < 32; ++i) {
        EXPECT(out[i] == 10 * (31 - i));
    }
    std::puts("ok");
}
