// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <array>
#include <iterator>

#include "decode/launch.h"
#include "decode/schedule_layout.h"
#include "host/check.h"
#include "host/derive.h"
#include "host/device.h"
#include "host/select.h"
#include "limelight/decode.h"
#include "sm80/launch_decode.h"

namespace limelight {

namespace {

using LaunchDecode = Status (*)(const DecodeCall&, cudaStream_t);

struct Sm80Row {
    int headdim;
    const char* name;
    LaunchDecode large;
    LaunchDecode small;
};

template <int kHeadDim>
constexpr Sm80Row sm80_row(const char* name) {
    return {kHeadDim, name, sm80::launch_decode<kHeadDim, sm80::Tiles::kLarge>,
            sm80::launch_decode<kHeadDim, sm80::Tiles::kSmall>};
}

constexpr Sm80Row kSm80Rows[] = {
    sm80_row<64>("sm80_decode_hdim64"), sm80_row<128>("sm80_decode_hdim128"),
    sm80_row<192>("sm80_decode_hdim192"), sm80_row<256>("sm80_decode_hdim256")};
constexpr int kRows = std::size(kSm80Rows);

constexpr int kBlockKeys = 64;       // of work; a multiple of every tile's block_kv
constexpr int kInvariantKeys = 512;  // of a sum that batch_invariant fixes
constexpr int kMostCtasPerSm = 2;
constexpr int64_t kSlotBudget = 64 << 20;  // bytes of partials that batch_invariant may use
constexpr int64_t kAlignment = 256;

int64_t round_up(int64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

template <class T>
T ceil_div(T a, T b) {
    return (a + b - 1) / b;
}

// Everything about a call that extents and options decide.
struct Prepared {
    DecodeCall call;
    sm80::Tiles tiles;
    int headdim;  // of the kernel
    int64_t schedule_bytes;
    int64_t slot_statistics_bytes;
    int64_t slot_out_bytes;

    int64_t workspace_bytes() const {
        const int64_t own = call.schedule == nullptr ? round_up(schedule_bytes) : 0;
        return own + slot_statistics_bytes + slot_out_bytes;
    }
};

// Units of work that a call with these extents can have at most.
int64_t most_units(const DecodeParams& p, const SchedulePlan& plan) {
    const int64_t rows = int64_t{p.seqlen_q} * (p.heads_q / p.heads_kv);
    const int64_t tiles = ceil_div(rows, int64_t{plan.tile_rows}) * p.heads_kv * p.batch;
    return tiles * std::max(ceil_div(p.seqlen_k, plan.unit_keys), 1);
}

// A number that the schedules of different calls differ in (FNV-1a). One query token sees the same
// keys with and without causal.
uint32_t key_of(const DecodeCall& call) {
    const SchedulePlan& plan = call.plan;
    const int32_t parts[] = {call.batch,
                             call.heads_q,
                             call.heads_kv,
                             call.window_behind,
                             call.seqlen_q == 1 ? 0 : call.window_ahead,
                             plan.tile_rows,
                             plan.unit_keys,
                             plan.max_ctas,
                             plan.min_units,
                             plan.ctas_per_tile,
                             plan.whole_tiles,
                             plan.piece_per_unit};
    uint32_t key = 2166136261u;
    for (const int32_t part : parts) {
        key = (key ^ static_cast<uint32_t>(part)) * 16777619u;
    }
    return key;
}

Status prepare(const DecodeParams& params, Prepared* prepared) {
    if (const Status status = select_sm80_tiles(&prepared->tiles); !status.ok()) {
        return status;
    }
    Device device;
    if (const Status status = current_device(&device); !status.ok()) {
        return status;
    }
    DecodeCall& call = prepared->call;
    call = {};
    static_cast<FwdParams&>(call) = derive_forward(params);
    static_cast<DecodeOptions&>(call) = params;
    if (params.batch_invariant) {
        call.unified_max_on = false;
    }

    const int headdim = std::max(params.headdim, params.headdim_v);
    prepared->headdim =
        std::find_if(std::begin(kSm80Rows), std::end(kSm80Rows), [&](const Sm80Row& row) {
            return row.headdim >= headdim;
        })->headdim;
    const int64_t rows = int64_t{params.seqlen_q} * call.heads_per_kv;
    SchedulePlan& plan = call.plan;
    // One tile for every call, or a row's sums would depend on how many rows there are.
    plan.tile_rows =
        rows <= sm80::kFewRows && !params.batch_invariant ? sm80::kFewRows : sm80::kManyRows;
    const sm80::DecodeTile tile =
        sm80::find_decode_tile(prepared->headdim, prepared->tiles, plan.tile_rows);
    plan.piece_per_unit = params.batch_invariant;
    plan.whole_tiles = params.num_splits == 1;
    plan.unit_keys = params.batch_invariant ? kInvariantKeys : kBlockKeys;
    plan.min_units = params.batch_invariant || plan.whole_tiles ? 1 : 2;
    plan.ctas_per_tile = params.num_splits > 1 ? params.num_splits : 0;
    constexpr int kReservedBytes = 1024;  // that the driver takes of each thread block's share
    const int resident = device.smem_per_multiprocessor /
                         (static_cast<int>(sm80::smem_bytes(tile)) + kReservedBytes);
    const int64_t units = most_units(params, plan);
    plan.max_ctas = static_cast<int>(
        std::clamp<int64_t>(ceil_div(units, int64_t{plan.min_units}), 1,
                            int64_t{device.sm_count} * std::clamp(resident, 1, kMostCtasPerSm)));

    plan.key = key_of(call);

    call.slot_rows = static_cast<int>(std::min<int64_t>(plan.tile_rows, rows));
    const int64_t out_bytes = int64_t{4} * call.slot_rows * prepared->headdim;
    int64_t slots = plan.whole_tiles ? 0 : 2 * int64_t{plan.max_ctas};
    if (plan.piece_per_unit) {
        const int64_t fit = kSlotBudget / std::max<int64_t>(out_bytes, 1);
        slots = std::max<int64_t>(plan.max_ctas, std::min(units, plan.whole_tiles ? 0 : fit));
    }
    call.slots = static_cast<int>(slots);
    prepared->schedule_bytes = schedule_bytes(plan.max_ctas, params.batch);
    prepared->slot_statistics_bytes = round_up(2 * slots * call.slot_rows * 16);
    prepared->slot_out_bytes = round_up(slots * out_bytes);
    return {};
}

bool aligned(const void* p) {
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

Status check_workspace(const DecodeParams& params, const Prepared& prepared) {
    const auto wanted = static_cast<size_t>(prepared.workspace_bytes());
    if (wanted > 0 && (params.workspace == nullptr || params.workspace_bytes < wanted ||
                       !aligned(params.workspace))) {
        return Status::error(Status::Code::kInvalidArgument,
                             "workspace has %zu bytes at %p, needed: %zu bytes, 16-byte aligned",
                             params.workspace_bytes, params.workspace, wanted);
    }
    return {};
}

Status check_schedule(const DecodeParams& params, const Prepared& prepared) {
    const auto elements = static_cast<size_t>(prepared.schedule_bytes) / sizeof(int32_t);
    if (params.schedule_elements < elements || !aligned(params.schedule)) {
        return Status::error(Status::Code::kInvalidArgument,
                             "schedule has %zu elements at %p, needed: %zu elements, 16-byte "
                             "aligned, of the same extents, num_splits and batch_invariant",
                             params.schedule_elements, static_cast<void*>(params.schedule),
                             elements);
    }
    return {};
}

std::array<KernelInfo, 2 * kRows> describe_kernels() {
    std::array<KernelInfo, 2 * kRows> infos{};
    for (int i = 0; i < 2 * kRows; ++i) {
        const auto tiles = i < kRows ? sm80::Tiles::kLarge : sm80::Tiles::kSmall;
        const Sm80Row& row = kSm80Rows[i % kRows];
        const sm80::DecodeTile tile = sm80::find_decode_tile(row.headdim, tiles, sm80::kManyRows);
        infos[i] = {row.name,
                    "decode",
                    "sm80",
                    tile.headdim,
                    tile.rows,
                    tile.block_kv,
                    sm80::decode_warps(tile),
                    tile.slots / 2,
                    static_cast<int32_t>(sm80::smem_bytes(tile)),
                    tiles == sm80::Tiles::kLarge ? "large" : "small"};
    }
    return infos;
}

}  // namespace

Status attention_decode(const DecodeParams& params, CUstream_st* stream) {
    if (const Status status = check_decode(params); !status.ok()) {
        return status;
    }
    if (params.batch == 0 || params.seqlen_q == 0) {
        return {};
    }
    Prepared prepared;
    if (const Status status = prepare(params, &prepared); !status.ok()) {
        return status;
    }
    if (const Status status = check_workspace(params, prepared); !status.ok()) {
        return status;
    }
    DecodeCall& call = prepared.call;
    char* memory = static_cast<char*>(params.workspace);
    if (params.schedule == nullptr) {
        call.schedule = reinterpret_cast<int32_t*>(memory);
        memory += round_up(prepared.schedule_bytes);
        if (const Status status = decode::launch_schedule(call, stream); !status.ok()) {
            return status;
        }
    } else if (const Status status = check_schedule(params, prepared); !status.ok()) {
        return status;
    }
    call.slot_statistics = reinterpret_cast<float4*>(memory);
    call.slot_out = reinterpret_cast<float*>(memory + prepared.slot_statistics_bytes);
    return select_launch(kSm80Rows, prepared.headdim, prepared.tiles)(call, stream);
}

Status attention_decode_workspace(const DecodeParams& params, size_t* bytes) {
    *bytes = 0;
    if (const Status status = check_decode_options(params); !status.ok()) {
        return status;
    }
    Prepared prepared;
    if (const Status status = prepare(params, &prepared); !status.ok()) {
        return status;
    }
    *bytes = static_cast<size_t>(prepared.workspace_bytes());
    return {};
}

Status attention_decode_schedule_size(const DecodeParams& params, size_t* elements) {
    *elements = 0;
    if (const Status status = check_decode_options(params); !status.ok()) {
        return status;
    }
    Prepared prepared;
    if (const Status status = prepare(params, &prepared); !status.ok()) {
        return status;
    }
    *elements = static_cast<size_t>(prepared.schedule_bytes) / sizeof(int32_t);
    return {};
}

Status attention_decode_schedule(const DecodeParams& params, CUstream_st* stream) {
    if (const Status status = check_decode_options(params); !status.ok()) {
        return status;
    }
    Prepared prepared;
    if (const Status status = prepare(params, &prepared); !status.ok()) {
        return status;
    }
    if (params.schedule == nullptr) {
        return Status::error(Status::Code::kInvalidArgument, "schedule must not be null");
    }
    if (const Status status = check_schedule(params, prepared); !status.ok()) {
        return status;
    }
    return decode::launch_schedule(prepared.call, stream);
}

Status attention_combine(const CombineParams& params, CUstream_st* stream) {
    constexpr auto kInvalid = Status::Code::kInvalidArgument;
    if (params.splits < 1 || params.batch < 0 || params.seqlen < 0 || params.heads < 0 ||
        params.headdim < 0) {
        return Status::error(kInvalid,
                             "splits is %d, allowed: 1 or more; batch, seqlen, heads and headdim "
                             "are %d, %d, %d, %d, allowed: 0 or more",
                             params.splits, params.batch, params.seqlen, params.heads,
                             params.headdim);
    }
    const bool half = params.dtype == Dtype::kFloat16 || params.dtype == Dtype::kBFloat16;
    if (!half && params.dtype != Dtype::kFloat32) {
        return Status::error(kInvalid, "dtype of out: allowed: float16, bfloat16, float32");
    }
    if (params.partial_dtype != Dtype::kFloat32 && params.partial_dtype != params.dtype) {
        return Status::error(kInvalid, "dtype of partial_out: allowed: float32 or that of out");
    }
    if (int64_t{params.batch} * params.seqlen * params.heads == 0) {
        return {};
    }
    return decode::launch_combine(params, stream);
}

const KernelInfo* attention_decode_kernels(int* count) {
    static const std::array<KernelInfo, 2 * kRows> infos = describe_kernels();
    *count = static_cast<int>(infos.size());
    return infos.data();
}

}  // namespace limelight
