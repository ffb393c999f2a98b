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
    const int64_t all = int64_t{params.batch} * params.heads_kv;
    return static_cast<int32_t>(std::min(kv_heads, all) * params.heads_per_kv);
}

template <class TileLayout>
Status make_view(const TensorExtents& tensor, int box_rows, TensorView* view) {
    view->head_step = tensor.strides.head != 0;
    view->batch_step = tensor.strides.batch != 0;
    return encode_tensor_map(tensor, TileLayout::kPanel, box_rows, &view->map);
}

template <class Config>
Status launch_config(const FwdParams& call, int sm_count, cudaStream_t stream) {
    FwdKernelParams params{};
    params.call = call;
    params.call.num_q_blocks = ceil_div(call.seqlen_q, Config::kBlockQ);
    const int64_t tiles = int64_t{params.call.num_q_blocks} * call.heads_q * call.batch;
    constexpr int64_t kMaxTiles = 1 << 30;
    if (tiles > kMaxTiles) {
        return Status::error(Status::Code::kUnsupported,
                             "the call has %lld tiles, allowed: %lld: split the batch",
                             static_cast<long long>(tiles), static_cast<long long>(kMaxTiles));
    }
    params.num_tiles = static_cast<int32_t>(tiles);
    // Only with a causal edge do tiles differ in length.
    params.heads_per_section = call.causal && call.window_left < 0 ? section_heads(call) : 0;
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
    return launch(sm90_attention_fwd<Config>, std::min<int64_t>(tiles, sm_count), Config::kThreads,
                  sizeof(typename Config::Smem), params, stream);
}

template <int kHeadDim, int kHeadDimV>
Status launch_fwd(FwdParams params, int sm_count, cudaStream_t stream) {
    const bool change = params.softcap > 0.0f || params.alibi_slopes != nullptr ||
                        params.bias != nullptr || !(params.softmax_scale > 0.0f);
    const auto with_element = [&]<class Element>(Element) {
        return change ? launch_config<FwdConfig<Element, kHeadDim, kHeadDimV, Scores::kChange>>(
                            params, sm_count, stream)
                      : launch_config<FwdConfig<Element, kHeadDim, kHeadDimV, Scores::kPlain>>(
                            params, sm_count, stream);
    };
    return params.dtype == Dtype::kFloat16 ? with_element(__half{}) : with_element(__nv_bfloat16{});
}

}  // namespace limelight::sm90
