// SPDX-License-Identifier: BSD-3-Clause
#include "decode/schedule.cuh"

#include "decode/launch.h"
#include "host/launch.h"

namespace limelight::decode {

namespace {

constexpr int kScheduleThreads = 512;

// Sum of x over the lanes up to and with this one.
template <class T>
LIMELIGHT_DEVICE T warp_prefix_sum(T x) {
    const int lane = threadIdx.x % kWarpSize;
#pragma unroll
    for (int step = 1; step < kWarpSize; step *= 2) {
        const T other = __shfl_up_sync(0xffffffffu, x, step);
        x += lane >= step ? other : T{0};
    }
    return x;
}

LIMELIGHT_DEVICE int units_of(const DecodeCall& call, const DecodeSequence& sequence, int m_tile,
                              int tiles) {
    return m_tile < tiles ? TileKeys(call, sequence, m_tile).units(call.plan.unit_keys) : 0;
}

// The sequence and head that hold a unit; tile_start is where the head's first tile begins.
LIMELIGHT_DEVICE ScheduleRecord head_of_unit(const DecodeCall& call, const Schedule& schedule,
                                             int64_t unit) {
    int batch = 0;  // the first sequence that ends after the unit
    for (int end = call.batch; batch < end;) {
        const int middle = (batch + end) / 2;
        if (schedule.ends[middle] > unit) {
            end = middle;
        } else {
            batch = middle + 1;
        }
    }
    ScheduleRecord record{batch, 0, 0, 0, 0};
    if (batch < call.batch) {
        const int64_t begin = batch == 0 ? 0 : schedule.ends[batch - 1];
        const int64_t per_head = (schedule.ends[batch] - begin) / call.heads_kv;
        record.head = static_cast<int32_t>((unit - begin) / per_head);
        record.tile_start = begin + record.head * per_head;
    }
    return record;
}

// One thread block. First the units of each sequence; then their prefix sums; then each thread
// block's start. Where no sequence has a second M tile, as in a decode step, sequences and thread
// blocks take a thread each, else a warp, which adds up M tiles.
__global__ void __launch_bounds__(kScheduleThreads)
    decode_schedule(const __grid_constant__ DecodeCall call) {
    const Schedule schedule(call.schedule, call.plan.max_ctas, call.batch);
    const int lane = threadIdx.x % kWarpSize;
    const int warp = threadIdx.x / kWarpSize;
    constexpr int kWarps = kScheduleThreads / kWarpSize;
    __shared__ int64_t all_tiles[kWarps];
    __shared__ ScheduleHeader header;

    int64_t warp_tiles = 0;
    bool many = false;
    for (int batch = threadIdx.x; batch < call.batch; batch += kScheduleThreads) {
        const DecodeSequence sequence(call, batch);
        const int tiles = m_tiles(call, sequence);
        many = many || tiles > 1;
        warp_tiles += int64_t{tiles} * call.heads_kv;
        schedule.ends[batch] = int64_t{units_of(call, sequence, 0, tiles)} * call.heads_kv;
    }
    warp_tiles = warp_prefix_sum(warp_tiles);
    many = __syncthreads_or(many);
    for (int batch = warp; many && batch < call.batch; batch += kWarps) {
        const DecodeSequence sequence(call, batch);
        const int tiles = m_tiles(call, sequence);
        int64_t units = 0;
        for (int m_tile = lane; m_tile < tiles; m_tile += kWarpSize) {
            units += units_of(call, sequence, m_tile, tiles);
        }
        units = warp_prefix_sum(units);
        if (lane == kWarpSize - 1) {
            schedule.ends[batch] = units * call.heads_kv;
        }
    }
    if (lane == kWarpSize - 1) {
        all_tiles[warp] = warp_tiles;
    }
    for (int cta = threadIdx.x; cta < call.plan.max_ctas; cta += kScheduleThreads) {
        schedule.tickets[cta] = 0;
    }
    __syncthreads();

    if (warp == 0) {
        int64_t before = 0;
        for (int first = 0; first < call.batch; first += kWarpSize) {
            const int batch = first + lane;
            const int64_t sum =
                before + warp_prefix_sum(batch < call.batch ? schedule.ends[batch] : int64_t{0});
            if (batch < call.batch) {
                schedule.ends[batch] = sum;
            }
            before = __shfl_sync(0xffffffffu, sum, kWarpSize - 1);
        }
        int64_t tiles = 0;
        for (int w = 0; w < kWarps; ++w) {
            tiles += all_tiles[w];
        }
        int64_t ctas = before / call.plan.min_units;
        if (call.plan.ctas_per_tile > 0) {
            ctas = min(ctas, tiles * call.plan.ctas_per_tile);
        }
        ctas = max(min(ctas, int64_t{call.plan.max_ctas}), int64_t{1});
        if (lane == 0) {
            header = {before, static_cast<int32_t>(ctas), call.plan.key};
            *schedule.header = header;
        }
    }
    __syncthreads();

    for (int cta = threadIdx.x; !many && cta < header.ctas; cta += kScheduleThreads) {
        schedule.records[cta] = head_of_unit(call, schedule, first_unit(header, cta));
    }
    for (int cta = warp; many && cta < header.ctas; cta += kWarps) {
        const int64_t unit = first_unit(header, cta);
        ScheduleRecord record = head_of_unit(call, schedule, unit);
        if (record.batch < call.batch) {
            int64_t start = record.tile_start;
            const DecodeSequence sequence(call, record.batch);
            const int tiles = m_tiles(call, sequence);
            for (int first = 0; first < tiles; first += kWarpSize) {
                const int units = units_of(call, sequence, first + lane, tiles);
                const int64_t end = start + warp_prefix_sum(int64_t{units});
                const uint32_t after = __ballot_sync(0xffffffffu, end > unit);
                const int found = after == 0 ? kWarpSize - 1 : __ffs(after) - 1;
                if (after != 0) {
                    record.m_tile = first + found;
                    record.tile_start = __shfl_sync(0xffffffffu, end - units, found);
                    break;
                }
                start = __shfl_sync(0xffffffffu, end, kWarpSize - 1);
            }
        }
        if (lane == 0) {
            schedule.records[cta] = record;
        }
    }
}

}  // namespace

Status launch_schedule(const DecodeCall& call, cudaStream_t stream) {
    return launch(decode_schedule, 1, kScheduleThreads, 0, call, stream);
}

}  // namespace limelight::decode
