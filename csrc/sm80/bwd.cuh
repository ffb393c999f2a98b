// SPDX-License-Identifier: BSD-3-Clause
// Attention backward on mma.sync, by recomputation: FlashAttention-2 (Dao, 2023) without its
// atomics.
//
// Three kernels follow each other. The first writes two statistics a row of q. The second owns a
// block of keys of one kv head, steps over the rows of q of every head that shares it, and keeps dK
// and dV in registers; S and dP are computed transposed, so that P and dS leave the accumulators as
// A fragments. The third owns a block of q rows, steps over keys and keeps dQ in registers. S and
// dP are computed twice: seven GEMMs instead of five, and in exchange no atomics, no fp32 copy of
// dQ and one order of every sum. Where dK and dV do not fit together, two kernels of the second
// kind run.
//
//   P = exp2(S - lse)   dP = dO V^T   dS = P * (dP - delta)   (scale once, at the end)
//   dV = P^T dO         dK = dS^T Q   dQ = dS K
//
// Dropout with a mask M of zeros and ones: dS = P * (M dP / (1 - p) - delta), dV = (M P)^T dO / (1
// - p).
#pragma once

#include "sm80/bwd_scores.cuh"

namespace limelight::sm80 {

constexpr int kPrepareThreads = 128;
constexpr int kPrepareLanes = 8;  // that share a row
constexpr int kPrepareRows = 64;  // of a thread block

// delta = rowsum(dO * O) - dLSE, and lse in base 2; params.num_q_blocks counts kPrepareRows.
// kTiles only tells the builds for different architectures apart.
template <class Element, Tiles kTiles>
__global__ void __launch_bounds__(kPrepareThreads)
    sm80_attention_bwd_prepare(const __grid_constant__ BwdParams params) {
    const Tile tile = tile_of_block(params);
    const Sequence sequence = sequence_of(params, tile.batch);
    const int lane = threadIdx.x % kPrepareLanes;
    const int64_t statistics = statistics_offset(params, sequence, tile.head);
    const float* const lse_rows = params.lse + sequence.q_batch * params.lse_batch_stride +
                                  tile.head * params.lse_head_stride + sequence.q_row;
    const Element* const out =
        head_rows(static_cast<const Element*>(params.out), params.out_strides, sequence.q_batch,
                  sequence.q_row, tile.head);
    const Element* const dout =
        head_rows(static_cast<const Element*>(params.dout), params.dout_strides, sequence.q_batch,
                  sequence.q_row, tile.head);
#pragma unroll 1
    for (int pass = 0; pass < kPrepareRows; pass += kPrepareThreads / kPrepareLanes) {
        const int row = tile.q_block * kPrepareRows + pass + threadIdx.x / kPrepareLanes;
        const bool used = row < sequence.seqlen_q;
        const float lse = used ? lse_rows[row] : -INFINITY;
        const bool live = lse != -INFINITY;
        float sum = 0.0f;
        for (int column = lane * 8; live && column < params.headdim_v;
             column += kPrepareLanes * 8) {
            const uint4 a =
                *reinterpret_cast<const uint4*>(out + row * params.out_strides.row + column);
            const uint4 b =
                *reinterpret_cast<const uint4*>(dout + row * params.dout_strides.row + column);
            const uint32_t pairs[4][2] = {{a.x, b.x}, {a.y, b.y}, {a.z, b.z}, {a.w, b.w}};
#pragma unroll
            for (const auto& pair : pairs) {
                const float2 o = unpack2(pair[0], Element{});
                const float2 d = unpack2(pair[1], Element{});
                sum += o.x * d.x + o.y * d.y;
            }
        }
        sum = quad_sum(sum);
        sum += __shfl_xor_sync(0xffffffffu, sum, 4);
        if (lane == 0 && row < sequence.q_extent) {
            if (live && params.dlse != nullptr) {
                sum -= params.dlse[sequence.q_batch * params.dlse_batch_stride +
                                   tile.head * params.dlse_head_stride + sequence.q_row + row];
            }
            params.delta[statistics + row] = sum;
            params.lse_log2[statistics + row] = live ? lse * kLog2e : INFINITY;
        }
    }
}

// Steps over the q blocks of every query head that shares a kv head.
struct QCursor {
    int head;
    int block;

    LIMELIGHT_DEVICE void advance(const QBlocks& blocks) {
        if (++block == blocks.end) {
            block = blocks.begin;
            ++head;
        }
    }
};

// dK, dV or both of one block of keys. Grid: (kv block, kv head, batch), blocks of one head next to
// each other; the first see the most rows of causal calls.
template <class Config>
__global__ void __launch_bounds__(Config::kThreads)
    sm80_attention_bwd_keys(const __grid_constant__ BwdParams params) {
    using Element = typename Config::Element;
    using Loader = TileLoader<Config>;
    extern __shared__ __align__(128) char dynamic_smem[];
    auto& smem = *reinterpret_cast<typename Config::Smem*>(dynamic_smem);

    const int index = static_cast<int>(blockIdx.x);
    const int batch_head = index / params.num_kv_blocks;
    const int head_kv = batch_head % params.heads_kv;
    const int batch = batch_head / params.heads_kv;
    const int k_begin = index % params.num_kv_blocks * Config::kOwnRows;
    const Sequence sequence = sequence_of(params, batch);
    if (k_begin >= sequence.k_extent) {
        return;
    }
    const Mask mask(params, sequence, 0);
    const int k_end = min(k_begin + Config::kOwnRows, sequence.seqlen_k);
    const QBlocks blocks(mask, k_begin, k_end, Config::kOtherRows);
    const int first_head = head_kv * params.heads_per_kv;
    const int end_head = k_begin < k_end && blocks.begin < blocks.end
                             ? first_head + params.heads_per_kv
                             : first_head;

    Ring<Config::kStages> filling, computing;
    QCursor fill{first_head, blocks.begin};
    const auto load_next = [&] {
        if (fill.head < end_head) {
            const int q_begin = fill.block * Config::kOtherRows;
            const Loader q(head_rows(static_cast<const Element*>(params.q), params.q_strides,
                                     sequence.q_batch, sequence.q_row, fill.head),
                           params.q_strides.row, params.headdim);
            q.template load<Config::kOtherRows>(smem.other_score[filling.stage], q_begin,
                                                sequence.seqlen_q);
            const Loader dout(
                head_rows(static_cast<const Element*>(params.dout), params.dout_strides,
                          sequence.q_batch, sequence.q_row, fill.head),
                params.dout_strides.row, params.headdim_v);
            dout.template load<Config::kOtherRows>(smem.other_value[filling.stage], q_begin,
                                                   sequence.seqlen_q);
            const int row = threadIdx.x % Config::kOtherRows;
            if (threadIdx.x < 2 * Config::kOtherRows) {
                const bool second = threadIdx.x >= Config::kOtherRows;
                const float* const from = second ? params.delta : params.lse_log2;
                float* const to = second ? smem.delta[filling.stage] : smem.lse_log2[filling.stage];
                cp_async_4(smem_address(to + row),
                           from + statistics_offset(params, sequence, fill.head) + q_begin + row,
                           q_begin + row < sequence.seqlen_q);
            }
            fill.advance(blocks);
        }
        cp_async_commit();
        filling.advance();
    };

    if (first_head < end_head) {
        const Loader k(head_rows(static_cast<const Element*>(params.k), params.k_strides,
                                 sequence.k_batch, sequence.k_row, head_kv),
                       params.k_strides.row, params.headdim);
        k.template load<Config::kOwnRows>(smem.own_score, k_begin, k_end);
        if constexpr (Config::kWantsDs) {
            const Loader v(head_rows(static_cast<const Element*>(params.v), params.v_strides,
                                     sequence.k_batch, sequence.k_row, head_kv),
                           params.v_strides.row, params.headdim_v);
            v.template load<Config::kOwnRows>(smem.own_value, k_begin, k_end);
        }
        load_next();  // K and V travel in the group of the first q block
    }

    float dk[Config::kTilesM][Config::kTilesD][4] = {};
    float dv[Config::kTilesM][Config::kTilesD][4] = {};
    const int warp_first = threadIdx.x / kWarpSize * (Config::kTilesM * 16);
    const uint32_t k_rows = smem_address(smem.own_score) + warp_first * Config::Layout::kPitchBytes;
    const uint32_t v_rows = smem_address(smem.own_value) + warp_first * Config::Layout::kPitchBytes;

    for (QCursor at{first_head, blocks.begin}; at.head < end_head; at.advance(blocks)) {
        cp_async_wait<0>();
        __syncthreads();  // this q block has landed; with two stages the other slot is free
        if constexpr (Config::kStages > 1) {
            load_next();
        }
        const int q_begin = at.block * Config::kOtherRows;
        const uint32_t q_tile = smem_address(smem.other_score[computing.stage]);
        const uint32_t dout_tile = smem_address(smem.other_value[computing.stage]);
        const float* const lse_log2 = smem.lse_log2[computing.stage];
        const float* const delta = smem.delta[computing.stage];

        float p[Config::kTilesM][Config::kTilesN][4];
        float ds[Config::kTilesM][Config::kTilesN][4];
        uint32_t fragments[Config::kTilesM][Config::kTilesN / 2][4];
        gemm_rows<Config>(p, k_rows, q_tile);
        if constexpr (Config::kWantsDs) {
            gemm_rows<Config>(ds, v_rows, dout_tile);
        }
        const bool whole =
            sees_whole(mask, sequence.seqlen_q, q_begin, q_begin + Config::kOtherRows, k_begin,
                       k_begin + Config::kOwnRows);
        const uint32_t keep = probabilities<Config, Rows::kKeys>(
            p, ds, params, batch, at.head, mask, whole, k_begin + warp_first, q_begin,
            [&](int, int n, int e) {
                const int row = lane_column(n, e);
                return make_float2(lse_log2[row], delta[row]);
            });
        if constexpr (Config::kWantsDv) {
            round_fragments<Config>(fragments, p);
            if constexpr (Config::kChangeScores) {
                if (params.dropout_threshold > 0) {
                    drop_fragments<Config>(fragments, keep);
                }
            }
            gemm_columns<Config>(dv, fragments, dout_tile);
        }
        if constexpr (Config::kWantsDk) {
            multiply<Config>(ds, p);
            round_fragments<Config>(fragments, ds);
            gemm_columns<Config>(dk, fragments, q_tile);
        }
        computing.advance();
        if constexpr (Config::kStages == 1) {
            __syncthreads();  // every warp is done with the slot
            load_next();
        }
    }

    const int64_t row = sequence.k_row + k_begin;
    const int used = sequence.seqlen_k - k_begin;
    const int extent = sequence.k_extent - k_begin;
    if constexpr (Config::kWantsDk) {
        scale_gradient<Config>(dk, params.softmax_scale);
        store_rows<Config>(dk, smem.own_score,
                           head_rows(static_cast<Element*>(params.dk), params.dk_strides,
                                     sequence.k_batch, row, head_kv),
                           params.dk_strides.row, used, extent, params.headdim);
    }
    if constexpr (Config::kWantsDv) {
        if constexpr (Config::kChangeScores) {
            scale_gradient<Config>(dv, params.dropout_scale);
        }
        store_rows<Config>(dv, smem.own_value,
                           head_rows(static_cast<Element*>(params.dv), params.dv_strides,
                                     sequence.k_batch, row, head_kv),
                           params.dv_strides.row, used, extent, params.headdim_v);
    }
}

// dQ of one block of q rows. Grid: as the forward kernel's.
template <class Config>
__global__ void __launch_bounds__(Config::kThreads)
    sm80_attention_bwd_queries(const __grid_constant__ BwdParams params) {
    using Element = typename Config::Element;
    using Loader = TileLoader<Config>;
    extern __shared__ __align__(128) char dynamic_smem[];
    auto& smem = *reinterpret_cast<typename Config::Smem*>(dynamic_smem);

    const Tile tile = tile_of_block(params);
    const Sequence sequence = sequence_of(params, tile.batch);
    const int q_begin = tile.q_block * Config::kOwnRows;
    if (q_begin >= sequence.q_extent) {
        return;
    }
    const int head_kv = tile.head / params.heads_per_kv;
    const Mask mask(params, sequence, 0);
    const int q_end = min(q_begin + Config::kOwnRows, sequence.seqlen_q);
    KvBlocks blocks(mask, q_begin, q_end, Config::kOtherRows);
    if (q_begin >= q_end) {
        blocks.end = blocks.begin;  // only rows past seqused_q
    }
    const Loader k(head_rows(static_cast<const Element*>(params.k), params.k_strides,
                             sequence.k_batch, sequence.k_row, head_kv),
                   params.k_strides.row, params.headdim);
    const Loader v(head_rows(static_cast<const Element*>(params.v), params.v_strides,
                             sequence.k_batch, sequence.k_row, head_kv),
                   params.v_strides.row, params.headdim_v);

    Ring<Config::kStages> filling, computing;
    int fill = blocks.begin;
    const auto load_next = [&] {
        if (fill < blocks.end) {
            const int k_begin = fill * Config::kOtherRows;
            k.template load<Config::kOtherRows>(smem.other_score[filling.stage], k_begin,
                                                sequence.seqlen_k);
            v.template load<Config::kOtherRows>(smem.other_value[filling.stage], k_begin,
                                                sequence.seqlen_k);
            ++fill;
        }
        cp_async_commit();
        filling.advance();
    };

    const int warp_first = threadIdx.x / kWarpSize * (Config::kTilesM * 16);
    float2 statistics[2 * Config::kTilesM];
    if (blocks.begin < blocks.end) {
        const Loader q(head_rows(static_cast<const Element*>(params.q), params.q_strides,
                                 sequence.q_batch, sequence.q_row, tile.head),
                       params.q_strides.row, params.headdim);
        q.template load<Config::kOwnRows>(smem.own_score, q_begin, q_end);
        const Loader dout(head_rows(static_cast<const Element*>(params.dout), params.dout_strides,
                                    sequence.q_batch, sequence.q_row, tile.head),
                          params.dout_strides.row, params.headdim_v);
        dout.template load<Config::kOwnRows>(smem.own_value, q_begin, q_end);
        load_next();  // Q and dO travel in the group of the first KV block
        const int64_t offset = statistics_offset(params, sequence, tile.head);
#pragma unroll
        for (int r = 0; r < 2 * Config::kTilesM; ++r) {
            const int row = lane_row(q_begin + warp_first, r);
            const bool used = row < q_end;
            statistics[r].x = used ? params.lse_log2[offset + row] : INFINITY;
            statistics[r].y = used ? params.delta[offset + row] : 0.0f;
        }
    }

    float dq[Config::kTilesM][Config::kTilesD][4] = {};
    const uint32_t q_rows = smem_address(smem.own_score) + warp_first * Config::Layout::kPitchBytes;
    const uint32_t dout_rows =
        smem_address(smem.own_value) + warp_first * Config::Layout::kPitchBytes;

    for (int block = blocks.begin; block < blocks.end; ++block) {
        cp_async_wait<0>();
        __syncthreads();  // this KV block has landed; with two stages the other slot is free
        if constexpr (Config::kStages > 1) {
            load_next();
        }
        const uint32_t k_tile = smem_address(smem.other_score[computing.stage]);
        const uint32_t v_tile = smem_address(smem.other_value[computing.stage]);

        float p[Config::kTilesM][Config::kTilesN][4];
        float ds[Config::kTilesM][Config::kTilesN][4];
        uint32_t fragments[Config::kTilesM][Config::kTilesN / 2][4];
        gemm_rows<Config>(p, q_rows, k_tile);
        gemm_rows<Config>(ds, dout_rows, v_tile);
        probabilities<Config, Rows::kQueries>(
            p, ds, params, tile.batch, tile.head, mask, blocks.full(block), q_begin + warp_first,
            block * Config::kOtherRows,
            [&](int m, int, int e) { return statistics[2 * m + e / 2]; });
        multiply<Config>(ds, p);
        round_fragments<Config>(fragments, ds);
        gemm_columns<Config>(dq, fragments, k_tile);
        computing.advance();
        if constexpr (Config::kStages == 1) {
            __syncthreads();  // every warp is done with the slot
            load_next();
        }
    }

    scale_gradient<Config>(dq, params.softmax_scale);
    store_rows<Config>(dq, smem.own_score,
                       head_rows(static_cast<Element*>(params.dq), params.dq_strides,
                                 sequence.q_batch, sequence.q_row + q_begin, tile.head),
                       params.dq_strides.row, sequence.seqlen_q - q_begin,
                       sequence.q_extent - q_begin, params.headdim);
}

}  // namespace limelight::sm80
