// SPDX-License-Identifier: BSD-3-Clause
// Attention for few query rows a key, on mma.sync: split-KV, the rows of a kv head in one M tile.
//
// Grid: a fixed number of thread blocks, each an even share of all keys (decode/schedule.cuh). The
// keys of a step are divided among groups of warps; a group has its own part of the ring, its own
// softmax statistics and O, and meets the others at the end of a piece only:
//
//   few rows (16)   four groups of one warp, 16 keys of a step each: no barrier but __syncwarp
//   many rows (64)  one group of four warps, 16 rows each, all keys of a step
//
//   cp.async   K0 | V0 | K1 | V1 | K2 ...          kSlots - 1 tiles ahead of the tensor cores
//   tensor          S0 = Q K0^T | O += P0 V0 | S1 ...
#pragma once

#include "arch/shared.cuh"
#include "attention/softmax.cuh"
#include "sm80/decode_rows.cuh"
#include "sm80/kv_stream.cuh"

namespace limelight::sm80 {

// The safe range of a row's largest logit minus unified_max, in base 2: P stays away from the
// overflow and, relative to the row, from the subnormals of half.
constexpr float kUnifiedBelow = -10.0f;
constexpr float kUnifiedAbove = 12.9f;

template <class Config>
LIMELIGHT_DEVICE void sync_group() {
    if constexpr (Config::kGroups == 1) {
        __syncthreads();
    } else {
        __syncwarp();
    }
}

// The tile at work; in shared memory, because it is the same for all threads and mostly idle.
struct TileWork {
    WorkCursor cursor;
    DecodeSequence sequence;
    TileKeys keys;
    TileRows rows;
    KvPlaces places;
    TileScores scores;

    LIMELIGHT_DEVICE TileWork(const DecodeCall& call, const WorkCursor& cursor)
        : cursor(cursor),
          sequence(call, cursor.batch),
          keys(call, sequence, cursor.m_tile),
          rows(call, sequence, cursor.batch, cursor.head, cursor.m_tile),
          places(call, sequence, cursor.batch, keys),
          scores(call, sequence, rows) {}
};

template <class Config>
struct DecodeSmem {
    union {
        struct {
            alignas(128) char ring[Config::kSlots * Config::kSlotBytes];
            alignas(
                16) uint4 q[Config::kQInSmem ? Config::kRowWarps * Config::kStepsD * kWarpSize : 0];
        };
        float staging[Config::kGroups * Config::kRows * Config::kStagingPitch];
    };
    float4 statistics[Config::kGroups * Config::kRows];
    RowScores row_scores[Config::kRows];
    alignas(16) char work[sizeof(TileWork)];
    int last;
};

// P = exp2(s - phi). The softmax's maxima stay this lane's own, for the range check at the end.
template <class Config, class Softmax>
LIMELIGHT_DEVICE void exponentiate_unified(Softmax& softmax, float (&s)[1][Config::kTilesN][4],
                                           float phi, typename Softmax::Probabilities& p) {
    float peak[2] = {softmax.row_max[0], softmax.row_max[1]};
#pragma unroll
    for (int n = 0; n < Config::kTilesN; ++n) {
        peak[0] = fmaxf(peak[0], fmaxf(s[0][n][0], s[0][n][1]));
        peak[1] = fmaxf(peak[1], fmaxf(s[0][n][2], s[0][n][3]));
    }
    softmax.row_max[0] = softmax.row_max[1] = phi;
    softmax.exponentiate(s, 1.0f, p);
    softmax.row_max[0] = peak[0];
    softmax.row_max[1] = peak[1];
}

// Attention of the tile's rows to the keys [first_key, end_key) of those that they see, left in
// shared memory: O and statistics of each group. `unified`: P relative to unified_max; returns
// whether a row left the safe range, which makes the result void.
template <class Config>
LIMELIGHT_DEVICE bool attend(const DecodeCall& call, DecodeSmem<Config>& smem, const TileWork& work,
                             int first_key, int end_key, bool unified) {
    using Softmax = OnlineSoftmax<typename Config::Element, 1, Config::kTilesN>;
    const TileRows& rows = work.rows;
    const int warp = threadIdx.x / kWarpSize;
    const int lane = threadIdx.x % kWarpSize;
    const int group = warp / Config::kRowWarps;
    const int warp_row = warp % Config::kRowWarps * 16;
    const int first_block = max(work.keys.begin, first_key) / Config::kBlockKV;
    const int end_block = ceil_div(min(work.keys.end, end_key), Config::kBlockKV);

    KvStream<Config> stream(call, work.places, rows.head_kv, smem.ring, first_block);
    constexpr int kAhead = Config::kSlots / 2;  // blocks from a K to the K that is loaded meanwhile
#pragma unroll 1
    for (int ahead = 0; ahead < (Config::kSlots - 1) / 2; ++ahead) {
        stream.template issue<true>(first_block + ahead, end_block, 2 * ahead);
        stream.template issue<false>(first_block + ahead, end_block, 2 * ahead + 1);
    }
    if constexpr (Config::kSlots % 2 == 0) {
        stream.template issue<true>(first_block + kAhead - 1, end_block, Config::kSlots - 2);
    }
    const QueryFragments<Config> q(call, rows, smem.q);
    const float product = product_scale<Config>(call, rows);
    const float scale[2] = {product * q.scale[0], product * q.scale[1]};
    const bool active = warp_row < rows.count;

    Softmax softmax;
    float o[1][Config::kTilesD][4] = {};
    const uint32_t group_ring =
        smem_address(smem.ring) + group * Config::kGroupKeys * Config::Layout::kPitchBytes;
    int slot = 0;
    // Waits until the slot has landed; the one before it is free then, and returned to be filled.
    const auto wait = [&] {
        cp_async_wait<Config::kSlots - 2>();
        sync_group<Config>();
        return slot == 0 ? Config::kSlots - 1 : slot - 1;
    };
    const auto advance = [&] { slot = slot + 1 == Config::kSlots ? 0 : slot + 1; };

#pragma unroll 1
    for (int block = first_block; block < end_block; ++block) {
        constexpr bool kOdd = Config::kSlots % 2 == 1;
        stream.template issue<kOdd>(block + kAhead - (kOdd ? 0 : 1), end_block, wait());
        typename Softmax::Probabilities p;
        if (active) {
            float s[1][Config::kTilesN][4];
            gemm_scores<Config>(s, q, group_ring + slot * Config::kSlotBytes);
            finish_scores<Config>(s, call, work.scores, smem.row_scores + warp_row, scale,
                                  block * Config::kBlockKV + group * Config::kGroupKeys);
            if (unified) {
                exponentiate_unified<Config>(softmax, s, call.unified_max * kLog2e, p);
            } else {
                float shrink[2];
                softmax.raise_max(s, 1.0f, shrink);
                if (__any_sync(0xffffffffu, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
                    for (int d = 0; d < Config::kTilesD; ++d) {
                        o[0][d][0] *= shrink[0];
                        o[0][d][1] *= shrink[0];
                        o[0][d][2] *= shrink[1];
                        o[0][d][3] *= shrink[1];
                    }
                }
                softmax.exponentiate(s, 1.0f, p);
            }
        }
        advance();
        stream.template issue<!kOdd>(block + kAhead, end_block, wait());
        if (active) {
            gemm_values<Config>(o, p, group_ring + slot * Config::kSlotBytes);
        }
        advance();
    }
    cp_async_wait<0>();
    __syncthreads();  // the ring and Q are free

    bool left_range = false;
    const uint32_t staging =
        smem_address(smem.staging + (group * Config::kRows + warp_row) * Config::kStagingPitch);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = lane_row(0, r);
        const uint32_t to = staging + row * Config::kStagingPitch * 4 + lane % 4 * 8;
#pragma unroll
        for (int d = 0; d < Config::kTilesD; d += 2) {
            const float* const even = &o[0][d][2 * r];
            const float* const odd = &o[0][d + 1][2 * r];
            if constexpr (Config::kFp8) {
                store_shared(to + d * 32 + lane % 4 * 8, float4{even[0], odd[0], even[1], odd[1]});
            } else {
                store_shared(to + d * 32, float2{even[0], even[1]});
                store_shared(to + d * 32 + 32, float2{odd[0], odd[1]});
            }
        }
        const float rounded = quad_sum(softmax.rounded_sum[r]);
        const float exact = quad_sum(softmax.exact_sum[r]);
        float top = softmax.row_max[r];
        if (unified) {
            const float phi = call.unified_max * kLog2e;
            const float peak = quad_max(top);
            left_range = left_range || (peak != -INFINITY && !(peak - phi >= kUnifiedBelow &&
                                                               peak - phi <= kUnifiedAbove));
            top = peak == -INFINITY ? -INFINITY : phi;
        }
        if (lane % 4 == 0) {
            smem.statistics[group * Config::kRows + warp_row + row] =
                float4{top, rounded, exact, 0.0f};
        }
    }
    return __syncthreads_or(left_range);
}

// Merges the groups of a piece in order and passes the rows on. A thread always has the same rows
// and columns, so that what it left in a slot needs no barrier.
template <class Config>
LIMELIGHT_DEVICE void deliver(const DecodeCall& call, const DecodeSmem<Config>& smem,
                              const TileRows& rows, Deliver what, int64_t slot, int piece) {
    const Slots<Config::kHeadDim> slots(call);
    constexpr int kColumns = Config::kHeadDim / 4;
#pragma unroll 1
    for (int i = threadIdx.x; i < rows.count * kColumns; i += Config::kThreads) {
        const int row = i / kColumns;
        const int column = i % kColumns * 4;
        RowStatistics statistics;
        float4 out = {};
        for (int group = 0; group < Config::kGroups; ++group) {
            const int at = group * Config::kRows + row;
            const float4 s = smem.statistics[at];
            fold(statistics, out, {s.x, s.y, s.z},
                 *reinterpret_cast<const float4*>(smem.staging + at * Config::kStagingPitch +
                                                  column));
        }
        if (what == Deliver::kFoldIntoSlot || what == Deliver::kFoldIntoResult) {
            RowStatistics state;
            float4 sum = {};
            if (piece > 0) {
                slots.load(slot, (piece - 1) % 2, row, column, state, sum);
            }
            fold(state, sum, statistics, out);
            statistics = state;
            out = sum;
        }
        if (what == Deliver::kResult || what == Deliver::kFoldIntoResult) {
            write_result(call, rows, row, column, statistics, out);
        } else {
            slots.store(slot, what == Deliver::kFoldIntoSlot ? piece % 2 : 0, row, column,
                        statistics, out);
        }
    }
    __syncthreads();  // the staging area becomes the ring again
}

// Folds `count` partials of a tile in order: slot first, then first + 1 (step 1), or the first slot
// of each later thread block (step 2), which is first + 1, first + 3, ...
template <class Config>
LIMELIGHT_DEVICE void merge(const DecodeCall& call, const TileRows& rows, int64_t first, int step,
                            int count) {
    const Slots<Config::kHeadDim> slots(call);
    constexpr int kColumns = Config::kHeadDim / 4;
#pragma unroll 1
    for (int i = threadIdx.x; i < rows.count * kColumns; i += Config::kThreads) {
        const int row = i / kColumns;
        const int column = i % kColumns * 4;
        RowStatistics state;
        float4 sum = {};
#pragma unroll 8
        for (int part = 0; part < count; ++part) {
            RowStatistics statistics;
            float4 out;
            const int64_t slot = first + (part == 0 ? 0 : 1 + int64_t{step} * (part - 1));
            slots.load(slot, 0, row, column, statistics, out);
            fold(state, sum, statistics, out);
        }
        write_result(call, rows, row, column, state, sum);
    }
}

// Calls attend(work, first_key, end_key) for every piece of a tile that this thread block has, and
// passes on what it left in shared memory.
template <class Config, class Attend>
LIMELIGHT_DEVICE void walk_tiles(const DecodeCall& call, DecodeSmem<Config>& smem, Attend attend) {
    const Schedule schedule(call.schedule, call.plan.max_ctas, call.batch);
    const int unit_keys = call.plan.unit_keys;
    const bool by_unit = call.plan.piece_per_unit;
    auto& work = *reinterpret_cast<TileWork*>(smem.work);

    for (WorkCursor start(call, schedule); !start.done(call);) {
        if (threadIdx.x == 0) {
            new (&work) TileWork(call, start);
        }
        __syncthreads();
        if (threadIdx.x < Config::kRows) {
            smem.row_scores[threadIdx.x] =
                row_scores(call, work.sequence, work.rows, static_cast<int>(threadIdx.x));
        }
        __syncthreads();
        const Share share(call, work.cursor, work.keys.units(unit_keys));
        for (int piece = 0; piece < share.pieces(by_unit); ++piece) {
            const int first_key = (work.keys.begin / unit_keys + share.begin + piece) * unit_keys;
            const int end_key = first_key + (by_unit ? 1 : share.end - share.begin) * unit_keys;
            attend(work, first_key, end_key);
            deliver<Config>(call, smem, work.rows, share.deliver(by_unit, piece),
                            share.slot(by_unit, work.cursor, piece), piece);
        }
        if (share.partial(by_unit)) {
            const int owner = owner_of(work.cursor.header, work.cursor.tile_start);
            const int64_t tile_end = work.cursor.tile_start + share.units;
            const int ctas = owner_of(work.cursor.header, tile_end - 1) - owner + 1;
            // The owner's ticket belongs to its last tile, which may go on in other blocks.
            if (ctas == 1 || last_to_arrive(schedule.tickets + owner, ctas, smem.last)) {
                const int64_t first = by_unit ? work.cursor.tile_start : 2 * int64_t{owner} + 1;
                merge<Config>(call, work.rows, first, by_unit ? 1 : 2,
                              by_unit ? share.units : ctas);
            }
        }
        start = work.cursor;
        start.advance(call, share.units, m_tiles(call, work.sequence));
        __syncthreads();  // everybody has read the tile
    }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 2)
    sm80_attention_decode(const __grid_constant__ DecodeCall call) {
    extern __shared__ __align__(128) char dynamic_smem[];
    auto& smem = *reinterpret_cast<DecodeSmem<Config>*>(dynamic_smem);
    walk_tiles<Config>(call, smem, [&](const TileWork& work, int first_key, int end_key) {
        bool unified = call.unified_max_on;
        while (attend<Config>(call, smem, work, first_key, end_key, unified)) {
            unified = false;
        }
    });
}

}  // namespace limelight::sm80
