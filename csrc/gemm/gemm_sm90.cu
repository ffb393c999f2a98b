// SPDX-License-Identifier: BSD-3-Clause
#include "gemm/flat_sm90.cuh"
#include "gemm/launch.h"
#include "host/check_gemm.h"
#include "host/launch.h"
#include "host/tensor_map.h"

namespace limelight::gemm {

namespace {

Status encode_matrix(const GemmParams& p, const void* data, int64_t rows, int64_t row_stride,
                     int box_rows, CUtensorMap* map) {
    return encode_tensor_map({p.dtype, data, 1, rows, 1, p.k, {0, row_stride, 0}}, kSm90BlockK,
                             box_rows, map);
}

template <class Element, int kMaxRows>
Status launch_tile(const GemmParams& call, cudaStream_t stream) {
    using Config = FlatSm90Config<Element, kMaxRows>;
    FlatSm90Params params{};
    params.call = call;
    if (const Status status =
            encode_matrix(call, call.weight, weight_rows(call), call.weight_row_stride,
                          Config::kHalfRows, &params.weight);
        !status.ok()) {
        return status;
    }
    if (const Status status =
            encode_matrix(call, call.x, call.m, call.x_row_stride, kMaxRows, &params.x);
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
