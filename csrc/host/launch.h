// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "limelight/status.h"

namespace limelight {

inline Status cuda_status(cudaError_t error, const char* what) {
    if (error == cudaSuccess) {
        return {};
    }
    return Status::error(Status::Code::kCudaError, "%s: %s (%s)", what, cudaGetErrorString(error),
                         cudaGetErrorName(error));
}

// The one place that launches: a one-dimensional grid, dynamic shared memory raised to what it
// needs. A programmatic launch may start before the kernel before it on the stream has ended.
template <class Params>
Status launch(void (*kernel)(Params), int64_t blocks, int threads, size_t smem_bytes,
              const Params& params, cudaStream_t stream, bool programmatic = false) {
    constexpr int64_t kMaxBlocks = 0x7fffffff;
    if (blocks > kMaxBlocks) {
        return Status::error(
            Status::Code::kUnsupported,
            "the call needs %lld thread blocks, a grid holds %lld: split the batch",
            static_cast<long long>(blocks), static_cast<long long>(kMaxBlocks));
    }
    const void* const function = reinterpret_cast<const void*>(kernel);
    if (smem_bytes > 48 * 1024) {
        const cudaError_t error = cudaFuncSetAttribute(
            function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(smem_bytes));
        if (error != cudaSuccess) {
            return cuda_status(error, "cudaFuncSetAttribute(MaxDynamicSharedMemorySize)");
        }
    }
    Params copy = params;
    void* arguments[] = {&copy};
    if (programmatic) {
        cudaLaunchAttribute attribute{};
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t config{};
        config.gridDim = dim3(static_cast<unsigned>(blocks));
        config.blockDim = dim3(static_cast<unsigned>(threads));
        config.dynamicSmemBytes = smem_bytes;
        config.stream = stream;
        config.attrs = &attribute;
        config.numAttrs = 1;
        return cuda_status(cudaLaunchKernelExC(&config, function, arguments),
                           "cudaLaunchKernelExC");
    }
    return cuda_status(cudaLaunchKernel(function, dim3(static_cast<unsigned>(blocks)),
                                        dim3(threads), arguments, smem_bytes, stream),
                       "cudaLaunchKernel");
}

}  // namespace limelight
