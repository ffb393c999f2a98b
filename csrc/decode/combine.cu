// SPDX-License-Identifier: BSD-3-Clause
#include "arch/math.cuh"
#include "decode/launch.h"
#include "host/launch.h"

namespace limelight::decode {

namespace {

constexpr int kCombineThreads = 128;
constexpr int kWarps = kCombineThreads / kWarpSize;
constexpr int kUnroll = 8;

// kColumns neighbouring elements of a tensor as floats: 1 of any dtype, or 4 floats.
template <int kColumns>
LIMELIGHT_DEVICE void load(const void* tensor, Dtype dtype, int64_t at, float (&x)[kColumns]) {
    if constexpr (kColumns == 4) {
        const float4 four =
            *reinterpret_cast<const float4*>(static_cast<const float*>(tensor) + at);
        x[0] = four.x;
        x[1] = four.y;
        x[2] = four.z;
        x[3] = four.w;
    } else if (dtype == Dtype::kFloat16) {
        x[0] = __half2float(static_cast<const __half*>(tensor)[at]);
    } else if (dtype == Dtype::kBFloat16) {
        x[0] = __bfloat162float(static_cast<const __nv_bfloat16*>(tensor)[at]);
    } else {
        x[0] = static_cast<const float*>(tensor)[at];
    }
}

template <class Element>
LIMELIGHT_DEVICE void store_rounded(void* tensor, int64_t at, const float (&x)[4]) {
    *reinterpret_cast<uint2*>(static_cast<Element*>(tensor) + at) = {pack2(x[0], x[1], Element{}),
                                                                     pack2(x[2], x[3], Element{})};
}
LIMELIGHT_DEVICE void store(void* tensor, Dtype dtype, int64_t at, const float (&x)[4]) {
    if (dtype == Dtype::kFloat16) {
        store_rounded<__half>(tensor, at, x);
    } else if (dtype == Dtype::kBFloat16) {
        store_rounded<__nv_bfloat16>(tensor, at, x);
    } else {
        *reinterpret_cast<float4*>(static_cast<float*>(tensor) + at) = {x[0], x[1], x[2], x[3]};
    }
}
LIMELIGHT_DEVICE void store(void* tensor, Dtype dtype, int64_t at, const float (&x)[1]) {
    if (dtype == Dtype::kFloat16) {
        static_cast<__half*>(tensor)[at] = __float2half_rn(x[0]);
    } else if (dtype == Dtype::kBFloat16) {
        static_cast<__nv_bfloat16*>(tensor)[at] = __float2bfloat16_rn(x[0]);
    } else {
        static_cast<float*>(tensor)[at] = x[0];
    }
}

// A warp per row (batch, token, head), kColumns columns a lane: splits are added in their order, so
// that equal inputs give equal bits. Splits without keys are skipped: their out may hold anything.
template <int kColumns>
__global__ void __launch_bounds__(kCombineThreads)
    attention_combine_kernel(const __grid_constant__ CombineCall params) {
    const int lane = threadIdx.x % kWarpSize;
    const int64_t row = blockIdx.x * int64_t{kWarps} + threadIdx.x / kWarpSize;
    const int64_t head = row % params.heads;
    const int64_t token = row / params.heads % params.seqlen;
    const int64_t batch = row / params.heads / params.seqlen;
    if (batch >= params.batch) {
        return;
    }
    if (params.cu_seqlens != nullptr &&
        (token < params.cu_seqlens[0] || token >= params.cu_seqlens[params.sequences])) {
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
    const bool sees_keys = top != -INFINITY;  // a sink alone makes no row
    const float sink = params.sink == nullptr || !sees_keys ? -INFINITY : params.sink[head];
    const float base = sees_keys ? fmaxf(top, sink) : 0.0f;
    float sum = expf(sink - base);
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
    for (int column = lane * kColumns; column < params.headdim; column += kWarpSize * kColumns) {
        float out[kColumns] = {};
#pragma unroll kUnroll
        for (int split = 0; split < params.splits; ++split) {
            const float weight = expf(lse_of(split) - base);
            if (weight != 0.0f) {
                float part[kColumns];
                load<kColumns>(params.partial_out, params.partial_dtype,
                               from + split * params.partial_split_stride + column, part);
#pragma unroll
                for (int i = 0; i < kColumns; ++i) {
                    out[i] += weight * factor * part[i];
                }
            }
        }
        if (nan) {
#pragma unroll
            for (float& x : out) {
                x = NAN;
            }
        }
        store(params.out, params.dtype, to + column, out);
    }
}

// Whether each lane can read 16 bytes of partial_out and write four elements of out at once.
bool fits_vectors(const CombineParams& p) {
    const auto multiples = [](const TensorStrides& s) {
        return s.batch % 4 == 0 && s.row % 4 == 0 && s.head % 4 == 0;
    };
    return p.partial_dtype == Dtype::kFloat32 && p.headdim % 4 == 0 &&
           p.partial_split_stride % 4 == 0 && multiples(p.partial_strides) &&
           multiples(p.out_strides) && reinterpret_cast<uintptr_t>(p.partial_out) % 16 == 0 &&
           reinterpret_cast<uintptr_t>(p.out) % 16 == 0;
}

}  // namespace

Status launch_combine(const CombineCall& call, cudaStream_t stream) {
    const int64_t rows = int64_t{call.batch} * call.seqlen * call.heads;
    const auto kernel =
        fits_vectors(call) ? attention_combine_kernel<4> : attention_combine_kernel<1>;
    return launch(kernel, (rows + kWarps - 1) / kWarps, kCombineThreads, 0, call, stream);
}

}  // namespace limelight::decode
