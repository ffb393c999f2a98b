// SPDX-License-Identifier: BSD-3-Clause
#include "host/select_decode.h"

#include <array>

#include "host/select.h"
#include "sm80/launch_decode.h"

namespace limelight {

namespace {

struct Sm80Row {
    int headdim;
    const char* name;
    const char* op;
    LaunchDecode large;
    LaunchDecode small;

    LaunchDecode launch(sm80::Tiles tiles) const {
        return tiles == sm80::Tiles::kLarge ? large : small;
    }
};

template <int kHeadDim>
constexpr Sm80Row sm80_row(const char* name) {
    return {kHeadDim, name, "decode", sm80::launch_decode<kHeadDim, sm80::Tiles::kLarge>,
            sm80::launch_decode<kHeadDim, sm80::Tiles::kSmall>};
}

constexpr Sm80Row kSm80Rows[] = {
    sm80_row<64>("sm80_decode_hdim64"), sm80_row<128>("sm80_decode_hdim128"),
    sm80_row<192>("sm80_decode_hdim192"), sm80_row<256>("sm80_decode_hdim256")};

// Keys and values in the same rows of the cache.
constexpr Sm80Row kMlaRow = {sm80::kMlaHeadDim, "sm80_decode_mla", "decode_mla",
                             sm80::launch_decode_mla<sm80::Tiles::kLarge>,
                             sm80::launch_decode_mla<sm80::Tiles::kSmall>};

constexpr sm80::Tiles kAllTiles[] = {sm80::Tiles::kLarge, sm80::Tiles::kSmall};
constexpr int kInfos = std::size(kAllTiles) * (std::size(kSm80Rows) + 1);

std::array<KernelInfo, kInfos> describe_kernels() {
    std::array<KernelInfo, kInfos> infos{};
    auto* info = infos.data();
    const auto add = [&](const Sm80Row& row, sm80::Tiles tiles, int rows, int block_kv, int warps,
                         int stages, size_t smem_bytes) {
        *info++ = {row.name,
                   row.op,
                   "sm80",
                   row.headdim,
                   rows,
                   block_kv,
                   warps,
                   stages,
                   static_cast<int32_t>(smem_bytes),
                   tiles == sm80::Tiles::kLarge ? "large" : "small"};
    };
    for (const auto tiles : kAllTiles) {
        for (const Sm80Row& row : kSm80Rows) {
            const auto tile = sm80::find_decode_tile(row.headdim, tiles, sm80::kManyRows);
            add(row, tiles, tile.rows, tile.block_kv, sm80::decode_warps(tile), tile.slots / 2,
                sm80::smem_bytes(tile));
        }
        const sm80::MlaTile tile = sm80::find_mla_tile(tiles, false);
        add(kMlaRow, tiles, tile.rows, tile.block_kv, tile.warps, tile.slots,
            sm80::smem_bytes(tile));
    }
    return infos;
}

}  // namespace

Status select_decode(int headdim, bool few_rows, ChosenDecode* chosen) {
    sm80::Tiles tiles;
    if (const Status status = select_sm80_tiles(&tiles); !status.ok()) {
        return status;
    }
    for (const Sm80Row& row : kSm80Rows) {
        if (row.headdim >= headdim) {
            const auto tile = sm80::find_decode_tile(row.headdim, tiles,
                                                     few_rows ? sm80::kFewRows : sm80::kManyRows);
            *chosen = {row.launch(tiles), tile.rows, tile.headdim, sm80::smem_bytes(tile)};
            return {};
        }
    }
    const sm80::MlaTile tile = sm80::find_mla_tile(tiles, few_rows);
    *chosen = {kMlaRow.launch(tiles), tile.rows, sm80::kMlaHeadDimV, sm80::smem_bytes(tile)};
    return {};
}

const KernelInfo* attention_decode_kernels(int* count) {
    static const std::array<KernelInfo, kInfos> infos = describe_kernels();
    *count = static_cast<int>(infos.size());
    return infos.data();
}

}  // namespace limelight
