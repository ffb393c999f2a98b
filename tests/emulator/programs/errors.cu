// SPDX-License-Identifier: BSD-3-Clause
// Names, last error, errors that stay until cudaDeviceReset, calls that the emulator does not have.
#include <cstring>

#include "expect.h"

__global__ void store(int* x, int index) {
    x[index] = 1;
}

int main(int count, char** argv) {
    EXPECT(std::strcmp(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress") == 0);
    EXPECT(std::strcmp(cudaGetErrorString(cudaErrorInvalidValue), "invalid argument") == 0);
    EXPECT(std::strcmp(cudaGetErrorName(static_cast<cudaError_t>(12345)),
                       "unrecognized error code") == 0);
    if (count > 1) {
        cudaArray_t array;
        const cudaChannelFormatDesc format = {32, 0, 0, 0, cudaChannelFormatKindFloat};
        const cudaError_t error = cudaMallocArray(&array, &format, 4, 4, 0);
        std::printf("%s\n", cudaGetErrorName(error));
        return 3;
    }
    int* x;
    OK(cudaMalloc(&x, 16));
    EXPECT(cudaSetDevice(1) == cudaErrorInvalidDevice);
    EXPECT(cudaPeekAtLastError() == cudaErrorInvalidDevice);
    EXPECT(cudaGetLastError() == cudaErrorInvalidDevice);
    EXPECT(cudaGetLastError() == cudaSuccess);
    store<<<1, 1>>>(x, 4);
    EXPECT(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
    EXPECT(cudaGetLastError() == cudaErrorIllegalAddress);
    int* y;
    EXPECT(cudaMalloc(&y, 16) == cudaErrorIllegalAddress);
    OK(cudaDeviceReset());
    OK(cudaMalloc(&y, 16));
    store<<<1, 1>>>(y, 3);
    OK(cudaDeviceSynchronize());
    std::puts("ok");
}
