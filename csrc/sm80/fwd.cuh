// SPDX-License-Identifier: BSD-3-Clause
// Attention forward on mma.sync: FlashAttention-2 (Dao, 2023), work split over warps along q.
//
// Grid: one thread block per (batch, head, q block). A warp owns kBlockQ / kWarps rows of q, their
// S, P, O and softmax statistics in registers; warps share K and V in shared memory and exchange
// nothing.
//
//   cp.async   K0 | V0 ........... | K1 ........ | V1 ...       (kStages = 1; more stages load
//   further ahead) tensor          S0 = Q K0^T    |             | O += P0 V0, S1 = ... fp32 |
//   softmax(S0) |
//
// KV blocks are visited from the last to the first. One commit group per load, so at every wait the
// newest 2 * (kStages - 1) groups may still be in flight.
#pragma once

#include "arch/cp_async.cuh"
#include "arch/ldmatrix.cuh"
#include "arch/mma.cuh"
#include "attention/mask.cuh"
#include "attention/softmax.cuh"
#include "sm80/fwd_config.h"

namespace limelight::sm80 {

// One thread's part in copying tiles of a [rows, headdim] slice of a tensor into swizzled shared
// memory: whole rows by neighbouring threads, zeros past the last row and column.
template <class Config>
struct TileLoader {
    using Element = typename Config::Element;
    using Layout = typename Config::Layout;
    static constexpr int kThreadsPerRow = Layout::kGroup;
    static constexpr int kRowsPerPass = Config::kThreads / kThreadsPerRow;
    static_assert(kRowsPerPass % 8 == 0, "a pass keeps the swizzle phase of its rows");

    const Element* source;  // this thread's first chunk of row 0 of its passes
    int64_t row_stride;
    int cols;

    LIMELIGHT_DEVICE TileLoader(const Element* slice, int64_t row_stride, int cols)
        : source(slice + row() * row_stride + chunk() * Layout::kChunkElements),
          row_stride(row_stride),
          cols(cols - chunk() * Layout::kChunkElements) {}

    LIMELIGHT_DEVICE static int row() { return threadIdx.x / kThreadsPerRow; }
    LIMELIGHT_DEVICE static int chunk() { return threadIdx.x % kThreadsPerRow; }

    // Rows [first, first + kRows) of a slice of `rows` rows.
    template <int kRows>
    LIMELIGHT_DEVICE void load(Element* tile, int first, int rows) const {
        static_assert(kRows % kRowsPerPass == 0);
        const uint32_t smem = smem_address(tile) + Layout::offset(row(), chunk());
        const int rows_left = rows - first - row();
        const Element* from = source + first * row_stride;
#pragma unroll
        for (int pass = 0; pass < kRows; pass += kRowsPerPass) {
#pragma unroll
            for (int group = 0; group < Layout::kChunks; group += kThreadsPerRow) {
                cp_async_16(smem + pass * Layout::kPitchBytes + group * 16,
                            from + group * Layout::kChunkElements,
                            pass < rows_left && group * Layout::kChunkElements < cols);
            }
            from += kRowsPerPass * row_stride;
        }
    }
};

// Byte offset of this lane's row address for ldmatrix.x4 over the first 16 rows of a tile: matrices
// in the order (rows 0-7, k 0-7), (rows 8-15, k 0-7), (rows 0-7, k 8-15), (rows 8-15, k 8-15).
template <class Layout>
LIMELIGHT_DEVICE uint32_t lane_offset_rows_first() {
    const int lane = threadIdx.x % kWarpSize;
    return Layout::offset(lane % 16, lane / 16);
}

// The same block, both k halves of rows 0-7 first: B fragments, of K as it lies, of V transposed.
template <class Layout>
LIMELIGHT_DEVICE uint32_t lane_offset_k_first() {
    const int lane = threadIdx.x % kWarpSize;
    return Layout::offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}

// S = Q K^T for the warp's rows: [kTilesM * 16, kBlockKV].
template <class Config>
LIMELIGHT_DEVICE void gemm_qk(float (&s)[Config::kTilesM][Config::kTilesN][4], uint32_t q_rows,
                              uint32_t k_tile) {
    using Layout = typename Config::Layout;
    const uint32_t q_lane = q_rows + lane_offset_rows_first<Layout>();
    const uint32_t k_lane = lane_offset_k_first<Layout>();
#pragma unroll
    for (int m = 0; m < Config::kTilesM; ++m) {
#pragma unroll
        for (int n = 0; n < Config::kTilesN; ++n) {
            s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0.0f;
        }
    }
#pragma unroll
    for (int chunk = 0; chunk < Layout::kChunks; chunk += 2) {
        uint32_t a[Config::kTilesM][4];
#pragma unroll
        for (int m = 0; m < Config::kTilesM; ++m) {
            ldmatrix_x4(a[m], Layout::advance(q_lane, chunk) + m * 16 * Layout::kPitchBytes);
        }
#pragma unroll
        for (int n = 0; n < Config::kTilesN; n += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, k_tile + Layout::advance(k_lane, chunk) + n * 8 * Layout::kPitchBytes);
#pragma unroll
            for (int m = 0; m < Config::kTilesM; ++m) {
                mma_m16n8k16(s[m][n], a[m], b[0], b[1], typename Config::Element{});
                mma_m16n8k16(s[m][n + 1], a[m], b[2], b[3], typename Config::Element{});
            }
        }
    }
}

// O += P V: P from registers, V rows are the k dimension.
template <class Config>
LIMELIGHT_DEVICE void gemm_pv(float (&o)[Config::kTilesM][Config::kTilesD][4],
                              const uint32_t (&p)[Config::kTilesM][Config::kTilesN / 2][4],
                              uint32_t v_tile) {
    using Layout = typename Config::Layout;
    const uint32_t v_lane = lane_offset_k_first<Layout>();
#pragma unroll
    for (int step = 0; step < Config::kTilesN / 2; ++step) {
#pragma unroll
        for (int d = 0; d < Config::kTilesD; d += 2) {
            uint32_t b[4];
            ldmatrix_x4_trans(
                b, v_tile + Layout::advance(v_lane, d) + step * 16 * Layout::kPitchBytes);
#pragma unroll
            for (int m = 0; m < Config::kTilesM; ++m) {
                mma_m16n8k16(o[m][d], p[m][step], b[0], b[2], typename Config::Element{});
                mma_m16n8k16(o[m][d + 1], p[m][step], b[1], b[3], typename Config::Element{});
            }
        }
    }
}

// Row of the sequence that accumulator row r (0 .. 2 * kTilesM - 1) of this lane belongs to.
LIMELIGHT_DEVICE int lane_row(int warp_row, int r) {
    return warp_row + (r / 2) * 16 + (r % 2) * 8 + (threadIdx.x % kWarpSize) / 4;
}
// Column inside a KV block or head of element e of n8 tile n.
LIMELIGHT_DEVICE int lane_column(int n, int e) {
    return n * 8 + (threadIdx.x % 4) * 2 + e % 2;
}

// Calls change(x, row, column) on every score of the warp: row in the sequence, column in the keys.
template <class Config, class Change>
LIMELIGHT_DEVICE void for_each_score(float (&s)[Config::kTilesM][Config::kTilesN][4], int warp_row,
                                     int first_column, Change change) {
#pragma unroll
    for (int m = 0; m < Config::kTilesM; ++m) {
#pragma unroll
        for (int n = 0; n < Config::kTilesN; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                change(s[m][n][e], lane_row(warp_row, 2 * m + e / 2),
                       first_column + lane_column(n, e));
            }
        }
    }
}

// Turns raw products into base-2 logits: scale, softcap, ALiBi, bias.
template <class Config>
LIMELIGHT_DEVICE void change_scores(float (&s)[Config::kTilesM][Config::kTilesN][4],
                                    const FwdParams& params, const Tile& tile, const Mask& mask,
                                    int warp_row, int first_column) {
    using Element = typename Config::Element;
    if (params.softcap > 0.0f) {
        for_each_score<Config>(s, warp_row, first_column, [&](float& x, int, int) {
            x = params.softcap_log2 * tanh_exp2(x * params.softcap_inner);
        });
    } else {
        for_each_score<Config>(s, warp_row, first_column,
                               [&](float& x, int, int) { x *= params.scale_log2; });
    }
    if (params.alibi_slopes != nullptr) {
        const float slope_log2 =
            params.alibi_slopes[tile.batch * params.alibi_batch_stride + tile.head] * kLog2e;
        for_each_score<Config>(s, warp_row, first_column, [&](float& x, int row, int column) {
            x -= slope_log2 * fabsf(static_cast<float>(row + mask.shift - column));
        });
    }
    if (params.bias != nullptr) {
        const int64_t head =
            tile.batch * params.bias_strides.batch + tile.head * params.bias_strides.head;
        const int seqlen_q = mask.seqlen_k - mask.shift;
        for_each_score<Config>(s, warp_row, first_column, [&](float& x, int row, int column) {
            if (row < seqlen_q && column < mask.seqlen_k) {
                const int64_t at =
                    head + row * params.bias_strides.row + column * params.bias_strides.col;
                x += kLog2e *
                     (params.bias_dtype == Dtype::kFloat32
                          ? static_cast<const float*>(params.bias)[at]
                          : static_cast<float>(static_cast<const Element*>(params.bias)[at]));
            }
        });
    }
}

// Hides the keys that a row does not see.
template <class Config>
LIMELIGHT_DEVICE void mask_scores(float (&s)[Config::kTilesM][Config::kTilesN][4], const Mask& mask,
                                  int warp_row, int first_column) {
#pragma unroll
    for (int r = 0; r < 2 * Config::kTilesM; ++r) {
        const int row = lane_row(warp_row, r);
        const int begin = mask.first_column(row) - first_column;
        const int end = mask.end_column(row) - first_column;
#pragma unroll
        for (int n = 0; n < Config::kTilesN; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int column = lane_column(n, e);
                if (column < begin || column >= end) {
                    s[r / 2][n][2 * (r % 2) + e] = -INFINITY;
                }
            }
        }
    }
}

template <class Config>
LIMELIGHT_DEVICE void rescale(float (&o)[Config::kTilesM][Config::kTilesD][4],
                              const float (&factor)[2 * Config::kTilesM]) {
#pragma unroll
    for (int m = 0; m < Config::kTilesM; ++m) {
#pragma unroll
        for (int d = 0; d < Config::kTilesD; ++d) {
            o[m][d][0] *= factor[2 * m];
            o[m][d][1] *= factor[2 * m];
            o[m][d][2] *= factor[2 * m + 1];
            o[m][d][3] *= factor[2 * m + 1];
        }
    }
}

// Rounds O once, turns it in the warp's own rows of shared memory and writes 16 bytes a lane; rows
// past seqlen_q but inside the tensor become zero.
template <class Config>
LIMELIGHT_DEVICE void store_output(const float (&o)[Config::kTilesM][Config::kTilesD][4],
                                   typename Config::Element* q_tile, const FwdParams& params) {
    using Element = typename Config::Element;
    using Layout = typename Config::Layout;
    constexpr int kWarpRows = Config::kTilesM * 16;
    const Tile tile = tile_of_block(params);
    const Sequence sequence = sequence_of(params, tile.batch);
    const int q_begin = tile.q_block * Config::kBlockQ;
    const int warp_first = threadIdx.x / kWarpSize * kWarpRows;
    const int lane = threadIdx.x % kWarpSize;
    char* const bytes = reinterpret_cast<char*>(q_tile);
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 2 * Config::kTilesM; ++r) {
        const int row = lane_row(warp_first, r);
        const bool used = q_begin + row < sequence.seqlen_q;
#pragma unroll
        for (int d = 0; d < Config::kTilesD; ++d) {
            const float* const pair = &o[r / 2][d][2 * (r % 2)];
            *reinterpret_cast<uint32_t*>(bytes + Layout::offset(row, d) + lane % 4 * 4) =
                used ? pack2(pair[0], pair[1], Element{}) : 0u;
        }
    }
    __syncwarp();
    Element* const out =
        static_cast<Element*>(params.out) + sequence.q_batch * params.out_strides.batch +
        (sequence.q_row + q_begin) * params.out_strides.row + tile.head * params.out_strides.head;
    constexpr int kLanesPerRow = Layout::kGroup;
#pragma unroll
    for (int first = 0; first < kWarpRows; first += kWarpSize / kLanesPerRow) {
        const int row = warp_first + first + lane / kLanesPerRow;
#pragma unroll
        for (int group = 0; group < Layout::kChunks; group += kLanesPerRow) {
            const int chunk = group + lane % kLanesPerRow;
            if (q_begin + row < sequence.q_extent &&
                chunk * Layout::kChunkElements < params.headdim_v) {
                *reinterpret_cast<uint4*>(out + row * params.out_strides.row +
                                          chunk * Layout::kChunkElements) =
                    *reinterpret_cast<const uint4*>(bytes + Layout::offset(row, chunk));
            }
        }
    }
}

template <class Config>
LIMELIGHT_DEVICE void store_lse(const float (&lse)[2 * Config::kTilesM], const FwdParams& params) {
    const Tile tile = tile_of_block(params);
    const Sequence sequence = sequence_of(params, tile.batch);
    const int warp_row =
        tile.q_block * Config::kBlockQ + threadIdx.x / kWarpSize * (Config::kTilesM * 16);
    float* const rows = params.lse + sequence.q_batch * params.lse_batch_stride +
                        tile.head * params.lse_head_stride + sequence.q_row;
#pragma unroll
    for (int r = 0; r < 2 * Config::kTilesM; ++r) {
        const int row = lane_row(warp_row, r);
        if (threadIdx.x % 4 == 0 && row < sequence.q_extent) {
            rows[row] = row < sequence.seqlen_q ? lse[r] : -INFINITY;
        }
    }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads)
    sm80_attention_fwd(const __grid_constant__ FwdParams params) {
    using Element = typename Config::Element;
    using Softmax = OnlineSoftmax<Element, Config::kTilesM, Config::kTilesN>;
    extern __shared__ __align__(128) char dynamic_smem[];
    auto& smem = *reinterpret_cast<typename Config::Smem*>(dynamic_smem);

    const Tile tile = tile_of_block(params);
    const Sequence sequence = sequence_of(params, tile.batch);
    const int q_begin = tile.q_block * Config::kBlockQ;
    if (q_begin >= sequence.q_extent) {
        return;
    }
    const int head_kv = tile.head / params.heads_per_kv;
    const auto slice = [](const void* base, const TensorStrides& strides, int64_t batch,
                          int64_t row, int head) {
        return static_cast<const Element*>(base) + batch * strides.batch + row * strides.row +
               head * strides.head;
    };
    const TileLoader<Config> q(
        slice(params.q, params.q_strides, sequence.q_batch, sequence.q_row, tile.head),
        params.q_strides.row, params.headdim);
    const TileLoader<Config> k(
        slice(params.k, params.k_strides, sequence.k_batch, sequence.k_row, head_kv),
        params.k_strides.row, params.headdim);
    const TileLoader<Config> v(
        slice(params.v, params.v_strides, sequence.k_batch, sequence.k_row, head_kv),
        params.v_strides.row, params.headdim_v);

    const int warp_first = threadIdx.x / kWarpSize * (Config::kTilesM * 16);  // inside the tile
    const int warp_row = q_begin + warp_first;                                // inside the sequence
    const Mask mask(params, sequence);
    const int q_end = min(q_begin + Config::kBlockQ, sequence.seqlen_q);
    KvBlocks blocks(mask, q_begin, q_end, Config::kBlockKV);
    if (q_begin >= q_end) {
        blocks.end = blocks.begin;  // only rows past seqused_q: nothing to load
    }

    Ring<Config::kStages> compute, fill_k, fill_v;
    const auto load_k = [&](int block) {
        if (block >= blocks.begin) {
            k.template load<Config::kBlockKV>(smem.k[fill_k.stage], block * Config::kBlockKV,
                                              mask.seqlen_k);
        }
        cp_async_commit();
        fill_k.advance();
    };
    const auto load_v = [&](int block) {
        if (block >= blocks.begin) {
            v.template load<Config::kBlockKV>(smem.v[fill_v.stage], block * Config::kBlockKV,
                                              mask.seqlen_k);
        }
        cp_async_commit();
        fill_v.advance();
    };

    float o[Config::kTilesM][Config::kTilesD][4] = {};
    Softmax softmax;
    const float scale = Config::kChangeScores ? 1.0f : params.scale_log2;

    if (blocks.begin < blocks.end) {
        q.template load<Config::kBlockQ>(smem.q, q_begin, q_end);
        load_k(blocks.end - 1);  // Q travels in the group of the first K
#pragma unroll
        for (int ahead = 1; ahead < Config::kStages; ++ahead) {
            load_v(blocks.end - ahead);
            load_k(blocks.end - 1 - ahead);
        }
    }
    const uint32_t q_rows = smem_address(smem.q) + warp_first * Config::Layout::kPitchBytes;
    constexpr int kInFlight = 2 * (Config::kStages - 1);

    for (int block = blocks.end - 1; block >= blocks.begin; --block) {
        const int first_column = block * Config::kBlockKV;
        float s[Config::kTilesM][Config::kTilesN][4];
        typename Softmax::Probabilities p;
        float shrink[Softmax::kRows];

        cp_async_wait<kInFlight>();
        __syncthreads();  // K of this block has landed; every warp is done with the V slot to fill
        load_v(block - (Config::kStages - 1));

        gemm_qk<Config>(s, q_rows, smem_address(smem.k[compute.stage]));
        if constexpr (Config::kChangeScores) {
            change_scores<Config>(s, params, tile, mask, warp_row, first_column);
        }
        if (!blocks.full(block)) {
            mask_scores<Config>(s, mask, warp_row, first_column);
        }

        cp_async_wait<kInFlight>();
        __syncthreads();  // V of this block has landed; every warp is done with the K slot to fill
        load_k(block - Config::kStages);

        softmax.raise_max(s, scale, shrink);
        rescale<Config>(o, shrink);
        softmax.exponentiate(s, scale, p);
        gemm_pv<Config>(o, p, smem_address(smem.v[compute.stage]));
        compute.advance();
    }

    const float sink = params.sink == nullptr ? -INFINITY : params.sink[tile.head] * kLog2e;
    float normalise[Softmax::kRows];
    float lse[Softmax::kRows];
    softmax.finish(scale, sink, normalise, lse);
    rescale<Config>(o, normalise);
    store_output<Config>(o, smem.q, params);
    store_lse<Config>(lse, params);
}

}  // namespace limelight::sm80
