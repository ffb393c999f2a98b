// SPDX-License-Identifier: BSD-3-Clause
// Sums neighbours. Planted: the last thread reads one element past the tensor. With an argument,
// the tensor is host memory that was registered with the emulator, else cudaMalloc's.
#include <dlfcn.h>

#include "fault.h"

__global__ void neighbours(const float* in, float* out, int n) {
    const int t = threadIdx.x;
    if (t < n) {
        out[t] = in[t] + ((PLANTED || t + 1 < n) ? in[t + 1] : 0.0f);
    }
}

int main(int argc, char**) {
    const int n = 100;
    const std::vector<float> in = ramp(n);
    std::vector<float> expected(n);
    for (int i = 0; i < n; ++i) {
        expected[i] = in[i] + (i + 1 < n ? in[i + 1] : 0.0f);
    }
    const float* tensor = nullptr;
    if (argc > 1) {
        using Register = void (*)(const void*, size_t, const char*);
        const auto add =
            reinterpret_cast<Register>(dlsym(RTLD_DEFAULT, "limelight_emulator_register_host"));
        if (add == nullptr) {
            return 3;
        }
        add(in.data(), n * sizeof(float), "query");
        tensor = in.data();
    } else {
        tensor = on_device(in);
    }
    float* out = device_zeros<float>(n);
    neighbours<<<1, 128>>>(tensor, out, n);
    return compare(out, expected);
}
