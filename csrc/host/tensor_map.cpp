// SPDX-License-Identifier: BSD-3-Clause
#include "host/tensor_map.h"

#include <cuda_runtime_api.h>

#include "host/launch.h"

namespace limelight {

namespace {

constexpr int64_t kAlignment = 16;                  // bytes, of the address and of each stride
constexpr int64_t kStrideLimit = int64_t{1} << 40;  // bytes
constexpr int64_t kExtentLimit = int64_t{1} << 31;  // coordinates are signed 32-bit
constexpr unsigned kEncodeVersion = 12000;  // of the driver API that this file is written to

using Encode = decltype(&cuTensorMapEncodeTiled);

// liblimelight.so does not link libcuda: the runtime hands its entry points out.
Status find_encode(Encode* encode) {
    static Encode known = nullptr;
    static const cudaError_t error = [] {
        void* entry = nullptr;
        cudaDriverEntryPointQueryResult found{};
        const cudaError_t error = cudaGetDriverEntryPointByVersion(
            "cuTensorMapEncodeTiled", &entry, kEncodeVersion, cudaEnableDefault, &found);
        if (error == cudaSuccess && found == cudaDriverEntryPointSuccess) {
            known = reinterpret_cast<Encode>(entry);
        }
        return error;
    }();
    if (known == nullptr) {
        return Status::error(
            Status::Code::kCudaError, "cuTensorMapEncodeTiled: %s",
            error == cudaSuccess ? "the driver does not have it" : cudaGetErrorString(error));
    }
    *encode = known;
    return {};
}

// The driver encodes for the device of the thread's context. A thread whose first use of CUDA is
// this call has none: choosing the device that is current already binds it.
Status bind_context() {
    int device = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) {
        error = cudaSetDevice(device);
    }
    return cuda_status(error, "cudaSetDevice");
}

int64_t element_bytes(Dtype dtype) {
    return dtype == Dtype::kFloat8E4M3 ? 1 : dtype == Dtype::kFloat32 ? 4 : 2;
}

CUtensorMapDataType map_type(Dtype dtype) {
    switch (dtype) {
        case Dtype::kFloat16:
            return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
        case Dtype::kBFloat16:
            return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
        case Dtype::kFloat32:
            return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
        default:
            return CU_TENSOR_MAP_DATA_TYPE_UINT8;
    }
}

CUtensorMapSwizzle swizzle_of(int64_t row_bytes) {
    return row_bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
           : row_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                             : CU_TENSOR_MAP_SWIZZLE_32B;
}

struct Dimension {
    int64_t extent;
    int64_t stride;  // in elements
    int box;
};

// From the contiguous dimension outwards.
Status encode_dimensions(const TensorExtents& t, const Dimension (&dimensions)[4],
                         CUtensorMap* map) {
    Encode encode = nullptr;
    if (const Status status = find_encode(&encode); !status.ok()) {
        return status;
    }
    const int64_t bytes = element_bytes(t.dtype);
    cuuint64_t extents[4];
    cuuint64_t strides[4];
    cuuint32_t box[4];
    const cuuint32_t steps[] = {1, 1, 1, 1};
    for (int i = 0; i < 4; ++i) {
        const auto& [extent, stride, box_extent] = dimensions[i];
        extents[i] = static_cast<cuuint64_t>(stride == 0 ? 1 : extent);
        // The stride of a dimension of extent 1 is never used, but must be legal.
        strides[i] = static_cast<cuuint64_t>(extents[i] == 1 ? kAlignment : stride * bytes);
        box[i] = static_cast<cuuint32_t>(box_extent);
    }
    const auto try_encode = [&] {
        return encode(map, map_type(t.dtype), 4, const_cast<void*>(t.data), extents, strides + 1,
                      box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                      swizzle_of(dimensions[0].box * bytes), CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    };
    CUresult result = try_encode();
    if (result == CUDA_ERROR_INVALID_CONTEXT || result == CUDA_ERROR_NOT_INITIALIZED) {
        if (const Status status = bind_context(); !status.ok()) {
            return status;
        }
        result = try_encode();
    }
    if (result != CUDA_SUCCESS) {
        return Status::error(Status::Code::kCudaError,
                             "cuTensorMapEncodeTiled: error %d for %lld rows, %lld heads, %lld "
                             "batches of %lld columns",
                             static_cast<int>(result), static_cast<long long>(t.rows),
                             static_cast<long long>(t.heads), static_cast<long long>(t.batch),
                             static_cast<long long>(t.columns));
    }
    return {};
}

}  // namespace

Status check_tensor_map(const char* name, const TensorExtents& t) {
    const struct {
        const char* name;
        int64_t extent;
        int64_t stride;
        bool may_expand;
    } dimensions[] = {{"row", t.rows, t.strides.row, false},
                      {"head", t.heads, t.strides.head, true},
                      {"batch", t.batch, t.strides.batch, true}};
    constexpr auto kUnsupported = Status::Code::kUnsupported;
    if (reinterpret_cast<uintptr_t>(t.data) % kAlignment != 0) {
        return Status::error(kUnsupported, "%s: its address is not 16-byte aligned", name);
    }
    for (const auto& [dimension, extent, stride, may_expand] : dimensions) {
        const int64_t bytes = stride * element_bytes(t.dtype);
        if (extent < 1 || extent >= kExtentLimit) {
            return Status::error(kUnsupported,
                                 "%s: %lld in its %s dimension, a tensor map holds 1 to 2^31 - 1",
                                 name, static_cast<long long>(extent), dimension);
        }
        const bool regular = bytes > 0 && bytes < kStrideLimit && bytes % kAlignment == 0;
        if (extent > 1 && !regular && !(may_expand && stride == 0)) {
            return Status::error(kUnsupported,
                                 "%s: a tensor map cannot express its %s stride of %lld elements",
                                 name, dimension, static_cast<long long>(stride));
        }
    }
    return {};
}

Status encode_tensor_map(const TensorExtents& t, const TensorBox& box, CUtensorMap* map) {
    return encode_dimensions(t,
                             {{t.columns, 1, box.columns},
                              {t.rows, t.strides.row, box.rows},
                              {t.heads, t.strides.head, box.heads},
                              {t.batch, t.strides.batch, box.batch}},
                             map);
}

Status encode_heads_map(const TensorExtents& t, int box_columns, int box_heads, int box_rows,
                        CUtensorMap* map) {
    return encode_dimensions(t,
                             {{t.columns, 1, box_columns},
                              {t.heads, t.strides.head, box_heads},
                              {t.rows, t.strides.row, box_rows},
                              {t.batch, t.strides.batch, 1}},
                             map);
}

}  // namespace limelight
