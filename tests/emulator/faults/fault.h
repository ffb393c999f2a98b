// SPDX-License-Identifier: BSD-3-Clause
// What the planted-fault programs share. Each is compiled twice: -DPLANTED=0 is healthy,
// -DPLANTED=1 has the fault.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#ifndef PLANTED
#define PLANTED 0
#endif

// Ends the program unless the call succeeded: exit status 2, the error's name on stdout.
inline void must(cudaError_t error) {
    if (error != cudaSuccess) {
        std::printf("%s\n", cudaGetErrorName(error));
        std::exit(2);
    }
}

// Waits for the kernel, then compares: exit status 0 and "ok", 1 and "wrong numbers", 2 and the
// error's name.
template <class T>
int compare(const T* device, const std::vector<T>& expected) {
    must(cudaGetLastError());
    must(cudaDeviceSynchronize());
    std::vector<T> seen(expected.size());
    must(cudaMemcpy(seen.data(), device, seen.size() * sizeof(T), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < seen.size(); ++i) {
        if (!(seen[i] == expected[i])) {
            std::printf("wrong numbers: element %zu is %g, not %g\n", i, double(seen[i]),
                        double(expected[i]));
            return 1;
        }
    }
    std::puts("ok");
    return 0;
}

template <class T>
T* on_device(const std::vector<T>& values) {
    T* p = nullptr;
    must(cudaMalloc(&p, values.size() * sizeof(T)));
    must(cudaMemcpy(p, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}

template <class T>
T* device_zeros(size_t count) {
    return on_device(std::vector<T>(count));
}

inline std::vector<float> ramp(size_t count) {
    std::vector<float> v(count);
    for (size_t i = 0; i < count; ++i) {
        v[i] = float(i % 251);
    }
    return v;
}

__device__ inline uint32_t shared_of(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
