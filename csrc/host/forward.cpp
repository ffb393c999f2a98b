// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <iterator>
#include <vector>

#include "host/check.h"
#include "host/derive.h"
#include "host/device.h"
#include "host/forward_sm90.h"
#include "host/select.h"
#include "limelight/limelight.h"
#include "sm80/launch.h"

namespace limelight {

namespace {

using LaunchFwd = Status (*)(FwdParams, cudaStream_t);

struct Sm80Row {
    int headdim;
    LaunchFwd large;
    LaunchFwd small;
};

template <int kHeadDim>
constexpr Sm80Row sm80_row() {
    return {kHeadDim, sm80::launch_fwd<kHeadDim, sm80::Tiles::kLarge>,
            sm80::launch_fwd<kHeadDim, sm80::Tiles::kSmall>};
}

constexpr Sm80Row kSm80Rows[] = {sm80_row<32>(),  sm80_row<64>(),  sm80_row<96>(),
                                 sm80_row<128>(), sm80_row<192>(), sm80_row<256>()};

constexpr const char* kSm80Names[] = {"sm80_fwd_hdim32",  "sm80_fwd_hdim64",  "sm80_fwd_hdim96",
                                      "sm80_fwd_hdim128", "sm80_fwd_hdim192", "sm80_fwd_hdim256"};

constexpr int kRows = std::size(kSm80Rows);

std::vector<KernelInfo> describe_kernels() {
    std::vector<KernelInfo> infos(2 * kRows);
    for (int i = 0; i < 2 * kRows; ++i) {
        const auto tiles = i < kRows ? sm80::Tiles::kLarge : sm80::Tiles::kSmall;
        const sm80::FwdTile tile =
            sm80::find_fwd_tile(kSm80Rows[i % kRows].headdim, tiles, sm80::Scores::kPlain);
        infos[i] = {kSm80Names[i % kRows],
                    "forward",
                    "sm80",
                    tile.headdim,
                    tile.block_q,
                    tile.block_kv,
                    tile.warps,
                    tile.stages,
                    static_cast<int32_t>(sm80::smem_bytes(tile)),
                    tiles == sm80::Tiles::kLarge ? "large" : "small"};
    }
    const std::vector<KernelInfo> sm90 = describe_sm90_forward();
    infos.insert(infos.end(), sm90.begin(), sm90.end());
    return infos;
}

}  // namespace

Status attention_forward(const AttentionParams& params, CUstream_st* stream) {
    if (const Status status = check_attention(params); !status.ok()) {
        return status;
    }
    const bool fp8 = params.dtype == Dtype::kFloat8E4M3;
    const Status fits_fp8 = fp8 ? check_sm90_fp8_forward(params) : Status{};
    if (!fits_fp8.ok()) {
        return fits_fp8;
    }
    const Status fits_sm90 = fp8 ? Status{} : check_sm90_forward(params);
    const Status fits_sm80 = check_sm80_forward(params);
    if (!fits_sm90.ok() && !fits_sm80.ok()) {
        return params.dropout_p > 0.0 ? fits_sm80 : fits_sm90;
    }
    if (params.batch == 0 || params.seqlen_q == 0) {
        return {};
    }
    Device device;
    if (const Status status = current_device(&device); !status.ok()) {
        return status;
    }
    if (device.capability == 90 && fits_sm90.ok()) {
        return launch_sm90_forward(params, device, stream);
    }
    if (!fits_sm80.ok()) {
        return fits_sm80;
    }
    sm80::Tiles tiles;
    if (const Status status = select_sm80_tiles(&tiles); !status.ok()) {
        return status;
    }
    const int headdim = std::max(params.headdim, params.headdim_v);
    return select_launch(kSm80Rows, headdim, tiles)(derive_forward(params), stream);
}

size_t attention_forward_workspace(const AttentionParams& params) {
    Device device;
    const bool empty = params.batch == 0 || params.seqlen_q == 0 || params.seqlen_k == 0;
    if (empty || params.dropout_p > 0.0 || !check_extents(params).ok() ||
        !current_device(&device).ok() || device.capability != 90) {
        return 0;
    }
    return sm90_forward_workspace(params, device);
}

const KernelInfo* attention_forward_kernels(int* count) {
    static const std::vector<KernelInfo> infos = describe_kernels();
    *count = static_cast<int>(infos.size());
    return infos.data();
}

Status check_device() {
    sm80::Tiles tiles;
    if (const Status status = select_sm80_tiles(&tiles); !status.ok()) {
        return status;
    }
    return tiles == sm80::Tiles::kLarge ? sm80::probe_fwd<64, sm80::Tiles::kLarge>()
                                        : sm80::probe_fwd<64, sm80::Tiles::kSmall>();
}

const char* version() {
    return LIMELIGHT_VERSION;
}
const char* build_architectures() {
    return LIMELIGHT_BUILD_ARCHITECTURES;
}

}  // namespace limelight
