// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>

#include "decode/launch.h"
#include "decode/schedule_layout.h"
#include "host/check.h"
#include "host/derive.h"
#include "host/device.h"
#include "host/select_decode.h"
#include "limelight/decode.h"

namespace limelight {

namespace {

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
    LaunchDecode launch;
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
                             call.attention_chunk,
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
    // One tile for every call, or a row's sums would depend on how many rows there are.
    const int64_t rows = int64_t{params.seqlen_q} * (params.heads_q / params.heads_kv);
    const bool few = rows <= sm80::kFewRows && !params.batch_invariant;
    ChosenDecode chosen;
    if (const Status status =
            select_decode(std::max(params.headdim, params.headdim_v), few, &chosen);
        !status.ok()) {
        return status;
    }
    prepared->launch = chosen.launch;
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

    SchedulePlan& plan = call.plan;
    plan.tile_rows = chosen.rows;
    plan.piece_per_unit = params.batch_invariant;
    plan.whole_tiles = params.num_splits == 1;
    plan.unit_keys = params.batch_invariant ? kInvariantKeys : kBlockKeys;
    plan.min_units = params.batch_invariant || plan.whole_tiles ? 1 : 2;
    plan.ctas_per_tile = params.num_splits > 1 ? params.num_splits : 0;
    constexpr int kReservedBytes = 1024;  // that the driver takes of each thread block's share
    const int resident =
        device.smem_per_multiprocessor / (static_cast<int>(chosen.smem_bytes) + kReservedBytes);
    const int64_t units = most_units(params, plan);
    plan.max_ctas = static_cast<int>(
        std::clamp<int64_t>(ceil_div(units, int64_t{plan.min_units}), 1,
                            int64_t{device.sm_count} * std::clamp(resident, 1, kMostCtasPerSm)));

    plan.key = key_of(call);

    call.slot_rows = static_cast<int>(std::min<int64_t>(plan.tile_rows, rows));
    const int64_t out_bytes = int64_t{4} * call.slot_rows * chosen.slot_columns;
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
    return prepared.launch(call, stream);
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
    return decode::launch_combine({params, nullptr, nullptr, 0}, stream);
}

}  // namespace limelight
