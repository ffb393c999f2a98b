// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "host/launch.h"
#include "sm80/bwd.cuh"
#include "sm80/launch.h"

namespace limelight::sm80 {

constexpr Tiles kBuildTiles = Tiles::LIMELIGHT_SM80_TILES;

template <class Config>
Status launch_bwd_keys(BwdParams& params, cudaStream_t stream) {
    params.num_kv_blocks = ceil_div(params.seqlen_k, Config::kOwnRows);
    const int64_t blocks = int64_t{params.num_kv_blocks} * params.heads_kv * params.batch;
    return launch(sm80_attention_bwd_keys<Config>, blocks, Config::kThreads,
                  sizeof(typename Config::Smem), params, stream);
}

template <class Config>
Status launch_bwd_queries(BwdParams& params, cudaStream_t stream) {
    params.num_q_blocks = ceil_div(params.seqlen_q, Config::kOwnRows);
    const int64_t blocks = int64_t{params.num_q_blocks} * params.heads_q * params.batch;
    return launch(sm80_attention_bwd_queries<Config>, blocks, Config::kThreads,
                  sizeof(typename Config::Smem), params, stream);
}

template <class Element, int kHeadDim, Scores kScores, Tiles kTiles>
Status launch_bwd_kernels(BwdParams& params, cudaStream_t stream) {
    Status status;
    const auto keys = [&]<Gradient kGradient>() {
        if (status.ok() && params.seqlen_k > 0) {
            using Config = BwdConfig<Element, kHeadDim, kScores, kTiles, kGradient>;
            status = launch_bwd_keys<Config>(params, stream);
        }
    };
    if constexpr (find_bwd_tile(kHeadDim, kTiles).split) {
        keys.template operator()<Gradient::kValue>();
        keys.template operator()<Gradient::kKey>();
    } else {
        keys.template operator()<Gradient::kKeyValue>();
    }
    if (status.ok() && params.seqlen_q > 0) {
        using Config = BwdConfig<Element, kHeadDim, kScores, kTiles, Gradient::kQuery>;
        status = launch_bwd_queries<Config>(params, stream);
    }
    return status;
}

template <int kHeadDim, Tiles kTiles>
Status launch_bwd(BwdParams params, cudaStream_t stream) {
    const bool change = params.softcap > 0.0f || params.alibi_slopes != nullptr ||
                        params.bias != nullptr || !(params.softmax_scale > 0.0f);
    const auto with_element = [&]<class Element>(Element) {
        return change
                   ? launch_bwd_kernels<Element, kHeadDim, Scores::kChange, kTiles>(params, stream)
                   : launch_bwd_kernels<Element, kHeadDim, Scores::kPlain, kTiles>(params, stream);
    };
    return params.dtype == Dtype::kFloat16 ? with_element(__half{}) : with_element(__nv_bfloat16{});
}

}  // namespace limelight::sm80
