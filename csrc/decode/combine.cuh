// SPDX-License-Identifier: BSD-3-Clause
// Partial results of the same rows over different keys, and their merge by log-sum-exp.
#pragma once

#include "arch/e4m3.cuh"
#include "arch/math.cuh"
#include "decode/schedule.cuh"

namespace limelight {

// Of one row over some keys: the base-2 logit that everything is relative to (-inf: no key seen),
// the sum of P as it was rounded for P V, and the sum before rounding.
struct RowStatistics {
    float top = -INFINITY;
    float rounded = 0.0f;
    float exact = 0.0f;
};

// Adds a partial to a state. The order of the calls is the order of the sum; every rounding is
// written out, so that the same calls give the same bits wherever they are made.
LIMELIGHT_DEVICE void fold(RowStatistics& state, float4& out, const RowStatistics& partial,
                           const float4& partial_out) {
    const float top = fmaxf(state.top, partial.top);
    const float base = top == -INFINITY ? 0.0f : top;
    const float keep = exp2_approx(state.top - base);
    const float add = exp2_approx(partial.top - base);
    state.top = top;
    state.rounded = __fmaf_rn(partial.rounded, add, __fmul_rn(state.rounded, keep));
    state.exact = __fmaf_rn(partial.exact, add, __fmul_rn(state.exact, keep));
    out.x = __fmaf_rn(partial_out.x, add, __fmul_rn(out.x, keep));
    out.y = __fmaf_rn(partial_out.y, add, __fmul_rn(out.y, keep));
    out.z = __fmaf_rn(partial_out.z, add, __fmul_rn(out.z, keep));
    out.w = __fmaf_rn(partial_out.w, add, __fmul_rn(out.w, keep));
}

// The factor that normalises a row's O, and its log-sum-exp; `sink` in base 2, -inf for none.
struct RowResult {
    float factor;
    float lse;

    LIMELIGHT_DEVICE RowResult(const RowStatistics& row, float sink) {
        const bool empty = row.top == -INFINITY && row.exact == 0.0f;  // a NaN row keeps its NaN
        const float top = fmaxf(row.top, sink);
        const float weight = exp2_approx(row.top - top);
        const float sink_weight = exp2_approx(sink - top);
        factor = empty ? 0.0f : weight / (row.rounded * weight + sink_weight);
        lse = empty ? -INFINITY : (top + log2f(row.exact * weight + sink_weight)) * kLn2;
    }
};

// One M tile's rows in q, out and lse.
struct TileRows {
    int64_t q_row;
    int64_t q_batch;
    int batch;
    int head_kv;
    int first;   // packed row of the tile's first
    int count;   // rows of the tile that exist
    int tokens;  // tokens that take part: the rows of others get 0 and -inf

    LIMELIGHT_DEVICE TileRows(const DecodeCall& call, const Sequence& sequence, int batch, int head,
                              int m_tile)
        : q_row(sequence.q_row),
          q_batch(sequence.q_batch),
          batch(batch),
          head_kv(head),
          first(m_tile * call.plan.tile_rows),
          count(min(call.plan.tile_rows, sequence.q_extent * call.heads_per_kv - first)),
          tokens(sequence.seqlen_q) {}
};

// Writes four columns of a row of the result; the row's first thread writes its lse.
LIMELIGHT_DEVICE void write_result(const DecodeCall& call, const TileRows& rows, int row,
                                   int column, const RowStatistics& statistics, const float4& out) {
    const int packed = rows.first + row;
    const int token = packed / call.heads_per_kv;
    const int head = rows.head_kv * call.heads_per_kv + packed % call.heads_per_kv;
    const bool used = token < rows.tokens;
    const RowResult result(statistics, call.sink == nullptr ? -INFINITY : call.sink[head] * kLog2e);
    if (column == 0) {
        call.lse[rows.q_batch * call.lse_batch_stride + head * call.lse_head_stride + rows.q_row +
                 token] = used ? result.lse : -INFINITY;
    }
    if (column >= call.headdim_v) {
        return;
    }
    float factor = result.factor;
    if (call.kv_dtype == Dtype::kFloat8E4M3) {
        factor *= kE4m3HalfScale;
        if (call.v_descale != nullptr) {
            factor *= call.v_descale[rows.batch * call.v_descale_strides.batch +
                                     rows.head_kv * call.v_descale_strides.head];
        }
    }
    uint2 packed_out = {0u, 0u};
    if (used && call.dtype == Dtype::kFloat16) {
        packed_out = {pack2(out.x * factor, out.y * factor, __half{}),
                      pack2(out.z * factor, out.w * factor, __half{})};
    } else if (used) {
        packed_out = {pack2(out.x * factor, out.y * factor, __nv_bfloat16{}),
                      pack2(out.z * factor, out.w * factor, __nv_bfloat16{})};
    }
    uint16_t* const to = static_cast<uint16_t*>(call.out) + rows.q_batch * call.out_strides.batch +
                         (rows.q_row + token) * call.out_strides.row +
                         head * call.out_strides.head + column;
    *reinterpret_cast<uint2*>(to) = packed_out;
}

// Partial results in the workspace. Loads and stores bypass L1, which is not coherent.
template <int kHeadDim>
struct Slots {
    float* out;
    float4* statistics;
    int slots;
    int rows;  // of a slot

    LIMELIGHT_DEVICE explicit Slots(const DecodeCall& call)
        : out(call.slot_out),
          statistics(call.slot_statistics),
          slots(call.slots),
          rows(call.slot_rows) {}

    // `side` 0 or 1: a state that is read and written in the same pass keeps its statistics on
    // alternating sides, because several threads read those of one row.
    LIMELIGHT_DEVICE void load(int64_t slot, int side, int row, int column, RowStatistics& s,
                               float4& o) const {
        const float4 packed = __ldcg(statistics + (side * int64_t{slots} + slot) * rows + row);
        s = {packed.x, packed.y, packed.z};
        o = __ldcg(reinterpret_cast<const float4*>(out + (slot * rows + row) * kHeadDim + column));
    }
    LIMELIGHT_DEVICE void store(int64_t slot, int side, int row, int column, const RowStatistics& s,
                                const float4& o) const {
        if (column == 0) {
            __stcg(statistics + (side * int64_t{slots} + slot) * rows + row,
                   float4{s.top, s.rounded, s.exact, 0.0f});
        }
        __stcg(reinterpret_cast<float4*>(out + (slot * rows + row) * kHeadDim + column), o);
    }
};

// Where the result of a piece goes.
enum class Deliver { kResult, kSlot, kFoldIntoSlot, kFoldIntoResult };

// A thread block's part of a tile: units [begin, end) of it.
struct Share {
    int units;
    int begin;
    int end;
    bool begins;  // the tile begins in this thread block
    bool whole;   // and stays there, whatever its length

    LIMELIGHT_DEVICE Share(const DecodeCall& call, const WorkCursor& work, int units)
        : units(units), begins(work.tile_start >= work.first) {
        // A call longer than it said has more units than slots; whole tiles give the same bits.
        whole = call.plan.whole_tiles || work.alone() ||
                (call.plan.piece_per_unit && work.header.total > call.slots);
        begin = static_cast<int>(max(work.first, work.tile_start) - work.tile_start);
        end = static_cast<int>(min(work.last, work.tile_start + units) - work.tile_start);
        if (whole) {
            begin = 0;
            end = begins ? units : 0;
        }
    }

    LIMELIGHT_DEVICE int pieces(bool by_unit) const {
        return by_unit ? end - begin : min(end - begin, 1);
    }
    // Whether results go through slots that the last thread block of the tile merges.
    LIMELIGHT_DEVICE bool partial(bool by_unit) const {
        return !whole && (by_unit || end - begin < units);
    }
    LIMELIGHT_DEVICE Deliver deliver(bool by_unit, int piece) const {
        if (partial(by_unit)) {
            return Deliver::kSlot;
        }
        if (!by_unit) {
            return Deliver::kResult;
        }
        return piece + 1 < units ? Deliver::kFoldIntoSlot : Deliver::kFoldIntoResult;
    }
    LIMELIGHT_DEVICE int64_t slot(bool by_unit, const WorkCursor& work, int piece) const {
        if (by_unit) {
            return whole ? blockIdx.x : work.tile_start + begin + piece;
        }
        return 2 * int64_t{blockIdx.x} + (begins ? 1 : 0);
    }
};

// Whether this thread block is the last of `expected` to come here; the partials that the others
// wrote before are then visible. Resets the ticket.
LIMELIGHT_DEVICE bool last_to_arrive(int32_t* ticket, int expected, int& shared_flag) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        const bool last = atomicAdd(ticket, 1) == expected - 1;
        if (last) {
            atomicExch(ticket, 0);
        }
        __threadfence();
        shared_flag = last;
    }
    __syncthreads();
    return shared_flag != 0;
}

}  // namespace limelight
