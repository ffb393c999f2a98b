// SPDX-License-Identifier: BSD-3-Clause
// The gradient of an additive bias: dS summed over what the bias broadcasts.
//
// One thread block owns one tile of dbias and steps over every tile of scores that the bias adds
// to: over all sequences, query heads, blocks of rows, blocks of keys where dbias has extent 1. It
// recomputes S and dP there and sums dS in registers, in one order: equal inputs give equal bits,
// with no workspace and no atomics. Two GEMMs a tile; few thread blocks where little is left of the
// scores' extents.
//
//   cp.async   Q, K | dO, V ... | Q, K of the next step | dO, V of the next step
//   tensor          | S = Q K^T | dP = dO V^T           | fp32: dbias += P * (dP - delta)
#pragma once

#include "sm80/bwd_scores.cuh"

namespace limelight::sm80 {

struct Range {
    int begin;
    int end;
};

// The blocks of scores that one thread block adds up: one of each dimension, or all of a dimension
// that dbias sums over. Grid: (kv block, q block, head, batch) of dbias, the first innermost.
template <class Config>
struct BiasTile {
    Range batches;
    Range heads;
    Range q_blocks;
    Range kv_blocks;

    LIMELIGHT_DEVICE explicit BiasTile(const BwdParams& params) {
        const BiasStrides& strides = params.dbias_strides;
        int index = static_cast<int>(blockIdx.x);
        const auto take = [&index](bool sums, int blocks, int all) {
            const int own = index % blocks;
            index /= blocks;
            return sums ? Range{0, all} : Range{own, own + 1};
        };
        kv_blocks = take(strides.col == 0, params.num_kv_blocks,
                         ceil_div(params.seqlen_k, Config::kOtherRows));
        q_blocks = take(strides.row == 0, params.num_q_blocks,
                        ceil_div(params.seqlen_q, Config::kOwnRows));
        heads = take(strides.head == 0, strides.head == 0 ? 1 : params.heads_q, params.heads_q);
        batches = strides.batch == 0 ? Range{0, params.batch} : Range{index, index + 1};
    }
};

// One tile of scores. Keys are innermost, so that their last block kv_end is found once for a block
// of rows; tiles that no row sees are left out.
struct BiasStep {
    int batch;
    int head;
    int q_block;
    int kv_block;
    int kv_end;

    LIMELIGHT_DEVICE bool same_rows(const BiasStep& other) const {
        return batch == other.batch && head == other.head && q_block == other.q_block;
    }
    LIMELIGHT_DEVICE bool same_keys(const BiasStep& other, int heads_per_kv) const {
        return batch == other.batch && head / heads_per_kv == other.head / heads_per_kv &&
               kv_block == other.kv_block;
    }
};

// Moves to the first tile of the step's rows that somebody sees, or of the rows after them; past
// the last one batch is tile.batches.end.
template <class Config>
LIMELIGHT_DEVICE void open_rows(BiasStep& step, const BwdParams& params,
                                const BiasTile<Config>& tile) {
    while (step.batch < tile.batches.end) {
        const Sequence sequence = sequence_of(params, step.batch);
        const int q_begin = step.q_block * Config::kOwnRows;
        const int q_end = min(q_begin + Config::kOwnRows, sequence.seqlen_q);
        if (step.q_block < tile.q_blocks.end && q_begin < q_end) {
            const KvBlocks seen(Mask(params, sequence, 0), q_begin, q_end, Config::kOtherRows);
            step.kv_block = max(tile.kv_blocks.begin, seen.begin);
            step.kv_end = min(tile.kv_blocks.end, seen.end);
            if (step.kv_block < step.kv_end) {
                return;
            }
        }
        if (++step.q_block >= tile.q_blocks.end) {
            step.q_block = tile.q_blocks.begin;
            if (++step.head == tile.heads.end) {
                step.head = tile.heads.begin;
                ++step.batch;
            }
        }
    }
}

template <class Config>
LIMELIGHT_DEVICE BiasStep step_after(BiasStep step, const BwdParams& params,
                                     const BiasTile<Config>& tile) {
    if (++step.kv_block == step.kv_end) {
        ++step.q_block;
        open_rows(step, params, tile);
    }
    return step;
}

// Sums `tile` over its rows, its columns or both into its first, in one order; the tile is the
// thread block's.
template <class Config>
LIMELIGHT_DEVICE void sum_tile(float (*tile)[Config::kOtherRows + 1], bool rows, bool columns) {
    const int thread = static_cast<int>(threadIdx.x);
    if (rows) {
        if (thread < Config::kOtherRows) {
            float sum = 0.0f;
#pragma unroll 1
            for (int row = 0; row < Config::kOwnRows; ++row) {
                sum += tile[row][thread];
            }
            tile[0][thread] = sum;
        }
        __syncthreads();
    }
    if (columns) {
        if (thread < (rows ? 1 : Config::kOwnRows)) {
            float sum = 0.0f;
#pragma unroll 1
            for (int column = 0; column < Config::kOtherRows; ++column) {
                sum += tile[thread][column];
            }
            tile[thread][0] = sum;
        }
        __syncthreads();
    }
}

template <class Config>
LIMELIGHT_DEVICE void store_bias(const float (&sums)[Config::kTilesM][Config::kTilesN][4],
                                 float (*tile)[Config::kOtherRows + 1], const BwdParams& params) {
    using Element = typename Config::Element;
    const BiasTile<Config> owned(params);
    const BiasStrides& strides = params.dbias_strides;
    const int warp_first = threadIdx.x / kWarpSize * (Config::kTilesM * 16);
#pragma unroll
    for (int m = 0; m < Config::kTilesM; ++m) {
#pragma unroll
        for (int n = 0; n < Config::kTilesN; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                tile[lane_row(warp_first, 2 * m + e / 2)][lane_column(n, e)] = sums[m][n][e];
            }
        }
    }
    __syncthreads();
    const bool sums_rows = strides.row == 0;
    const bool sums_columns = strides.col == 0;
    sum_tile<Config>(tile, sums_rows, sums_columns);
    const int row_begin = sums_rows ? 0 : owned.q_blocks.begin * Config::kOwnRows;
    const int column_begin = sums_columns ? 0 : owned.kv_blocks.begin * Config::kOtherRows;
    const int rows = sums_rows ? 1 : min(Config::kOwnRows, params.seqlen_q - row_begin);
    const int columns = sums_columns ? 1 : min(Config::kOtherRows, params.seqlen_k - column_begin);
    const int64_t begin = owned.batches.begin * strides.batch + owned.heads.begin * strides.head +
                          row_begin * strides.row + column_begin * strides.col;
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * Config::kOtherRows; i += Config::kThreads) {
        const int row = i / Config::kOtherRows;
        const int column = i % Config::kOtherRows;
        if (column < columns) {
            const int64_t at = begin + row * strides.row + column * strides.col;
            if (params.bias_dtype == Dtype::kFloat32) {
                static_cast<float*>(params.dbias)[at] = tile[row][column];
            } else {
                static_cast<Element*>(params.dbias)[at] = Element(tile[row][column]);
            }
        }
    }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads)
    sm80_attention_bwd_bias(const __grid_constant__ BwdParams params) {
    using Element = typename Config::Element;
    using Loader = TileLoader<Config>;
    using SumTile = float[Config::kOwnRows][Config::kOtherRows + 1];
    extern __shared__ __align__(128) char dynamic_smem[];
    auto& smem = *reinterpret_cast<typename Config::Smem*>(dynamic_smem);
    static_assert(sizeof(SumTile) <= sizeof(smem), "dbias leaves through the operands' memory");

    const auto load_rows = [&](Element* to, const void* base, const TensorStrides& strides,
                               int cols, const BiasStep& at) {
        const Sequence sequence = sequence_of(params, at.batch);
        const Loader loader(head_rows(static_cast<const Element*>(base), strides, sequence.q_batch,
                                      sequence.q_row, at.head),
                            strides.row, cols);
        loader.template load<Config::kOwnRows>(to, at.q_block * Config::kOwnRows,
                                               sequence.seqlen_q);
    };
    const auto load_keys = [&](Element* to, const void* base, const TensorStrides& strides,
                               int cols, const BiasStep& at) {
        const Sequence sequence = sequence_of(params, at.batch);
        const Loader loader(head_rows(static_cast<const Element*>(base), strides, sequence.k_batch,
                                      sequence.k_row, at.head / params.heads_per_kv),
                            strides.row, cols);
        loader.template load<Config::kOtherRows>(to, at.kv_block * Config::kOtherRows,
                                                 sequence.seqlen_k);
    };
    const auto load_scores = [&](const BiasStep& at, bool rows, bool keys) {
        if (rows) {
            load_rows(smem.own_score, params.q, params.q_strides, params.headdim, at);
        }
        if (keys) {
            load_keys(smem.other_score[0], params.k, params.k_strides, params.headdim, at);
        }
        cp_async_commit();
    };
    const auto load_values = [&](const BiasStep& at, bool rows, bool keys) {
        if (rows) {
            load_rows(smem.own_value, params.dout, params.dout_strides, params.headdim_v, at);
        }
        if (keys) {
            load_keys(smem.other_value[0], params.v, params.v_strides, params.headdim_v, at);
        }
        cp_async_commit();
    };

    const BiasTile<Config> tile(params);
    BiasStep at{tile.batches.begin, tile.heads.begin, tile.q_blocks.begin, 0, 0};
    open_rows(at, params, tile);
    if (at.batch < tile.batches.end) {
        load_scores(at, true, true);
        load_values(at, true, true);
    }
    const int warp_first = threadIdx.x / kWarpSize * (Config::kTilesM * 16);
    const uint32_t q_rows = smem_address(smem.own_score) + warp_first * Config::Layout::kPitchBytes;
    const uint32_t dout_rows =
        smem_address(smem.own_value) + warp_first * Config::Layout::kPitchBytes;
    float sums[Config::kTilesM][Config::kTilesN][4] = {};

    while (at.batch < tile.batches.end) {
        const int q_begin = at.q_block * Config::kOwnRows;
        const int k_begin = at.kv_block * Config::kOtherRows;
        const Sequence sequence = sequence_of(params, at.batch);
        const Mask mask(params, sequence, 0);
        const int64_t offset = statistics_offset(params, sequence, at.head);
        float2 statistics[2 * Config::kTilesM];
#pragma unroll
        for (int r = 0; r < 2 * Config::kTilesM; ++r) {
            const int row = lane_row(q_begin + warp_first, r);
            const bool used = row < sequence.seqlen_q;
            statistics[r].x = used ? params.lse_log2[offset + row] : INFINITY;
            statistics[r].y = used ? params.delta[offset + row] : 0.0f;
        }
        const BiasStep next = step_after(at, params, tile);
        const bool more = next.batch < tile.batches.end;
        const bool new_rows = more && !next.same_rows(at);
        const bool new_keys = more && !next.same_keys(at, params.heads_per_kv);

        float p[Config::kTilesM][Config::kTilesN][4];
        float ds[Config::kTilesM][Config::kTilesN][4];
        cp_async_wait<1>();
        __syncthreads();  // Q and K have landed
        gemm_rows<Config>(p, q_rows, smem_address(smem.other_score[0]));
        cp_async_wait<0>();
        __syncthreads();  // dO and V have landed; every warp is done with Q and K
        load_scores(next, new_rows, new_keys);
        gemm_rows<Config>(ds, dout_rows, smem_address(smem.other_value[0]));
        __syncthreads();  // every warp is done with dO and V
        load_values(next, new_rows, new_keys);

        const bool whole = sees_whole(mask, sequence.seqlen_q, q_begin, q_begin + Config::kOwnRows,
                                      k_begin, k_begin + Config::kOtherRows);
        probabilities<Config, Rows::kQueries>(
            p, ds, params, at.batch, at.head, mask, whole, q_begin + warp_first, k_begin,
            [&](int m, int, int e) { return statistics[2 * m + e / 2]; });
#pragma unroll
        for (int m = 0; m < Config::kTilesM; ++m) {
#pragma unroll
            for (int n = 0; n < Config::kTilesN; ++n) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    sums[m][n][e] += p[m][n][e] * ds[m][n][e];
                }
            }
        }
        at = next;
    }
    cp_async_wait<0>();
    __syncthreads();  // nobody reads or fills the operands any more
    store_bias<Config>(sums, reinterpret_cast<SumTile&>(dynamic_smem), params);
}

}  // namespace limelight::sm80
