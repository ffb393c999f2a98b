// SPDX-License-Identifier: BSD-3-Clause
// Prints what the device says about itself, once from the properties and once from the attributes.
#include "expect.h"

int main() {
    cudaDeviceProp p;
    OK(cudaGetDeviceProperties(&p, 0));
    int count, runtime, driver;
    OK(cudaGetDeviceCount(&count));
    OK(cudaRuntimeGetVersion(&runtime));
    OK(cudaDriverGetVersion(&driver));
    EXPECT(count == 1 && runtime == 13000 && driver >= runtime);
    auto attribute = [](cudaDeviceAttr a) {
        int value;
        OK(cudaDeviceGetAttribute(&value, a, 0));
        return value;
    };
    EXPECT(attribute(cudaDevAttrMultiProcessorCount) == p.multiProcessorCount);
    EXPECT(attribute(cudaDevAttrComputeCapabilityMajor) == p.major);
    EXPECT(attribute(cudaDevAttrComputeCapabilityMinor) == p.minor);
    EXPECT(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) ==
           static_cast<int>(p.sharedMemPerBlockOptin));
    EXPECT(attribute(cudaDevAttrClusterLaunch) == p.clusterLaunch);
    EXPECT(attribute(cudaDevAttrL2CacheSize) == p.l2CacheSize);
    EXPECT(attribute(cudaDevAttrClockRate) > 0 && p.warpSize == 32 && p.sharedMemPerBlock == 49152);
    GIVES(cudaErrorInvalidDevice, cudaGetDeviceProperties(&p, 1));
    std::printf("%d.%d sms %d shared %zu of %zu threads %d blocks %d clusters %d\n", p.major,
                p.minor, p.multiProcessorCount, p.sharedMemPerBlockOptin,
                p.sharedMemPerMultiprocessor, p.maxThreadsPerMultiProcessor,
                p.maxBlocksPerMultiProcessor, p.clusterLaunch);
}
