// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "gemm/flat.cuh"
#include "gemm/gemv.cuh"
#include "gemm/launch.h"
#include "host/launch.h"

namespace limelight::gemm {

template <class Element, WeightFormat kFormat, int kMaxRows>
Status launch_flat_tile(const GemmParams& params, cudaStream_t stream) {
    using Config = FlatConfig<Element, kFormat, kMaxRows>;
    return launch(sm80_flat_gemm<Config>, params.blocks, Config::kThreads,
                  sizeof(typename Config::Smem), params, stream, params.programmatic);
}

template <WeightFormat kFormat>
Status launch_flat(const GemmParams& params, cudaStream_t stream) {
    const auto with_element = [&]<class Element>(Element) {
        switch (find_flat_tile(kFormat, params.m).m) {
            case 16:
                return launch_flat_tile<Element, kFormat, 16>(params, stream);
            case 64:
                return launch_flat_tile<Element, kFormat, 64>(params, stream);
            default:
                return launch_flat_tile<Element, kFormat, 128>(params, stream);
        }
    };
    return params.dtype == Dtype::kFloat16 ? with_element(__half{}) : with_element(__nv_bfloat16{});
}

template <WeightFormat kFormat>
Status launch_gemv(const GemmParams& params, cudaStream_t stream) {
    const auto with_element = [&]<class Element>(Element) {
        return launch(sm80_gemv<SpanConfig<Element, kFormat>>, params.blocks,
                      kGemvWarps * kWarpSize, 0, params, stream, params.programmatic);
    };
    return params.dtype == Dtype::kFloat16 ? with_element(__half{}) : with_element(__nv_bfloat16{});
}

}  // namespace limelight::gemm
