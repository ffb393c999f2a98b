// SPDX-License-Identifier: BSD-3-Clause
// Shared loads of 4, 8 and 16 bytes at a stride given in elements: their bank conflicts are counted
// by hand in the test.
#include "fault.h"

template <class T>
__global__ void read(float* out, int stride) {
    extern __shared__ float4 bytes[];
    T* tile = reinterpret_cast<T*>(bytes);
    for (int i = threadIdx.x; i < 32 * stride; i += 32) {
        tile[i] = T{};
    }
    __syncthreads();
    const T v = tile[threadIdx.x * stride];
    float sum = 0.0f;
    for (unsigned i = 0; i < sizeof(T) / 4; ++i) {
        sum += reinterpret_cast<const float*>(&v)[i];
    }
    out[threadIdx.x] = sum;
}

int main(int argc, char** argv) {
    const int bytes = argc > 1 ? std::atoi(argv[1]) : 4, stride = argc > 2 ? std::atoi(argv[2]) : 1;
    float* out = device_zeros<float>(32);
    if (bytes == 4) {
        read<float><<<1, 32, 32 * stride * 4>>>(out, stride);
    } else if (bytes == 8) {
        read<float2><<<1, 32, 32 * stride * 8>>>(out, stride);
    } else {
        read<float4><<<1, 32, 32 * stride * 16>>>(out, stride);
    }
    return compare(out, std::vector<float>(32));
}
