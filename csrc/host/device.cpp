// SPDX-License-Identifier: BSD-3-Clause
#include "host/device.h"

#include <cuda_runtime_api.h>

#include <array>
#include <mutex>

#include "host/launch.h"

namespace limelight {

namespace {

constexpr int kMaxDevices = 64;

Status query(int index, Device* device) {
    int major = 0;
    int minor = 0;
    const struct {
        cudaDeviceAttr attribute;
        int* value;
    } wanted[] = {
        {cudaDevAttrComputeCapabilityMajor, &major},
        {cudaDevAttrComputeCapabilityMinor, &minor},
        {cudaDevAttrMultiProcessorCount, &device->sm_count},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, &device->smem_per_block},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, &device->smem_per_multiprocessor},
    };
    for (const auto& [attribute, value] : wanted) {
        const cudaError_t error = cudaDeviceGetAttribute(value, attribute, index);
        if (error != cudaSuccess) {
            return cuda_status(error, "cudaDeviceGetAttribute");
        }
    }
    device->index = index;
    device->capability = 10 * major + minor;
    return {};
}

}  // namespace

Status current_device(Device* device) {
    static std::array<Device, kMaxDevices> known{};
    static std::array<std::once_flag, kMaxDevices> asked;
    static std::array<Status, kMaxDevices> outcome;
    int index = 0;
    const cudaError_t error = cudaGetDevice(&index);
    if (error != cudaSuccess) {
        return cuda_status(error, "cudaGetDevice");
    }
    if (index >= kMaxDevices) {
        return query(index, device);
    }
    std::call_once(asked[index], [&] { outcome[index] = query(index, &known[index]); });
    *device = known[index];
    return outcome[index];
}

}  // namespace limelight
