// SPDX-License-Identifier: BSD-3-Clause
#include "arch/math.cuh"
#include "decode/launch.h"
#include "host/launch.h"

namespace limelight::decode {

namespace {

constexpr int kCombineThreads = 128;
constexpr int kWarps = kCombineThreads / kWarpSize;
constexpr int kUnroll = 4;

LIMELIGHT_DEVICE float load(const void* tensor, Dtype dtype, int64_t at) {
    switch (dtype) {
        case Dtype::kFloat16:
            return __half2float(static_cast<const __half*>(tensor)[at]);
        case Dtype::kBFloat16:
            return __bfloat162float(static_cast<const __nv_bfloat16*>(tensor)[at]);
        default:
            return static_cast<const float*>(tensor)[at];
    }
}
LIMELIGHT_DEVICE void store(void* tensor, Dtype dtype, int64_t at, float x) {
    switch (dtype) {
        case Dtype::kFloat16:
            static_cast<__half*>(tensor)[at] = __float2half_rn(x);
            break;
        case Dtype::kBFloat16:
            static_cast<__nv_bfloat16*>(tensor)[at] = __float2bfloat16_rn(x);
            break;
        default:
            static_cast<float*>(tensor)[at] = x;
    }
}

// A warp per row (batch, token, head), a lane per column: splits are added in their order, so that
// equal inputs give equal bits. Splits without keys are skipped: their out may hold anything.
__global__ void __launch_bounds__(kCombineThreads)
    attention_combine_kernel(const __grid_constant__ CombineParams params) {
    const int lane = threadIdx.x % kWarpSize;
    const int64_t row = blockIdx.x * int64_t{kWarps} + threadIdx.x / kWarpSize;
    const int64_t head = row % params.heads;
    const int64_t token = row / params.heads % params.seqlen;
    const int64_t batch = row / params.heads / params.seqlen;
    if (batch >= params.batch) {
        return;
    }
    const float* const lse = params.partial_lse + batch * params.partial_lse_batch_stride +
                             head * params.partial_lse_head_stride +
                             token * params.partial_lse_row_stride;
    const auto lse_of = [&](int split) {
        const float x = lse[split * params.partial_lse_split_stride];
        return x == INFINITY ? -INFINITY : x;
    };
    float top = -INFINITY;
    bool nan = false;
    for (int split = 0; split < params.splits; ++split) {
        const float x = lse_of(split);
        nan = nan || x != x;
        top = fmaxf(top, x);
    }
    const float base = top == -INFINITY ? 0.0f : top;
    float sum = 0.0f;
    for (int split = 0; split < params.splits; ++split) {
        sum += expf(lse_of(split) - base);
    }
    const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
    if (lane == 0) {
        params.lse[batch * params.lse_batch_stride + head * params.lse_head_stride +
                   token * params.lse_row_stride] = sum == 0.0f ? -INFINITY : base + logf(sum);
    }
    const int64_t from = batch * params.partial_strides.batch + token * params.partial_strides.row +
                         head * params.partial_strides.head;
    const int64_t to = batch * params.out_strides.batch + token * params.out_strides.row +
                       head * params.out_strides.head;
    for (int column = lane; column < params.headdim; column += kWarpSize) {
        float out = 0.0f;
#pragma unroll kUnroll
        for (int split = 0; split < params.splits; ++split) {
            const float weight = expf(lse_of(split) - base);
            if (weight != 0.0f) {
                out += weight * factor *
                       load(params.partial_out, params.partial_dtype,
                            from + split * params.partial_split_stride + column);
            }
        }
        store(params.out, params.dtype, to + column, nan ? NAN : out);
    }
}

}  // namespace

Status launch_combine(const CombineParams& params, cudaStream_t stream) {
    const int64_t rows = int64_t{params.batch} * params.seqlen * params.heads;
    return launch(attention_combine_kernel, (rows + kWarps - 1) / kWarps, kCombineThreads, 0,
                  params, stream);
}

}  // namespace limelight::decode
