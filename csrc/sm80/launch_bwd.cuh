// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "host/launch.h"
#include "sm80/bwd.cuh"
#include "sm80/bwd_bias.cuh"
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

template <class Config>
Status launch_bwd_bias(BwdParams& params, cudaStream_t stream) {
    const BiasStrides& strides = params.dbias_strides;
    const auto extent = [](int64_t stride, int count) { return stride == 0 ? 1 : count; };
    params.num_q_blocks = extent(strides.row, ceil_div(params.seqlen_q, Config::kOwnRows));
    params.num_kv_blocks = extent(strides.col, ceil_div(params.seqlen_k, Config::kOtherRows));
    const int64_t blocks = int64_t{params.num_q_blocks} * params.num_kv_blocks *
                           extent(strides.head, params.heads_q) *
                           extent(strides.batch, params.batch);
    if (blocks == 0) {
        return {};
    }
    return launch(sm80_attention_bwd_bias<Config>, blocks, Config::kThreads,
                  sizeof(typename Config::Smem), params, stream);
}

template <class Element, int kHeadDim, Scores kScores, Tiles kTiles>
Status launch_bwd_kernels(BwdParams& params, cudaStream_t stream) {
    Status status;
    const auto keys = [&]<Gradient kGradient>() {
        if (status.ok() && params.batch > 0 && params.seqlen_k > 0) {
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
    if (status.ok() && params.batch > 0 && params.seqlen_q > 0) {
        using Config = BwdConfig<Element, kHeadDim, kScores, kTiles, Gradient::kQuery>;
        status = launch_bwd_queries<Config>(params, stream);
    }
    if constexpr (kScores == Scores::kChange) {
        if (status.ok() && params.dbias != nullptr) {
            using Config = BwdConfig<Element, kHeadDim, kScores, kTiles, Gradient::kBias>;
            status = launch_bwd_bias<Config>(params, stream);
        }
    }
    return status;
}

template <int kHeadDim, Tiles kTiles>
Status launch_bwd(BwdParams params, cudaStream_t stream) {
    const bool change = changes_scores(params);
    const auto with_element = [&]<class Element>(Element) {
        return change
                   ? launch_bwd_kernels<Element, kHeadDim, Scores::kChange, kTiles>(params, stream)
                   : launch_bwd_kernels<Element, kHeadDim, Scores::kPlain, kTiles>(params, stream);
    };
    return params.dtype == Dtype::kFloat16 ? with_element(__half{}) : with_element(__nv_bfloat16{});
}

}  // namespace limelight::sm80
