// SPDX-License-Identifier: BSD-3-Clause
// Lane 0 speaks for its warp, after __syncwarp. Planted, without it: 1 it frees a tile that the
// others read, 2 it announces what they wrote, 3 it copies out what they wrote, 4 it lets a copy
// overwrite what they read, 5 it raises a flag for what they wrote to global memory.
#include "hopper.h"

__global__ void speak(const float* in, float* out, float* passed, unsigned* flag) {
    __shared__ alignas(128) float tile[32], twice[32], copied[32], loaded[32];
    __shared__ alignas(8) uint64_t free_bar, full, landed;
    __shared__ float note;
    const int t = threadIdx.x % 32;
    if (threadIdx.x < 32) {
        tile[t] = in[t];
        loaded[t] = in[t];
    }
    if (threadIdx.x == 0) {
        mbarrier_init(&free_bar, 1);
        mbarrier_init(&full, 1);
        mbarrier_init(&landed, 1);
        fence_init();
    }
    __syncthreads();
    const auto sync = [](int planted) {
        if (PLANTED != planted) {
            __syncwarp();
        }
    };
    if (threadIdx.x < 32) {
        float sum = tile[t ^ 1];
        sync(1);
        if (t == 0) {
            note = 7.0f;  // its own, which needs no __syncwarp
            arrive(&free_bar);
        }
        twice[t] = 2.0f * sum;
        sync(2);
        if (t == 0) {
            arrive(&full);
        }
        copied[t] = 3.0f * sum;
        fence_proxy_async();
        sync(3);
        if (t == 0) {
            bulk_store(out + 96, copied, sizeof copied);
            bulk_wait();
        }
        sum += loaded[t ^ 1];
        fence_proxy_async();
        sync(4);
        if (t == 0) {
            arrive_expect_tx(&landed, sizeof loaded);
            bulk_load(loaded, in + 32, sizeof loaded, &landed);
        }
        wait_parity(&landed, 0);
        sum += loaded[t];
        passed[t] = sum;
        sync(5);
        if (t == 0) {
            asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(flag), "r"(1u) : "memory");
        }
        out[t] = sum;
    } else {
        wait_parity(&free_bar, 0);
        tile[t] = note;
        wait_parity(&full, 0);
        out[32 + t] = tile[t] + twice[t];
        unsigned raised = 0;
        while (raised == 0) {
            asm volatile("ld.acquire.gpu.global.b32 %0, [%1];"
                         : "=r"(raised)
                         : "l"(flag)
                         : "memory");
        }
        out[64 + t] = passed[t];
    }
}

int main() {
    const std::vector<float> in = ramp(64);
    std::vector<float> expected(128);
    for (int i = 0; i < 32; ++i) {
        expected[i] = expected[64 + i] = 2.0f * in[i ^ 1] + in[32 + i];
        expected[32 + i] = 7.0f + 2.0f * in[i ^ 1];
        expected[96 + i] = 3.0f * in[i ^ 1];
    }
    float* out = device_zeros<float>(128);
    speak<<<1, 64>>>(on_device(in), out, device_zeros<float>(32), device_zeros<unsigned>(1));
    return compare(out, expected);
}
