// SPDX-License-Identifier: BSD-3-Clause
#include "limelight/gemm.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "gemm/launch.h"
#include "gemm/params_sm90.h"
#include "gemm/tiles.h"
#include "host/check_gemm.h"
#include "host/device.h"

namespace limelight {

namespace {

using namespace gemm;

using Launch = Status (*)(const GemmParams&, cudaStream_t);

struct Format {
    WeightFormat format;
    Launch gemv;
    Launch flat;
};

template <WeightFormat kFormat>
constexpr Format format_row() {
    return {kFormat, launch_gemv<kFormat>, launch_flat<kFormat>};
}

constexpr Format kFormats[] = {format_row<WeightFormat::k16Bit>(),
                               format_row<WeightFormat::kFloat8E4M3>(),
                               format_row<WeightFormat::kInt4>()};

constexpr const char* kGemvNames[] = {"sm80_gemv_16bit", "sm80_gemv_fp8", "sm80_gemv_int4"};
constexpr const char* kFlatNames[] = {
    "sm80_flat_gemm_16bit_m16", "sm80_flat_gemm_16bit_m64", "sm80_flat_gemm_16bit_m128",
    "sm80_flat_gemm_fp8_m16",   "sm80_flat_gemm_fp8_m64",   "sm80_flat_gemm_fp8_m128",
    "sm80_flat_gemm_int4_m16",  "sm80_flat_gemm_int4_m64",  "sm80_flat_gemm_int4_m128"};

constexpr const char* kFlatSm90Names[] = {"sm90_flat_gemm_16bit_m16", "sm90_flat_gemm_16bit_m64",
                                          "sm90_flat_gemm_16bit_m128"};

constexpr int kKernels = 4 * std::size(kFormats) + std::size(kFlatSm90Tiles);

std::array<KernelInfo, kKernels> describe_kernels() {
    std::array<KernelInfo, kKernels> infos{};
    KernelInfo* info = infos.data();
    for (size_t f = 0; f < std::size(kFormats); ++f) {
        *info++ = {kGemvNames[f], "gemm", "sm80", 0, kGemvMaxM, kGemvRows, kGemvWarps, 2, 0, "all"};
        for (size_t i = 3 * f; i < 3 * f + 3; ++i) {
            const FlatTile& tile = kFlatTiles[i];
            *info++ = {kFlatNames[i],
                       "gemm",
                       "sm80",
                       0,
                       tile.m,
                       kFlatRows,
                       tile.warps_n * tile.warps_m,
                       tile.stages,
                       static_cast<int32_t>(gemm::smem_bytes(tile)),
                       "all"};
        }
    }
    for (size_t i = 0; i < std::size(kFlatSm90Tiles); ++i) {
        const FlatSm90Tile& tile = kFlatSm90Tiles[i];
        *info++ = {kFlatSm90Names[i],
                   "gemm",
                   "sm90",
                   0,
                   tile.m,
                   kFlatRows,
                   9,
                   tile.stages,
                   static_cast<int32_t>(gemm::smem_bytes(tile)),
                   "all"};
    }
    return infos;
}

// Thread blocks of the flat kernel that one multiprocessor holds: by shared memory alone, with the
// tile of the fewest, so that the partition does not depend on m.
int flat_blocks_per_multiprocessor(const Device& device) {
    constexpr size_t kReserved = 1024;  // of every thread block, by the system
    return std::max(1, static_cast<int>(device.smem_per_multiprocessor / (kSmemLimit + kReserved)));
}

// Fewest units worth a thread block of its own: the ring is full once.
constexpr int kLeastUnits = 4;
// k blocks that the warps of a GEMV thread block keep in flight together.
constexpr int kGemvUnits = 2 * kGemvWarps;
constexpr int kGemvBlocksPerMultiprocessor = 2;

// Who works on what; false where the wanted splits do not fit.
bool partition(const FlatGemmParams& call, const Device& device, GemmParams* params) {
    const bool gemv = call.kernel == GemmKernel::kGemv;
    const int64_t rows = weight_rows(call);
    const int tile_rows = gemv ? kGemvRows : kFlatRows;
    params->tiles = static_cast<int32_t>((rows + tile_rows - 1) / tile_rows);
    const int k_block = block_k(call.weight_format);
    params->k_blocks = (call.k + k_block - 1) / k_block;
    const int64_t units = int64_t{params->tiles} * params->k_blocks;
    int64_t blocks = 0;
    if (call.splits > 0) {
        params->pieces = std::min(call.splits, params->k_blocks);
        blocks = int64_t{params->tiles} * params->pieces;
    } else if (gemv) {
        const int wanted = kGemvBlocksPerMultiprocessor * device.sm_count;
        params->pieces =
            std::clamp(wanted / params->tiles, 1, std::max(1, params->k_blocks / kGemvUnits));
        blocks = int64_t{params->tiles} * params->pieces;
    } else {
        const int64_t wave = int64_t{device.sm_count} * flat_blocks_per_multiprocessor(device);
        params->pieces = 0;
        blocks = std::min(wave, (units + kLeastUnits - 1) / kLeastUnits);
    }
    params->blocks = static_cast<int32_t>(std::min<int64_t>(blocks, INT32_MAX));
    const bool sharing = params->pieces != 1;
    return blocks <= (sharing ? kGemmTickets : INT32_MAX);
}

// Whether thread blocks share tiles.
bool needs_workspace(const GemmParams& params) {
    return params.pieces > 1 || (params.pieces == 0 && (params.blocks > params.tiles ||
                                                        params.tiles % params.blocks != 0));
}

size_t workspace_bytes(const FlatGemmParams& call, const GemmParams& params) {
    if (!needs_workspace(params)) {
        return 0;
    }
    const bool gemv = call.kernel == GemmKernel::kGemv;
    const size_t tile =
        gemv ? kGemvRows * kGemvMaxM : kFlatRows * find_flat_tile(call.weight_format, call.m).m;
    return 2 * sizeof(float) * tile * static_cast<size_t>(params.blocks);
}

int log2_of(int value) {
    int log = 0;
    while ((1 << log) < value) {
        ++log;
    }
    return log;
}

// What a tensor map can express: expanded rows (stride 0) are left to the portable kernel.
bool rows_are_apart(const FlatGemmParams& call) {
    return (call.m == 1 || call.x_row_stride > 0) &&
           (weight_rows(call) == 1 || call.weight_row_stride > 0);
}

void derive_scale(const FlatGemmParams& call, GemmParams* params) {
    if (call.weight_format == WeightFormat::kFloat8E4M3 && call.scale_group == 0) {
        params->scale_row_stride = 1;
        params->scale_k_shift = 31;
    } else if (call.scale_group > 0) {
        const bool fp8 = call.weight_format == WeightFormat::kFloat8E4M3;
        params->scale_row_stride = (call.k + call.scale_group - 1) / call.scale_group;
        params->scale_row_shift = fp8 ? log2_of(call.scale_group) : 0;
        params->scale_k_shift = log2_of(call.scale_group);
    }
}

}  // namespace

Status flat_gemm(const FlatGemmParams& call, CUstream_st* stream) {
    if (const Status status = check_flat_gemm(call); !status.ok()) {
        return status;
    }
    if (call.m == 0 || call.n == 0) {
        return {};
    }
    Device device;
    if (const Status status = current_device(&device); !status.ok()) {
        return status;
    }
    if (device.capability < 80) {
        return Status::error(Status::Code::kUnsupported,
                             "compute capability %d.%d: limelight's kernels need 8.0 or newer",
                             device.capability / 10, device.capability % 10);
    }
    GemmParams params{};
    static_cast<FlatGemmParams&>(params) = call;
    if (!partition(call, device, &params)) {
        return Status::error(Status::Code::kUnsupported,
                             "splits is %d: %d tiles of weight in so many pieces are more than %d "
                             "thread blocks; use fewer, or 0",
                             call.splits, params.tiles, kGemmTickets);
    }
    const size_t needed = workspace_bytes(call, params);
    if (needed > 0 && (call.workspace == nullptr || call.workspace_bytes < needed ||
                       reinterpret_cast<uintptr_t>(call.workspace) % 16 != 0)) {
        return Status::error(Status::Code::kInvalidArgument,
                             "workspace: %zu bytes at %p, needed: %zu bytes, 16-byte aligned",
                             call.workspace_bytes, call.workspace, needed);
    }
    if (needed > 0 && call.tickets == nullptr) {
        return Status::error(Status::Code::kInvalidArgument,
                             "tickets must not be null when thread blocks share tiles: pass %d "
                             "zeros",
                             kGemmTickets);
    }
    params.programmatic = call.programmatic && device.capability >= 90;
    derive_scale(call, &params);
    if (call.kernel == GemmKernel::kFlat && call.weight_format == WeightFormat::k16Bit &&
        device.capability == 90 && rows_are_apart(call)) {
        return launch_flat_sm90(params, stream);
    }
    const Format& format = kFormats[static_cast<int>(call.weight_format)];
    return (call.kernel == GemmKernel::kGemv ? format.gemv : format.flat)(params, stream);
}

size_t flat_gemm_workspace(const FlatGemmParams& call) {
    Device device;
    GemmParams params{};
    if (!check_flat_gemm_extents(call).ok() || call.m == 0 || call.n == 0 ||
        !current_device(&device).ok() || !partition(call, device, &params)) {
        return 0;
    }
    return workspace_bytes(call, params);
}

const KernelInfo* flat_gemm_kernels(int* count) {
    static const std::array<KernelInfo, kKernels> infos = describe_kernels();
    *count = static_cast<int>(infos.size());
    return infos.data();
}

}  // namespace limelight
