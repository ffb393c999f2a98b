// SPDX-License-Identifier: BSD-3-Clause
// Control flow: lanes of a warp with ways, loops and calls of their own, locks, waits between
// blocks.
#include <algorithm>
#include <vector>

#include "expect.h"

__host__ __device__ int collatz(int n) {
    int steps = 0;
    while (n > 1) {
        if (n % 2) {
            n = 3 * n + 1;
        } else {
            n /= 2;
        }
        if (++steps > 200) {
            break;
        }
    }
    return steps;
}

__host__ __device__ int choose(int t) {
    switch (t % 9) {
        case 0:
            return 11;
        case 1:
            return 3 * t;
        case 2:
            return t - 9;
        case 3:
            return t << 2;
        case 4:
            return -t;
        case 5:
            return t * t;
        case 6:
            return 77;
        default:
            return t ^ 0x55;
    }
}

__global__ void ways(int* out) {
    const int t = blockIdx.x * blockDim.x + threadIdx.x;
    out[2 * t] = collatz(t);
    out[2 * t + 1] = choose(t);
}

__device__ __noinline__ int twice(int a, int b) {
    return 2 * a + b;
}
__device__ __noinline__ int less(int a, int b) {
    return a - twice(b, 1);
}
using Function = int (*)(int, int);
__device__ Function table[2] = {twice, less};

struct Shape {
    __device__ virtual int area(int x) { return x; }
};
struct Square : Shape {
    int side = 0;
    __device__ int area(int x) override { return x * side; }
};

__global__ void calls(int* out) {
    const int t = threadIdx.x;
    Shape plain;
    Square square;
    square.side = 5;
    Shape* shape = t & 1 ? &square : &plain;
    out[t] = table[t >> 1 & 1](t, 3) + 1000 * shape->area(t);
}

// Each activation keeps its own array, which the next one reads through a pointer.
__host__ __device__ __noinline__ int descend(const int* above, int n, int depth) {
    int values[4];
    for (int i = 0; i < 4; ++i) {
        values[i] = n + i * depth;
    }
    if (depth == 0) {
        return above ? above[n & 3] : 1;
    }
    const int both = descend(values, n * 3 % 7, depth - 1) + descend(values, n + 1, depth - 1);
    return both + values[(n + depth) & 3] + (above ? above[1] : 0);
}

__global__ void recursion(int* out) {
    out[threadIdx.x] = descend(nullptr, threadIdx.x, threadIdx.x % 6);
}

__global__ void local_array(int* out, int stride) {
    int values[32];
    for (int i = 0; i < 32; ++i) {
        values[i] = i * threadIdx.x;
    }
    int sum = 0;
    for (int i = 0; i < 32; ++i) {
        sum += values[(i * stride + threadIdx.x) % 32] * i;
    }
    out[threadIdx.x] = sum;
}

// The holder of the lock may be another lane of the spinning warp.
__global__ void locked(int* lock, int* count) {
    while (atomicCAS(lock, 0, 1) != 0) {
    }
    volatile int* const shared = count;
    *shared = *shared + 1;
    __threadfence();
    atomicExch(lock, 0);
}

// Each block waits until all have come, so all must be resident.
__global__ void meeting(int* arrived, int* out) {
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(arrived, 1);
        while (*static_cast<volatile int*>(arrived) < static_cast<int>(gridDim.x)) {
        }
    }
    __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = *static_cast<volatile int*>(arrived);
}

__global__ void leave_early(int* out, int n) {
    const int t = threadIdx.x;
    if (t >= n) {
        return;
    }
    __syncthreads();
    out[t] = __shfl_xor_sync(0xffffffffu, t, 1);
}

int main() {
    constexpr int kThreads = 1024;
    std::vector<int> host(2 * kThreads);
    int* device;
    OK(cudaMalloc(&device, host.size() * 4));
    const auto fetch = [&] {
        OK(cudaMemcpy(host.data(), device, host.size() * 4, cudaMemcpyDeviceToHost));
    };

    ways<<<8, kThreads / 8>>>(device);
    fetch();
    for (int t = 0; t < kThreads; ++t) {
        EXPECT(host[2 * t] == collatz(t) && host[2 * t + 1] == choose(t));
    }
    calls<<<1, 64>>>(device);
    fetch();
    for (int t = 0; t < 64; ++t) {
        EXPECT(host[t] == (t >> 1 & 1 ? t - 7 : 2 * t + 3) + 1000 * (t & 1 ? 5 * t : t));
    }
    recursion<<<1, 64>>>(device);
    fetch();
    for (int t = 0; t < 64; ++t) {
        EXPECT(host[t] == descend(nullptr, t, t % 6));
    }
    local_array<<<1, 64>>>(device, 7);
    fetch();
    for (int t = 0; t < 64; ++t) {
        int sum = 0;
        for (int i = 0; i < 32; ++i) {
            sum += (i * 7 + t) % 32 * t * i;
        }
        EXPECT(host[t] == sum);
    }
    OK(cudaMemset(device, 0, 8));
    locked<<<3, 64>>>(device, device + 1);
    fetch();
    EXPECT(host[1] == 192);
    OK(cudaMemset(device, 0, 4));
    meeting<<<6, 64>>>(device, device + 1);
    fetch();
    EXPECT(std::all_of(host.begin() + 1, host.begin() + 1 + 6 * 64, [](int v) { return v == 6; }));
    leave_early<<<1, 96>>>(device, 40);
    fetch();
    for (int t = 0; t < 40; ++t) {
        EXPECT(host[t] == (t ^ 1));
    }
    std::puts("ok");
    return 0;
}
