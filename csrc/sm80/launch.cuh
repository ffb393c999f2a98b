// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "host/launch.h"
#include "sm80/fwd.cuh"
#include "sm80/launch.h"

namespace limelight::sm80 {

// The build compiles every instantiation file once for each set of tiles, with its own
// architectures.
constexpr Tiles kBuildTiles = Tiles::LIMELIGHT_SM80_TILES;

template <class Config>
Status launch_config(FwdParams& params, cudaStream_t stream) {
    params.num_q_blocks = ceil_div(params.seqlen_q, Config::kBlockQ);
    const int64_t blocks = int64_t{params.num_q_blocks} * params.heads_q * params.batch;
    return launch(sm80_attention_fwd<Config>, blocks, Config::kThreads,
                  sizeof(typename Config::Smem), params, stream);
}

template <int kHeadDim, Tiles kTiles>
Status launch_fwd(FwdParams params, cudaStream_t stream) {
    const bool change = changes_scores(params);
    const auto with_element = [&]<class Element>(Element) {
        return change ? launch_config<FwdConfig<Element, kHeadDim, Scores::kChange, kTiles>>(params,
                                                                                             stream)
                      : launch_config<FwdConfig<Element, kHeadDim, Scores::kPlain, kTiles>>(params,
                                                                                            stream);
    };
    return params.dtype == Dtype::kFloat16 ? with_element(__half{}) : with_element(__nv_bfloat16{});
}

template <int kHeadDim, Tiles kTiles>
Status probe_fwd() {
    cudaFuncAttributes attributes;
    return cuda_status(
        cudaFuncGetAttributes(
            &attributes,
            sm80_attention_fwd<FwdConfig<__nv_bfloat16, kHeadDim, Scores::kPlain, kTiles>>),
        "cudaFuncGetAttributes(sm80_attention_fwd)");
}

}  // namespace limelight::sm80
