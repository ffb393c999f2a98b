// SPDX-License-Identifier: BSD-3-Clause
// Function attributes, launch limits and occupancy; the device's numbers come as arguments.
#include <cstring>

#include "expect.h"

__global__ void plain(int* x) {
    x[blockIdx.x * blockDim.x + threadIdx.x] = 1;
}

__global__ void __launch_bounds__(128) with_static(int* x) {
    __shared__ int buffer[1024];
    buffer[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = buffer[threadIdx.x ^ 1];
}

extern __shared__ int dynamic[];
__global__ void with_dynamic(int* x, int words) {
    for (int i = threadIdx.x; i < words; i += blockDim.x) {
        dynamic[i] = i;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        x[0] = dynamic[words - 1];
    }
}

int main(int, char** argv) {
    const int optin = std::atoi(argv[1]) << 10;
    const bool clusters = std::atoi(argv[2]);
    int* x;
    OK(cudaMallocManaged(&x, 4096));

    cudaFuncAttributes a;
    OK(cudaFuncGetAttributes(&a, with_static));
    EXPECT(a.sharedSizeBytes == 4096 && a.maxThreadsPerBlock == 128 &&
           a.maxDynamicSharedSizeBytes == 49152 - 4096);
    EXPECT(a.numRegs > 0 && a.numRegs <= 255 && a.localSizeBytes == 0);
    OK(cudaFuncGetAttributes(&a, plain));
    EXPECT(a.sharedSizeBytes == 0 && a.maxThreadsPerBlock == 1024);
    int static_arguments;
    GIVES(cudaErrorInvalidDeviceFunction, cudaFuncGetAttributes(&a, &static_arguments));

    with_static<<<1, 129>>>(x);
    EXPECT(cudaGetLastError() != cudaSuccess);
    plain<<<0, 1>>>(x);
    EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
    plain<<<1, 1025>>>(x);
    EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
    plain<<<1, dim3(1, 1, 65)>>>(x);
    EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
    plain<<<dim3(1, 65536), 1>>>(x);
    EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);

    with_dynamic<<<1, 64, 49152>>>(x, 12288);
    OK(cudaDeviceSynchronize());
    EXPECT(x[0] == 12287);
    with_dynamic<<<1, 64, 49156>>>(x, 12289);
    EXPECT(cudaGetLastError() == cudaErrorInvalidValue);
    GIVES(
        cudaErrorInvalidValue,
        cudaFuncSetAttribute(with_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, optin + 1));
    OK(cudaFuncSetAttribute(with_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, optin));
    with_dynamic<<<1, 64, optin>>>(x, optin / 4);
    OK(cudaDeviceSynchronize());
    EXPECT(x[0] == optin / 4 - 1);
    GIVES(cudaErrorInvalidValue,
          cudaFuncSetAttribute(with_static, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               optin - 4095));

    cudaDeviceProp p;
    OK(cudaGetDeviceProperties(&p, 0));
    int blocks;
    OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, plain, 1024, 0));
    EXPECT(blocks == p.maxThreadsPerMultiProcessor / 1024);
    OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, with_dynamic, 32, optin));
    EXPECT(blocks == static_cast<int>(p.sharedMemPerMultiprocessor / (optin + 1024)));
    size_t available;
    OK(cudaOccupancyAvailableDynamicSMemPerBlock(&available, with_dynamic, 1, 32));
    EXPECT(available == static_cast<size_t>(optin));

    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {2, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(3);
    config.blockDim = dim3(32);
    config.attrs = &attribute;
    config.numAttrs = 1;
    GIVES(cudaErrorInvalidClusterSize, cudaLaunchKernelEx(&config, plain, x));
    config.gridDim = dim3(4);
    int active = 0;
    if (clusters) {
        OK(cudaLaunchKernelEx(&config, plain, x));
        OK(cudaOccupancyMaxActiveClusters(&active, plain, &config));
        EXPECT(active > 0);
        attribute.val.clusterDim = {16, 1, 1};
        config.gridDim = dim3(32);
        GIVES(cudaErrorInvalidClusterSize, cudaLaunchKernelEx(&config, plain, x));
        OK(cudaFuncSetAttribute(plain, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
        OK(cudaLaunchKernelEx(&config, plain, x));
    } else {
        GIVES(cudaErrorInvalidClusterSize, cudaLaunchKernelEx(&config, plain, x));
    }
    const char* name;
    OK(cudaFuncGetName(&name, reinterpret_cast<const void*>(plain)));
    EXPECT(std::strcmp(name, "_Z5plainPi") == 0);
    std::puts("ok");
}
