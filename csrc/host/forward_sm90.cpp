// SPDX-License-Identifier: BSD-3-Clause
#include "host/forward_sm90.h"

#include <algorithm>
#include <iterator>

#include "decode/launch.h"
#include "host/derive.h"
#include "sm90/combine_splits.h"
#include "sm90/launch.h"

namespace limelight {

namespace {

using Launch = Status (*)(FwdParams, const sm90::WorkPlan&, cudaStream_t);

struct Row {
    const char* name;
    int headdim;
    int headdim_v;
    Launch launch;
};

template <int kHeadDim, int kHeadDimV>
constexpr Row row(const char* name) {
    return {name, kHeadDim, kHeadDimV, sm90::launch_fwd<kHeadDim, kHeadDimV>};
}

// A call runs in the first row that holds both head dimensions.
constexpr Row kRows[] = {
    row<64, 64>("sm90_fwd_hdim64"),    row<96, 96>("sm90_fwd_hdim96"),
    row<128, 128>("sm90_fwd_hdim128"), row<192, 128>("sm90_fwd_hdim192_128"),
    row<192, 192>("sm90_fwd_hdim192"), row<256, 256>("sm90_fwd_hdim256"),
};

template <int kHeadDim, int kHeadDimV>
constexpr Row fp8_row(const char* name) {
    return {name, kHeadDim, kHeadDimV, sm90::launch_fwd_fp8<kHeadDim, kHeadDimV>};
}

constexpr Row kFp8Rows[] = {
    fp8_row<64, 64>("sm90_fwd_fp8_hdim64"),
    fp8_row<128, 128>("sm90_fwd_fp8_hdim128"),
    fp8_row<192, 128>("sm90_fwd_fp8_hdim192_128"),
    fp8_row<256, 256>("sm90_fwd_fp8_hdim256"),
};

template <size_t kCount>
const Row* find_in(const Row (&rows)[kCount], const AttentionParams& call) {
    const auto found = std::find_if(std::begin(rows), std::end(rows), [&](const Row& row) {
        return row.headdim >= call.headdim && row.headdim_v >= call.headdim_v;
    });
    return found == std::end(rows) ? nullptr : found;
}

const Row* find_row(const AttentionParams& call) {
    return call.dtype == Dtype::kFloat8E4M3 ? find_in(kFp8Rows, call) : find_in(kRows, call);
}

// The tile that the row's launch takes for the call.
sm90::TileShape tile_shape(const Row& row, const AttentionParams& call) {
    const auto scores = sm90::changes_scores(call) ? sm90::Scores::kChange : sm90::Scores::kPlain;
    if (call.dtype == Dtype::kFloat8E4M3) {
        return {64 * sm90::kFp8Consumers,
                sm90::find_fp8_tile(row.headdim, row.headdim_v, scores).block_kv, row.headdim_v};
    }
    sm90::FwdTile tile =
        sm90::find_fwd_tile(row.headdim, row.headdim_v, scores, sm90::Visible::kAll);
    if (tile.headdim == 0 || !sm90::sees_all(call)) {
        tile = sm90::find_fwd_tile(row.headdim, row.headdim_v, scores);
    }
    return {64 * tile.consumers, tile.block_kv, row.headdim_v};
}

}  // namespace

Status launch_sm90_forward(const AttentionParams& call, const Device& device, cudaStream_t stream) {
    const Row* const row = find_row(call);
    if (row == nullptr) {
        return Status::error(Status::Code::kUnsupported,
                             "headdim %d with headdim_v %d: no sm90 forward kernel holds both",
                             call.headdim, call.headdim_v);
    }
    const sm90::WorkPlan plan = sm90::plan_work(call, tile_shape(*row, call), device.sm_count);
    if (reinterpret_cast<uintptr_t>(call.split_workspace) % 16 != 0) {
        return Status::error(Status::Code::kInvalidArgument,
                             "split_workspace is at %p, allowed: multiples of 16",
                             call.split_workspace);
    }
    const Status status = row->launch(derive_forward(call), plan, stream);
    if (status.ok() && plan.splits > 1) {
        return decode::launch_combine(sm90::combine_call(call, row->headdim_v, plan.splits),
                                      stream);
    }
    return status;
}

size_t sm90_forward_workspace(const AttentionParams& call, const Device& device) {
    const Row* const row = find_row(call);
    if (row == nullptr) {
        return 0;
    }
    const sm90::TileShape tile = tile_shape(*row, call);
    const int splits = sm90::choose_splits(call, tile, sm90::choose_pack_shift(call, tile.block_q),
                                           device.sm_count);
    return splits > 1
               ? static_cast<size_t>(splits * sm90::SplitLayout(call, tile.headdim_v).bytes())
               : 0;
}

std::vector<KernelInfo> describe_sm90_forward() {
    std::vector<KernelInfo> infos;
    for (const Row& row : kRows) {
        const sm90::FwdTile tile =
            sm90::find_fwd_tile(row.headdim, row.headdim_v, sm90::Scores::kPlain);
        infos.push_back({row.name, "forward", "sm90", tile.headdim, 64 * tile.consumers,
                         tile.block_kv, 4 * (1 + tile.consumers), sm90::kStages,
                         static_cast<int32_t>(sm90::smem_bytes(tile)), "hopper"});
    }
    for (const Row& row : kFp8Rows) {
        const sm90::Fp8Tile tile =
            sm90::find_fp8_tile(row.headdim, row.headdim_v, sm90::Scores::kPlain);
        infos.push_back({row.name, "forward", "sm90_fp8", tile.headdim, 64 * sm90::kFp8Consumers,
                         tile.block_kv, 4 * (1 + sm90::kFp8Consumers), sm90::kStages,
                         static_cast<int32_t>(sm90::fp8_smem_bytes(tile)), "hopper"});
    }
    return infos;
}

}  // namespace limelight
