// SPDX-License-Identifier: BSD-3-Clause
// Driver functions that cudaGetDriverEntryPoint hands out, and the device code libraries API.
#include <cuda.h>

#include <cstring>

#include "runtime/state.h"
#include "units/tensor_map.h"

namespace emu {
namespace {

// cudaError_t and CUresult agree on the values that occur here.
CUresult result(cudaError_t error) {
    return static_cast<CUresult>(error);
}

CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                      const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box,
                      const cuuint32_t* steps, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                      CUtensorMapFloatOOBfill fill) {
    const std::lock_guard lock(runtime_mutex());
    if (!context_is_bound()) {
        explain("cuTensorMapEncodeTiled: this host thread has no current context");
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    std::string error;
    const int code = tensor_map_encode_tiled(map, type, rank, address, dims, strides, box, steps,
                                             interleave, swizzle, promotion, fill, error);
    if (code != 0) {
        explain(error);
    }
    return static_cast<CUresult>(code);
}

CUresult replace_address(CUtensorMap* map, void* address) {
    const std::lock_guard lock(runtime_mutex());
    std::string error;
    const int code = tensor_map_replace_address(map, address, error);
    if (code != 0) {
        explain(error);
    }
    return static_cast<CUresult>(code);
}

CUresult error_string(CUresult error, const char** text) {
    *text = cudaGetErrorString(static_cast<cudaError_t>(error));
    return CUDA_SUCCESS;
}

CUresult error_name(CUresult error, const char** text) {
    *text = cudaGetErrorName(static_cast<cudaError_t>(error));
    return CUDA_SUCCESS;
}

CUresult init(unsigned) {
    return CUDA_SUCCESS;
}
CUresult driver_version(int* version) {
    return result(cudaDriverGetVersion(version));
}
CUresult device_count(int* count) {
    return result(cudaGetDeviceCount(count));
}
CUresult device_get(CUdevice* device, int ordinal) {
    *device = 0;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult device_attribute(int* value, CUdevice_attribute attribute, CUdevice device) {
    return result(cudaDeviceGetAttribute(value, static_cast<cudaDeviceAttr>(attribute), device));
}
CUresult device_name(char* name, int length, CUdevice device) {
    std::snprintf(name, static_cast<size_t>(length), "%s", settings().arch->device);
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult device_memory(size_t* bytes, CUdevice) {
    *bytes = settings().memory;
    return CUDA_SUCCESS;
}
char g_context;
CUresult context_get(CUcontext* context) {
    *context = reinterpret_cast<CUcontext>(&g_context);
    return CUDA_SUCCESS;
}
CUresult context_set(CUcontext) {
    return CUDA_SUCCESS;
}
CUresult context_device(CUdevice* device) {
    *device = 0;
    return CUDA_SUCCESS;
}
CUresult primary_retain(CUcontext* context, CUdevice) {
    return context_get(context);
}
CUresult primary_release(CUdevice) {
    return CUDA_SUCCESS;
}
CUresult synchronize() {
    return result(cudaDeviceSynchronize());
}
CUresult memory_allocate(CUdeviceptr* pointer, size_t bytes) {
    return result(cudaMalloc(reinterpret_cast<void**>(pointer), bytes));
}
CUresult memory_free(CUdeviceptr pointer) {
    return result(cudaFree(reinterpret_cast<void*>(pointer)));
}
CUresult address_range(CUdeviceptr* base, size_t* bytes, CUdeviceptr pointer) {
    const std::lock_guard lock(runtime_mutex());
    check::Allocation holder;
    if (!allocations().find(pointer, 1, &holder)) {
        return CUDA_ERROR_NOT_FOUND;
    }
    if (base) {
        *base = holder.base;
    }
    if (bytes) {
        *bytes = holder.bytes;
    }
    return CUDA_SUCCESS;
}
CUresult function_attribute(CUfunction function, CUfunction_attribute attribute, int value) {
    return result(cudaFuncSetAttribute(function, static_cast<cudaFuncAttribute>(attribute), value));
}
CUresult launch_kernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                       unsigned by, unsigned bz, unsigned shared, CUstream stream, void** arguments,
                       void** extra) {
    if (extra) {
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    return result(
        cudaLaunchKernel(function, {gx, gy, gz}, {bx, by, bz}, arguments, shared, stream));
}

struct Entry {
    const char* name;
    void* function;
};

template <class F>
void* address(F* function) {
    return reinterpret_cast<void*>(function);
}

const Entry kEntries[] = {
    {"cuTensorMapEncodeTiled", address(encode_tiled)},
    {"cuTensorMapReplaceAddress", address(replace_address)},
    {"cuGetErrorString", address(error_string)},
    {"cuGetErrorName", address(error_name)},
    {"cuInit", address(init)},
    {"cuDriverGetVersion", address(driver_version)},
    {"cuDeviceGetCount", address(device_count)},
    {"cuDeviceGet", address(device_get)},
    {"cuDeviceGetAttribute", address(device_attribute)},
    {"cuDeviceGetName", address(device_name)},
    {"cuDeviceTotalMem", address(device_memory)},
    {"cuCtxGetCurrent", address(context_get)},
    {"cuCtxSetCurrent", address(context_set)},
    {"cuCtxGetDevice", address(context_device)},
    {"cuCtxSynchronize", address(synchronize)},
    {"cuDevicePrimaryCtxRetain", address(primary_retain)},
    {"cuDevicePrimaryCtxRelease", address(primary_release)},
    {"cuMemAlloc", address(memory_allocate)},
    {"cuMemFree", address(memory_free)},
    {"cuMemGetAddressRange", address(address_range)},
    {"cuFuncSetAttribute", address(function_attribute)},
    {"cuLaunchKernel", address(launch_kernel)},
};

cudaError_t entry_point(const char* symbol, void** function,
                        cudaDriverEntryPointQueryResult* status) {
    return query([&] {
        if (!symbol || !function) {
            return cudaErrorInvalidValue;
        }
        *function = driver_function(symbol);
        if (status) {
            *status = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
        }
        if (!*function) {
            explain(std::string("driver function ") + symbol +
                    " is not implemented in the emulator");
            return status ? cudaSuccess : cudaErrorSymbolNotFound;
        }
        return cudaSuccess;
    });
}

}  // namespace

void* driver_function(const std::string& name) {
    for (const Entry& entry : kEntries) {
        if (name == entry.name) {
            return entry.function;
        }
    }
    return nullptr;
}

}  // namespace emu

using namespace emu;

extern "C" {

cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** function, unsigned long long,
                                    cudaDriverEntryPointQueryResult* status) {
    return entry_point(symbol, function, status);
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
    return entry_point(symbol, function, status);
}

}  // extern "C"
