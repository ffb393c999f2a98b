// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>

#include "limelight/attention.h"
#include "limelight/export.h"
#include "limelight/status.h"

namespace limelight {

enum class WeightFormat : int32_t {
    k16Bit = 0,       ///< the dtype of x
    kFloat8E4M3 = 1,  ///< scale per channel or per 128 x 128 block
    kInt4 = 2,        ///< two values a byte, low nibble first; scale and zero per group along k
};

enum class Activation : int32_t {
    kNone = 0,
    kGelu = 1,      ///< x * Phi(x)
    kGeluTanh = 2,  ///< the tanh approximation of it
    kSilu = 3,      ///< x / (1 + exp(-x))
    kSwiGLU = 4,    ///< silu(gate) * up: weight and bias have 2n rows, n of gate, then n of up
};

enum class GemmKernel : int32_t {
    kGemv = 0,          ///< m <= 8: weights pass through registers only
    kFlat = 1,          ///< m <= 128: weights and x pass through a ring in shared memory
    kFlatPortable = 2,  ///< kFlat without the kernels of single architectures
};

/// Counters that a call may use, whatever its shapes.
constexpr int32_t kGemmTickets = 4096;

/// One product out = activation(x @ weight^T + bias) + residual with few rows. Plain data: pointers
/// are device memory owned by the caller, null where a feature is not used. Strides are in stored
/// elements (bytes of two values for INT4); last dimensions are contiguous.
struct FlatGemmParams {
    Dtype dtype = Dtype::kBFloat16;  ///< of x, bias and residual: float16 or bfloat16
    WeightFormat weight_format = WeightFormat::k16Bit;
    int32_t m = 0;  ///< rows of x: at most 128
    int32_t n = 0;  ///< columns of out; weight has n rows, 2n with kSwiGLU
    int32_t k = 0;  ///< multiple of 8; INT4: multiple of scale_group

    const void* x = nullptr;  ///< [m, k], 16-byte aligned rows
    int64_t x_row_stride = 0;
    const void* weight = nullptr;  ///< [rows, k], 16-byte aligned rows; INT4: [rows, k / 2]
    int64_t weight_row_stride = 0;
    /// FP8: fp32 [rows], or [ceil(rows / 128), ceil(k / 128)] with scale_group 128.
    /// INT4: dtype [rows, k / scale_group].
    const void* weight_scale = nullptr;
    int32_t scale_group = 0;  ///< FP8: 0 (per channel) or 128; INT4: 64 or 128
    /// INT4: [rows, k / scale_group] of 0 to 127; null means 8. value = (nibble - zero) * scale.
    const uint8_t* weight_zero = nullptr;

    const void* bias = nullptr;      ///< [rows]
    const void* residual = nullptr;  ///< [m, n], added last
    int64_t residual_row_stride = 0;
    void* out = nullptr;  ///< [m, n]
    int64_t out_row_stride = 0;
    Dtype out_dtype = Dtype::kBFloat16;  ///< dtype, or kFloat8E4M3 with out_scale
    const float* out_scale = nullptr;    ///< [1]: stored value = round(y / out_scale), saturated
    Activation activation = Activation::kNone;

    GemmKernel kernel = GemmKernel::kFlat;
    /// 0: the library chooses; else every row of weight is cut in so many pieces along k.
    int32_t splits = 0;
    /// A row's bits must not depend on m: always true of kFlat; kGemv is refused.
    bool batch_invariant = false;
    /// Programmatic dependent launch (sm_90 and newer): the kernel may start, and read weight,
    /// weight_scale and weight_zero, before the kernel that precedes it on the stream has ended.
    bool programmatic = false;
    void* workspace = nullptr;  ///< flat_gemm_workspace bytes, 16-byte aligned
    size_t workspace_bytes = 0;
    /// kGemmTickets zeros, which every call leaves zero, for one stream at a time; needed where the
    /// workspace is.
    uint32_t* tickets = nullptr;
};

/// A linear layer for decoding after FlashDecoding++ (Hong et al., 2023, arXiv 2311.01282): the
/// weight is the MMA's m side, x its n = 8 side. Asynchronous on `stream` of the current device.
/// fp32 accumulation; every sum has a fixed order, equal inputs give equal bits on equal devices.
LIMELIGHT_API Status flat_gemm(const FlatGemmParams& params, CUstream_st* stream);

/// Bytes of device workspace that the call needs on the current device: depends on extents, kernel,
/// splits, activation and weight_format only. Zero where the call would be refused.
LIMELIGHT_API size_t flat_gemm_workspace(const FlatGemmParams& params);

/// Kernels compiled into the library: block_q is the most rows of x, block_kv the rows of weight a
/// thread block works on at a time, headdim 0.
LIMELIGHT_API const KernelInfo* flat_gemm_kernels(int* count);

}  // namespace limelight
