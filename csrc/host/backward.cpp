// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <array>
#include <iterator>

#include "host/check.h"
#include "host/derive.h"
#include "host/select.h"
#include "limelight/limelight.h"
#include "sm80/bwd_tiles.h"
#include "sm80/launch.h"

namespace limelight {

namespace {

using LaunchBwd = Status (*)(BwdParams, cudaStream_t);

struct Sm80Row {
    int headdim;
    const char* name;
    LaunchBwd large;
    LaunchBwd small;
};

template <int kHeadDim>
constexpr Sm80Row sm80_row(const char* name) {
    return {kHeadDim, name, sm80::launch_bwd<kHeadDim, sm80::Tiles::kLarge>,
            sm80::launch_bwd<kHeadDim, sm80::Tiles::kSmall>};
}

constexpr Sm80Row kSm80Rows[] = {
    sm80_row<32>("sm80_bwd_hdim32"),   sm80_row<64>("sm80_bwd_hdim64"),
    sm80_row<96>("sm80_bwd_hdim96"),   sm80_row<128>("sm80_bwd_hdim128"),
    sm80_row<192>("sm80_bwd_hdim192"), sm80_row<256>("sm80_bwd_hdim256")};

constexpr int kRows = std::size(kSm80Rows);

std::array<KernelInfo, 2 * kRows> describe_kernels() {
    std::array<KernelInfo, 2 * kRows> infos{};
    for (int i = 0; i < 2 * kRows; ++i) {
        const auto tiles = i < kRows ? sm80::Tiles::kLarge : sm80::Tiles::kSmall;
        const Sm80Row& row = kSm80Rows[i % kRows];
        const sm80::BwdTile tile = sm80::find_bwd_tile(row.headdim, tiles);
        infos[i] = {row.name,
                    "backward",
                    "sm80",
                    tile.headdim,
                    tile.other_rows,
                    tile.own_rows,
                    tile.warps,
                    tile.stages,
                    static_cast<int32_t>(sm80::smem_bytes(tile)),
                    tiles == sm80::Tiles::kLarge ? "large" : "small"};
    }
    return infos;
}

// Rows that a contiguous lse of the call holds.
int64_t statistics_rows(const AttentionBackwardParams& call) {
    return call.cu_seqlens_q != nullptr ? call.heads_q * call.total_q
                                        : int64_t{call.batch} * call.heads_q * call.seqlen_q;
}

BwdParams derive(const AttentionBackwardParams& call) {
    const bool varlen = call.cu_seqlens_q != nullptr;
    BwdParams params{};
    static_cast<FwdParams&>(params) = derive_forward(call);
    static_cast<AttentionGradients&>(params) = call;
    params.delta = call.workspace;
    params.lse_log2 = call.workspace + statistics_rows(call);
    params.statistics_head_stride = varlen ? call.total_q : call.seqlen_q;
    params.statistics_batch_stride = varlen ? 0 : int64_t{call.heads_q} * call.seqlen_q;
    return params;
}

}  // namespace

Status attention_backward(const AttentionBackwardParams& call, CUstream_st* stream) {
    for (const auto check : {check_backward, check_sm80_backward}) {
        if (const Status status = check(call); !status.ok()) {
            return status;
        }
    }
    if (call.batch == 0 && call.dbias == nullptr) {
        return {};
    }
    sm80::Tiles tiles;
    if (const Status status = select_sm80_tiles(&tiles); !status.ok()) {
        return status;
    }
    const BwdParams params = derive(call);
    if (call.batch > 0 && call.seqlen_q > 0) {
        const auto prepare = tiles == sm80::Tiles::kLarge
                                 ? sm80::launch_bwd_prepare<sm80::Tiles::kLarge>
                                 : sm80::launch_bwd_prepare<sm80::Tiles::kSmall>;
        if (const Status status = prepare(params, stream); !status.ok()) {
            return status;
        }
    }
    const int headdim = std::max(call.headdim, call.headdim_v);
    return select_launch(kSm80Rows, headdim, tiles)(params, stream);
}

size_t attention_backward_workspace(const AttentionBackwardParams& call) {
    return 2 * sizeof(float) * static_cast<size_t>(statistics_rows(call));
}

const KernelInfo* attention_backward_kernels(int* count) {
    static const std::array<KernelInfo, 2 * kRows> infos = describe_kernels();
    *count = static_cast<int>(infos.size());
    return infos.data();
}

}  // namespace limelight
