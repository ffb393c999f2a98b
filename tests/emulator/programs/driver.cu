// SPDX-License-Identifier: BSD-3-Clause
// Driver functions through cudaGetDriverEntryPointByVersion.
#include <cuda.h>

#include <cstring>

#include "expect.h"

int main() {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult status;
    OK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                        cudaEnableDefault, &status));
    EXPECT(status == cudaDriverEntryPointSuccess);
    auto* encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
    alignas(64) CUtensorMap map;
    const cuuint64_t dims[2] = {64, 128}, strides[1] = {128};
    const cuuint32_t box[2] = {64, 32}, steps[2] = {1, 1};
    const auto encode_plain = [&](void* memory) {
        return encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, memory, dims, strides, box, steps,
                      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                      CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    };
    int device;
    OK(cudaGetDevice(&device));  // a query binds no context to this thread
    EXPECT(encode_plain(&map) == CUDA_ERROR_INVALID_CONTEXT);
    OK(cudaSetDevice(device));
    void* memory;
    OK(cudaMalloc(&memory, 1 << 16));
    EXPECT(encode_plain(memory) == CUDA_SUCCESS);
    const cuuint32_t wide[2] = {512, 32};
    EXPECT(encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, memory, dims, strides, wide, steps,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_NONE,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_ERROR_INVALID_VALUE);
    OK(cudaGetDriverEntryPointByVersion("cuGetErrorString", &function, 12000, cudaEnableDefault,
                                        &status));
    const char* text;
    reinterpret_cast<decltype(&cuGetErrorString)>(function)(CUDA_ERROR_INVALID_VALUE, &text);
    EXPECT(std::strcmp(text, "invalid argument") == 0);
    OK(cudaGetDriverEntryPointByVersion("cuNoSuchFunction", &function, 12000, cudaEnableDefault,
                                        &status));
    EXPECT(status == cudaDriverEntryPointSymbolNotFound && function == nullptr);
    std::puts("ok");
}
