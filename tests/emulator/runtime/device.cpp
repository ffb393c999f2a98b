// SPDX-License-Identifier: BSD-3-Clause
// The one emulated device: properties, attributes, limits, versions.
#include <cstdio>
#include <cstring>

#include "runtime/state.h"

namespace emu {
namespace {

constexpr const char* kPciBusId = "0000:01:00.0";

cudaDeviceProp properties() {
    const Arch& arch = *settings().arch;
    cudaDeviceProp p{};
    std::snprintf(p.name, sizeof p.name, "%s", arch.device);
    std::memcpy(p.uuid.bytes, "limelight-emu\0\0", 16);
    p.totalGlobalMem = settings().memory;
    p.sharedMemPerBlock = kSharedPerBlock;
    p.regsPerBlock = kRegistersPerSm;
    p.warpSize = 32;
    p.memPitch = 0x7fffffff;
    p.maxThreadsPerBlock = kThreadsPerBlock;
    p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
    p.maxThreadsDim[2] = 64;
    p.maxGridSize[0] = 0x7fffffff;
    p.maxGridSize[1] = p.maxGridSize[2] = 65535;
    p.totalConstMem = 65536;
    p.major = arch.major;
    p.minor = arch.minor;
    p.textureAlignment = 512;
    p.texturePitchAlignment = 32;
    p.multiProcessorCount = settings().sm_count();
    p.canMapHostMemory = 1;
    p.surfaceAlignment = 512;
    p.concurrentKernels = 1;
    p.pciBusID = 1;
    p.asyncEngineCount = 3;
    p.unifiedAddressing = 1;
    p.memoryBusWidth = arch.bus_bits;
    p.l2CacheSize = arch.l2_mb << 20;
    p.persistingL2CacheMaxSize = p.l2CacheSize / 4 * 3;
    p.maxThreadsPerMultiProcessor = arch.threads_per_sm;
    p.streamPrioritiesSupported = 1;
    p.globalL1CacheSupported = 1;
    p.localL1CacheSupported = 1;
    p.sharedMemPerMultiprocessor = arch.shared_per_sm();
    p.regsPerMultiprocessor = kRegistersPerSm;
    p.managedMemory = 1;
    p.concurrentManagedAccess = 1;
    p.computePreemptionSupported = 1;
    p.canUseHostPointerForRegisteredMem = 1;
    p.cooperativeLaunch = 1;
    p.sharedMemPerBlockOptin = arch.shared_optin();
    p.maxBlocksPerMultiProcessor = arch.blocks_per_sm;
    p.accessPolicyMaxWindowSize = 128 << 20;
    p.reservedSharedMemPerBlock = kSharedReserved;
    p.hostRegisterSupported = 1;
    p.memoryPoolsSupported = 1;
    p.clusterLaunch = arch.clusters;
    p.unifiedFunctionPointers = 1;
    p.hostNumaId = -1;
    return p;
}

// Attributes with a value; everything that is not here does not exist on the emulated device and
// reads as 0.
int attribute_value(int attribute) {
    const cudaDeviceProp p = properties();
    const Arch& arch = *settings().arch;
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock:
            return p.maxThreadsPerBlock;
        case cudaDevAttrMaxBlockDimX:
        case cudaDevAttrMaxBlockDimY:
        case cudaDevAttrMaxBlockDimZ:
            return p.maxThreadsDim[attribute - cudaDevAttrMaxBlockDimX];
        case cudaDevAttrMaxGridDimX:
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ:
            return p.maxGridSize[attribute - cudaDevAttrMaxGridDimX];
        case cudaDevAttrMaxSharedMemoryPerBlock:
            return static_cast<int>(p.sharedMemPerBlock);
        case cudaDevAttrTotalConstantMemory:
            return static_cast<int>(p.totalConstMem);
        case cudaDevAttrWarpSize:
            return p.warpSize;
        case cudaDevAttrMaxPitch:
            return static_cast<int>(p.memPitch);
        case cudaDevAttrMaxRegistersPerBlock:
            return p.regsPerBlock;
        case cudaDevAttrClockRate:
            return arch.clock_khz;
        case cudaDevAttrTextureAlignment:
            return static_cast<int>(p.textureAlignment);
        case cudaDevAttrTexturePitchAlignment:
            return static_cast<int>(p.texturePitchAlignment);
        case cudaDevAttrSurfaceAlignment:
            return static_cast<int>(p.surfaceAlignment);
        case cudaDevAttrMultiProcessorCount:
            return p.multiProcessorCount;
        case cudaDevAttrAsyncEngineCount:
            return p.asyncEngineCount;
        case cudaDevAttrPciBusId:
            return p.pciBusID;
        case cudaDevAttrMemoryClockRate:
            return arch.memory_clock_khz;
        case cudaDevAttrGlobalMemoryBusWidth:
            return p.memoryBusWidth;
        case cudaDevAttrL2CacheSize:
            return p.l2CacheSize;
        case cudaDevAttrMaxThreadsPerMultiProcessor:
            return p.maxThreadsPerMultiProcessor;
        case cudaDevAttrComputeCapabilityMajor:
            return p.major;
        case cudaDevAttrComputeCapabilityMinor:
            return p.minor;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            return static_cast<int>(p.sharedMemPerMultiprocessor);
        case cudaDevAttrMaxRegistersPerMultiprocessor:
            return p.regsPerMultiprocessor;
        case cudaDevAttrSingleToDoublePrecisionPerfRatio:
            return arch.minor == 0 && arch.major < 12 ? 2 : 64;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            return static_cast<int>(p.sharedMemPerBlockOptin);
        case cudaDevAttrMaxBlocksPerMultiprocessor:
            return p.maxBlocksPerMultiProcessor;
        case cudaDevAttrMaxPersistingL2CacheSize:
            return p.persistingL2CacheMaxSize;
        case cudaDevAttrMaxAccessPolicyWindowSize:
            return p.accessPolicyMaxWindowSize;
        case cudaDevAttrReservedSharedMemoryPerBlock:
            return static_cast<int>(p.reservedSharedMemPerBlock);
        case cudaDevAttrClusterLaunch:
            return p.clusterLaunch;
        case cudaDevAttrMemSyncDomainCount:
            return arch.major >= 9 ? 4 : 1;
        case cudaDevAttrHostNumaId:
            return p.hostNumaId;
        case cudaDevAttrCanMapHostMemory:
        case cudaDevAttrConcurrentKernels:
        case cudaDevAttrGpuOverlap:
        case cudaDevAttrUnifiedAddressing:
        case cudaDevAttrStreamPrioritiesSupported:
        case cudaDevAttrGlobalL1CacheSupported:
        case cudaDevAttrLocalL1CacheSupported:
        case cudaDevAttrManagedMemory:
        case cudaDevAttrConcurrentManagedAccess:
        case cudaDevAttrComputePreemptionSupported:
        case cudaDevAttrCanUseHostPointerForRegisteredMem:
        case cudaDevAttrCooperativeLaunch:
        case cudaDevAttrHostRegisterSupported:
        case cudaDevAttrMemoryPoolsSupported:
            return 1;
        default:
            return 0;
    }
}

size_t g_limits[] = {1024, 1 << 20, 8 << 20, 2, 2048, 64, 0};
unsigned g_flags = cudaDeviceScheduleAuto;

cudaError_t need_device(int device) {
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

}  // namespace
}  // namespace emu

using namespace emu;

#pragma GCC visibility push(default)
extern "C" {

// Declared in cuda_profiler_api.h, which the PyPI toolkit lacks.
cudaError_t cudaProfilerStart();
cudaError_t cudaProfilerStop();

cudaError_t cudaGetDeviceCount(int* count) {
    return query([&] {
        *count = 1;
        return cudaSuccess;
    });
}

cudaError_t cudaGetDevice(int* device) {
    return query([&] {
        *device = 0;
        return cudaSuccess;
    });
}

cudaError_t cudaSetDevice(int device) {
    return api([&] { return need_device(device); });
}

cudaError_t cudaInitDevice(int device, unsigned, unsigned) {
    return cudaSetDevice(device);
}

cudaError_t cudaSetValidDevices(int*, int) {
    return api([] { return cudaSuccess; });
}

cudaError_t cudaChooseDevice(int* device, const cudaDeviceProp*) {
    return cudaGetDevice(device);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device) {
    return query([&] {
        if (device != 0) {
            return cudaErrorInvalidDevice;
        }
        *out = properties();
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    return query([&] {
        if (device != 0) {
            return cudaErrorInvalidDevice;
        }
        if (attribute < 1 || attribute >= cudaDevAttrMax) {
            return cudaErrorInvalidValue;
        }
        *value = attribute_value(attribute);
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetP2PAttribute(int* value, cudaDeviceP2PAttr, int, int) {
    return api([&] {
        *value = 0;
        return cudaErrorInvalidDevice;  // there is one device only
    });
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
    return api([&] {
        *can = 0;
        return device == 0 && peer == 0 ? cudaSuccess : cudaErrorInvalidDevice;
    });
}

cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) {
    return api([] { return cudaErrorInvalidDevice; });
}

cudaError_t cudaDeviceDisablePeerAccess(int) {
    return api([] { return cudaErrorPeerAccessNotEnabled; });
}

cudaError_t cudaDeviceSynchronize() {
    return api([] {
        forbid_during_capture("cudaDeviceSynchronize");
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceReset() {
    const std::lock_guard lock(runtime_mutex());
    clear_errors();
    return api([] {
        release_all_memory();
        forget_images();
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceSetLimit(cudaLimit limit, size_t value) {
    return api([&] {
        if (limit < 0 || limit > cudaLimitPersistingL2CacheSize) {
            return cudaErrorUnsupportedLimit;
        }
        g_limits[limit] = value;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetLimit(size_t* value, cudaLimit limit) {
    return api([&] {
        if (limit < 0 || limit > cudaLimitPersistingL2CacheSize) {
            return cudaErrorUnsupportedLimit;
        }
        *value = g_limits[limit];
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetCacheConfig(cudaFuncCache* config) {
    return api([&] {
        *config = cudaFuncCachePreferNone;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceSetCacheConfig(cudaFuncCache) {
    return api([] { return cudaSuccess; });
}

cudaError_t cudaDeviceGetSharedMemConfig(cudaSharedMemConfig* config) {
    return api([&] {
        *config = cudaSharedMemBankSizeFourByte;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceSetSharedMemConfig(cudaSharedMemConfig) {
    return api([] { return cudaSuccess; });
}

cudaError_t cudaCtxResetPersistingL2Cache() {
    return api([] { return cudaSuccess; });
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
    return api([&] {
        if (device != 0) {
            return cudaErrorInvalidDevice;
        }
        std::snprintf(text, static_cast<size_t>(length), "%s", kPciBusId);
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetByPCIBusId(int* device, const char* text) {
    return api([&] {
        *device = 0;
        return std::strcmp(text, kPciBusId) == 0 ? cudaSuccess : cudaErrorInvalidDevice;
    });
}

cudaError_t cudaSetDeviceFlags(unsigned flags) {
    return api([&] {
        g_flags = flags;
        return cudaSuccess;
    });
}

cudaError_t cudaGetDeviceFlags(unsigned* flags) {
    return api([&] {
        *flags = g_flags;
        return cudaSuccess;
    });
}

cudaError_t cudaDriverGetVersion(int* version) {
    return query([&] {
        *version = settings().driver;
        return cudaSuccess;
    });
}

cudaError_t cudaRuntimeGetVersion(int* version) {
    return query([&] {
        *version = CUDART_VERSION;
        return cudaSuccess;
    });
}

cudaError_t cudaProfilerStart() {
    return api([] { return cudaSuccess; });
}

cudaError_t cudaProfilerStop() {
    return api([] { return cudaSuccess; });
}

}  // extern "C"
#pragma GCC visibility pop
