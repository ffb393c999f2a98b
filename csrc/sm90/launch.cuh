// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>

#include "host/launch.h"
#include "host/tensor_map.h"
#include "sm90/fwd.cuh"
#include "sm90/launch.h"
#include "sm90/tensors.h"

namespace limelight::sm90 {

// K and V of the heads of one section of the schedule; L2 holds 50 MB.
constexpr int64_t kSectionBytes = 32 << 20;

// Query heads whose K and V together fit the section, whole groups that share a kv head.
inline int32_t section_heads(const FwdParams& params) {
    const int64_t head_bytes =
        int64_t{2} * std::max(params.seqlen_k, 1) * (params.headdim + params.headdim_v);
    const int64_t kv_heads = std::max(kSectionBytes / head_bytes, int64_t{1});
    const int64_t all =
        int64_t{params.cu_seqlens_q != nullptr ? 1 : params.batch} * params.heads_kv;
    return static_cast<int32_t>(std::min(kv_heads, all) * params.heads_per_kv);
}

inline void set_schedule(FwdKernelParams* params) {
    const FwdParams& call = params->call;
    const int32_t heads = params->num_tiles / params->q_blocks;
    params->by_q_blocks = Divisor(params->q_blocks);
    params->by_heads_q = Divisor(call.heads_q);
    params->by_heads_per_kv = Divisor(call.heads_per_kv);
    if (call.causal && call.window_left < 0) {  // only a causal edge makes tiles differ in length
        params->section_heads = section_heads(call);
        params->section_tiles = params->section_heads * params->q_blocks;
        params->by_section_tiles = Divisor(params->section_tiles);
        params->by_section_heads = Divisor(params->section_heads);
        const int32_t last_heads = heads % params->section_heads;
        params->by_last_heads = Divisor(last_heads == 0 ? params->section_heads : last_heads);
    }
}

template <class TileLayout>
Status make_view(const TensorExtents& tensor, int box_rows, TensorView* view) {
    view->head_step = tensor.strides.head != 0;
    view->batch_step = tensor.strides.batch != 0;
    return encode_tensor_map(tensor, TileLayout::kPanel, box_rows, &view->map);
}

// `kernel`: the instantiation for Config.
template <class Config>
Status launch_kernel(void (*kernel)(FwdKernelParams), const FwdParams& call, int sm_count,
                     cudaStream_t stream) {
    FwdKernelParams params{};
    params.call = call;
    params.call.num_q_blocks = ceil_div(call.seqlen_q, Config::kBlockQ);
    const bool packed = call.cu_seqlens_q != nullptr;
    const int64_t q_blocks =
        packed ? call.total_rows_q / Config::kBlockQ + call.batch : params.call.num_q_blocks;
    const int64_t tiles = q_blocks * call.heads_q * (packed ? 1 : call.batch);
    constexpr int64_t kMaxTiles = 1 << 30;
    if (tiles > kMaxTiles) {
        return Status::error(Status::Code::kUnsupported,
                             "the call has %lld tiles, allowed: %lld: split the batch",
                             static_cast<long long>(tiles), static_cast<long long>(kMaxTiles));
    }
    params.num_tiles = static_cast<int32_t>(tiles);
    params.q_blocks = static_cast<int32_t>(q_blocks);
    set_schedule(&params);
    params.clear_v_tails = call.cu_seqlens_k != nullptr || call.seqused_k != nullptr;
    const Tensors tensors = tensors_of(call);
    for (const Status& status :
         {make_view<typename Config::QTile>(tensors.q, Config::kGroupRows, &params.q),
          make_view<typename Config::KTile>(tensors.k, Config::kBlockKV, &params.k),
          make_view<typename Config::VTile>(tensors.v, Config::kBlockKV, &params.v),
          make_view<typename Config::OTile>(tensors.out, Config::kGroupRows, &params.out)}) {
        if (!status.ok()) {
            return status;
        }
    }
    return launch(kernel, std::min<int64_t>(tiles, sm_count), Config::kThreads,
                  sizeof(typename Config::Smem), params, stream);
}

template <class Config>
Status launch_config(const FwdParams& call, int sm_count, cudaStream_t stream) {
    return launch_kernel<Config>(sm90_attention_fwd<Config>, call, sm_count, stream);
}

template <class Element, int kHeadDim, int kHeadDimV, Scores kScores>
Status launch_scores(const FwdParams& call, int sm_count, cudaStream_t stream) {
    constexpr bool kHasAll = find_fwd_tile(kHeadDim, kHeadDimV, kScores, Visible::kAll).headdim > 0;
    if constexpr (kHasAll) {
        if (!call.causal && call.window_left < 0 && call.window_right < 0) {
            return launch_config<FwdConfig<Element, kHeadDim, kHeadDimV, kScores, Visible::kAll>>(
                call, sm_count, stream);
        }
    }
    return launch_config<FwdConfig<Element, kHeadDim, kHeadDimV, kScores>>(call, sm_count, stream);
}

inline bool changes_scores(const FwdParams& call) {
    return call.softcap > 0.0f || call.alibi_slopes != nullptr || call.bias != nullptr ||
           !(call.softmax_scale > 0.0f);
}

template <int kHeadDim, int kHeadDimV>
Status launch_fwd(FwdParams call, int sm_count, cudaStream_t stream) {
    const auto with_element = [&]<class Element>(Element) {
        return changes_scores(call) ? launch_scores<Element, kHeadDim, kHeadDimV, Scores::kChange>(
                                          call, sm_count, stream)
                                    : launch_scores<Element, kHeadDim, kHeadDimV, Scores::kPlain>(
                                          call, sm_count, stream);
    };
    return call.dtype == Dtype::kFloat16 ? with_element(__half{}) : with_element(__nv_bfloat16{});
}

}  // namespace limelight::sm90
