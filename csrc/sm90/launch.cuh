// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <numeric>

#include "host/launch.h"
#include "host/tensor_map.h"
#include "sm90/fwd.cuh"
#include "sm90/launch.h"
#include "sm90/tensors.h"

namespace limelight::sm90 {

// K and V of the heads of one section of the schedule; L2 holds 50 MB.
constexpr int64_t kSectionBytes = 32 << 20;

// Groups of query heads whose K and V together fit the section, all that share a kv head; each
// split counts as one more.
inline int32_t section_groups(const FwdKernelParams& params) {
    const FwdParams& call = params.call;
    const int64_t head_bytes =
        int64_t{2} * std::max(call.seqlen_k, 1) * (call.headdim + call.headdim_v);
    const int64_t kv_heads = std::max(kSectionBytes / head_bytes, int64_t{1});
    const int64_t all = int64_t{call.cu_seqlens_q != nullptr ? 1 : call.batch} * call.heads_kv;
    return static_cast<int32_t>(std::min(kv_heads, all) * (call.heads_per_kv >> params.pack_shift) *
                                params.splits);
}

inline void set_schedule(FwdKernelParams* params) {
    const FwdParams& call = params->call;
    const int32_t groups = params->num_items / params->q_blocks;
    params->by_q_blocks = Divisor(params->q_blocks);
    params->by_groups = Divisor(params->groups);
    params->by_splits = Divisor(params->splits);
    params->by_heads_per_kv = Divisor(call.heads_per_kv);
    if (call.causal && call.window_left < 0) {  // only a causal edge makes tiles differ in length
        params->section_groups = section_groups(*params);
        params->section_tiles = params->section_groups * params->q_blocks;
        params->by_section_tiles = Divisor(params->section_tiles);
        params->by_section_groups = Divisor(params->section_groups);
        const int32_t last_groups = groups % params->section_groups;
        params->by_last_groups = Divisor(last_groups == 0 ? params->section_groups : last_groups);
    }
}

// Sends the results of items to the workspace.
inline void set_splits(FwdKernelParams* params, int columns) {
    FwdParams& call = params->call;
    if (params->splits > 1) {
        const SplitLayout layout(call, columns);
        params->split_out = static_cast<float*>(call.split_workspace);
        params->split_rows = layout.rows;
        params->lse_split_stride = layout.lse_elements;
        call.lse = params->split_out + params->splits * layout.out_elements;
        call.lse_batch_stride = layout.lse_batch_stride;
        call.lse_head_stride = layout.lse_head_stride;
        call.sink = nullptr;  // counts once, in the combine kernel
    }
}

template <class TileLayout>
Status make_view(const TensorExtents& tensor, int box_rows, TensorView* view) {
    view->head_step = tensor.strides.head != 0;
    view->batch_step = tensor.strides.batch != 0;
    return encode_tensor_map(tensor, {TileLayout::kPanel, box_rows}, &view->map);
}

// Of q and out: boxes of a warpgroup's rows.
template <class TileLayout>
Status make_heads_view(const TensorExtents& tensor, int box_rows, int pack_shift,
                       TensorView* view) {
    view->head_step = tensor.strides.head != 0;
    view->batch_step = tensor.strides.batch != 0;
    return encode_heads_map(tensor, TileLayout::kPanel, 1 << pack_shift, box_rows >> pack_shift,
                            &view->map);
}

// `kernel`: the instantiation for Config.
template <class Config>
Status launch_kernel(void (*kernel)(FwdKernelParams), const FwdParams& call, const WorkPlan& plan,
                     cudaStream_t stream) {
    FwdKernelParams params{};
    params.call = call;
    params.pack_shift = plan.pack_shift;
    params.groups = call.heads_q >> plan.pack_shift;
    params.splits = plan.splits;
    const int64_t q_blocks = count_q_blocks(call, Config::kBlockQ, plan.pack_shift);
    const int64_t tiles =
        q_blocks * params.groups * (call.cu_seqlens_q != nullptr ? 1 : call.batch);
    const int64_t items = tiles * plan.splits;
    if (items > kMostItems) {
        return Status::error(Status::Code::kUnsupported,
                             "the call has %lld tiles in %d splits, allowed: %lld: split the batch",
                             static_cast<long long>(tiles), plan.splits,
                             static_cast<long long>(kMostItems));
    }
    params.num_items = static_cast<int32_t>(items);
    params.q_blocks = static_cast<int32_t>(q_blocks);
    set_schedule(&params);
    set_splits(&params, Config::kHeadDimV);
    const bool paged = call.block_table != nullptr;
    params.gather = gathers(call);
    params.clear_v_tails =
        !params.gather && (call.cu_seqlens_k != nullptr || call.seqused_k != nullptr || paged);
    params.piece_rows = paged ? std::gcd(call.page_size, Config::kBlockKV) : Config::kBlockKV;
    params.pieces = Config::kBlockKV / params.piece_rows;
    params.page_rows = paged ? call.page_size : INT32_MAX;
    params.by_page_rows = Divisor(params.page_rows);
    const Tensors tensors = tensors_of(call);
    params.num_pages =
        paged ? static_cast<uint32_t>(std::min<int64_t>(tensors.k.batch, INT32_MAX)) : 0;
    for (const Status& status :
         {make_heads_view<typename Config::QTile>(tensors.q, Config::kGroupRows, plan.pack_shift,
                                                  &params.q),
          params.gather
              ? Status{}
              : make_view<typename Config::KTile>(tensors.k, params.piece_rows, &params.k),
          params.gather
              ? Status{}
              : make_view<typename Config::VTile>(tensors.v, params.piece_rows, &params.v),
          make_heads_view<typename Config::OTile>(tensors.out, Config::kGroupRows, plan.pack_shift,
                                                  &params.out)}) {
        if (!status.ok()) {
            return status;
        }
    }
    return launch(kernel, std::min<int64_t>(items, plan.sm_count), Config::kThreads,
                  sizeof(typename Config::Smem), params, stream);
}

template <class Config>
Status launch_config(const FwdParams& call, const WorkPlan& plan, cudaStream_t stream) {
    return launch_kernel<Config>(sm90_attention_fwd<Config>, call, plan, stream);
}

template <class Element, int kHeadDim, int kHeadDimV, Scores kScores>
Status launch_scores(const FwdParams& call, const WorkPlan& plan, cudaStream_t stream) {
    constexpr bool kHasAll = find_fwd_tile(kHeadDim, kHeadDimV, kScores, Visible::kAll).headdim > 0;
    if constexpr (kHasAll) {
        if (sees_all(call)) {
            return launch_config<FwdConfig<Element, kHeadDim, kHeadDimV, kScores, Visible::kAll>>(
                call, plan, stream);
        }
    }
    return launch_config<FwdConfig<Element, kHeadDim, kHeadDimV, kScores>>(call, plan, stream);
}

template <int kHeadDim, int kHeadDimV>
Status launch_fwd(FwdParams call, const WorkPlan& plan, cudaStream_t stream) {
    const auto with_element = [&]<class Element>(Element) {
        return changes_scores(call) ? launch_scores<Element, kHeadDim, kHeadDimV, Scores::kChange>(
                                          call, plan, stream)
                                    : launch_scores<Element, kHeadDim, kHeadDimV, Scores::kPlain>(
                                          call, plan, stream);
    };
    return call.dtype == Dtype::kFloat16 ? with_element(__half{}) : with_element(__nv_bfloat16{});
}

}  // namespace limelight::sm90
