// SPDX-License-Identifier: BSD-3-Clause
// Block 0 hands a message to block 1 through global memory and a flag. Planted: the flag is
// relaxed, without fences.
#include <cuda/atomic>

#include "fault.h"

__global__ void hand_over(float* message, int* flag, float* out) {
    cuda::atomic_ref<int, cuda::thread_scope_device> ready(*flag);
    const int t = threadIdx.x;
    if (blockIdx.x == 0) {
        message[t] = 3.0f * t;
        __syncthreads();
        if (t == 0) {
            ready.store(1, PLANTED ? cuda::memory_order_relaxed : cuda::memory_order_release);
        }
    } else {
        if (t == 0) {
            while (ready.load(PLANTED ? cuda::memory_order_relaxed : cuda::memory_order_acquire) ==
                   0) {
            }
        }
        __syncthreads();
        out[t] = message[63 - t];
    }
}

int main() {
    std::vector<float> expected(64);
    for (int i = 0; i < 64; ++i) {
        expected[i] = 3.0f * (63 - i);
    }
    float* out = device_zeros<float>(64);
    hand_over<<<2, 64>>>(device_zeros<float>(64), device_zeros<int>(1), out);
    return compare(out, expected);
}
