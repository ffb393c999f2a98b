// SPDX-License-Identifier: BSD-3-Clause
#include "gemm/flat_sm90.cuh"
#include "gemm/launch.h"
#include "host/check_gemm.h"
#include "host/launch.h"
#include "host/tensor_map.h"

namespace limelight::gemm {

namespace {

Status encode_weight(const GemmParams& p, FlatSm90Params* params) {
    const TensorExtents rows{
        p.dtype, p.weight, 1, weight_rows(p), 1, p.k, {0, p.weight_row_stride, 0}};
    if (p.activation != Activation::kSwiGLU) {
        return encode_tensor_map(rows, {kSm90BlockK, kFlatRows}, &params->weight);
    }
    constexpr int kBlock = 8;
    params->paired = p.n % kBlock == 0;
    if (!params->paired) {
        return encode_tensor_map(rows, {kSm90BlockK, kBlock}, &params->weight);
    }
    const TensorStrides strides{kBlock * p.weight_row_stride, p.weight_row_stride,
                                p.n * p.weight_row_stride};
    return encode_tensor_map({p.dtype, p.weight, p.n / kBlock, kBlock, 2, p.k, strides},
                             {kSm90BlockK, kBlock, 2, kFlatRows / (2 * kBlock)}, &params->weight);
}

template <class Element, int kMaxRows>
Status launch_tile(const GemmParams& call, cudaStream_t stream) {
    using Config = FlatSm90Config<Element, kMaxRows>;
    FlatSm90Params params{};
    params.call = call;
    if (const Status status = encode_weight(call, &params); !status.ok()) {
        return status;
    }
    const TensorExtents x{call.dtype, call.x, 1, call.m, 1, call.k, {0, call.x_row_stride, 0}};
    if (const Status status = encode_tensor_map(x, {kSm90BlockK, kMaxRows}, &params.x);
        !status.ok()) {
        return status;
    }
    return launch(sm90_flat_gemm<Config>, call.blocks, Config::kThreads,
                  sizeof(typename Config::Smem), params, stream, call.programmatic);
}

}  // namespace

Status launch_flat_sm90(const GemmParams& params, cudaStream_t stream) {
    const auto with_element = [&]<class Element>(Element) {
        switch (find_flat_sm90_tile(params.m).m) {
            case 16:
                return launch_tile<Element, 16>(params, stream);
            case 64:
                return launch_tile<Element, 64>(params, stream);
            default:
                return launch_tile<Element, 128>(params, stream);
        }
    };
    return params.dtype == Dtype::kFloat16 ? with_element(__half{}) : with_element(__nv_bfloat16{});
}

}  // namespace limelight::gemm
