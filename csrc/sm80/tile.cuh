// SPDX-License-Identifier: BSD-3-Clause
// What the forward and the backward kernels share: copies of tiles into swizzled shared memory, the
// two GEMMs on them, where a lane's accumulators lie, terms that depend on positions, stores.
#pragma once

#include "arch/cp_async.cuh"
#include "arch/ldmatrix.cuh"
#include "arch/math.cuh"
#include "arch/mma.cuh"
#include "attention/mask.cuh"
#include "attention/swizzle.cuh"

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

// Row `row` of one head of a tensor.
template <class Element>
LIMELIGHT_DEVICE Element* head_rows(Element* base, const TensorStrides& strides, int64_t batch,
                                    int64_t row, int head) {
    return base + batch * strides.batch + row * strides.row + head * strides.head;
}

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

// S = A B^T over the head dimension (Q K^T in the forward pass): the warp's kTilesM * 16 rows of A
// with the kTilesN * 8 rows of B.
template <class Config>
LIMELIGHT_DEVICE void gemm_rows(float (&s)[Config::kTilesM][Config::kTilesN][4], uint32_t a_rows,
                                uint32_t b_tile) {
    using Layout = typename Config::Layout;
    const uint32_t a_lane = a_rows + lane_offset_rows_first<Layout>();
    const uint32_t b_lane = lane_offset_k_first<Layout>();
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
            ldmatrix_x4(a[m], Layout::advance(a_lane, chunk) + m * 16 * Layout::kPitchBytes);
        }
#pragma unroll
        for (int n = 0; n < Config::kTilesN; n += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, b_tile + Layout::advance(b_lane, chunk) + n * 8 * Layout::kPitchBytes);
#pragma unroll
            for (int m = 0; m < Config::kTilesM; ++m) {
                mma_m16n8k16(s[m][n], a[m], b[0], b[1], typename Config::Element{});
                mma_m16n8k16(s[m][n + 1], a[m], b[2], b[3], typename Config::Element{});
            }
        }
    }
}

// O += P B (P V in the forward pass): P from registers, rows of B are the k dimension.
template <class Config>
LIMELIGHT_DEVICE void gemm_columns(float (&o)[Config::kTilesM][Config::kTilesD][4],
                                   const uint32_t (&p)[Config::kTilesM][Config::kTilesN / 2][4],
                                   uint32_t b_tile) {
    using Layout = typename Config::Layout;
    const uint32_t b_lane = lane_offset_k_first<Layout>();
#pragma unroll
    for (int step = 0; step < Config::kTilesN / 2; ++step) {
#pragma unroll
        for (int d = 0; d < Config::kTilesD; d += 2) {
            uint32_t b[4];
            ldmatrix_x4_trans(
                b, b_tile + Layout::advance(b_lane, d) + step * 16 * Layout::kPitchBytes);
#pragma unroll
            for (int m = 0; m < Config::kTilesM; ++m) {
                mma_m16n8k16(o[m][d], p[m][step], b[0], b[2], typename Config::Element{});
                mma_m16n8k16(o[m][d + 1], p[m][step], b[1], b[3], typename Config::Element{});
            }
        }
    }
}

// Row that accumulator row r (0 .. 2 * kTilesM - 1) of this lane belongs to, counted like warp_row.
LIMELIGHT_DEVICE int lane_row(int warp_row, int r) {
    return warp_row + (r / 2) * 16 + (r % 2) * 8 + (threadIdx.x % kWarpSize) / 4;
}
// Column inside a KV block or head of element e of n8 tile n.
LIMELIGHT_DEVICE int lane_column(int n, int e) {
    return n * 8 + (threadIdx.x % 4) * 2 + e % 2;
}

// Calls change(x, row, column) on every score of the warp, rows and columns counted like warp_row
// and first_column.
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

// Which side of the scores the rows of a warp are: the columns are the other side.
enum class Rows { kQueries, kKeys };

// Adds ALiBi and bias to base-2 logits of query head `head`.
template <class Config, Rows kRows>
LIMELIGHT_DEVICE void add_position_terms(float (&s)[Config::kTilesM][Config::kTilesN][4],
                                         const FwdParams& params, int batch, int head,
                                         const Mask& mask, int warp_row, int first_column) {
    using Element = typename Config::Element;
    constexpr bool kSwap = kRows == Rows::kKeys;
    if (params.alibi_slopes != nullptr) {
        const float slope_log2 =
            params.alibi_slopes[batch * params.alibi_batch_stride + head] * kLog2e;
        for_each_score<Config>(s, warp_row, first_column, [&](float& x, int row, int column) {
            const int distance = (kSwap ? column - row : row - column) + mask.shift;
            x -= slope_log2 * fabsf(static_cast<float>(distance));
        });
    }
    // The kernels of 8-bit elements refuse a bias: its addresses cost too many registers.
    if (sizeof(Element) > 1 && params.bias != nullptr) {
        const int64_t slice = batch * params.bias_strides.batch + head * params.bias_strides.head;
        const int seqlen_q = mask.seqlen_k - mask.shift;
        for_each_score<Config>(s, warp_row, first_column, [&](float& x, int r, int c) {
            const int row = kSwap ? c : r;
            const int column = kSwap ? r : c;
            if (row < seqlen_q && column < mask.seqlen_k) {
                const int64_t at =
                    slice + row * params.bias_strides.row + column * params.bias_strides.col;
                x += kLog2e *
                     (params.bias_dtype == Dtype::kFloat32
                          ? static_cast<const float*>(params.bias)[at]
                          : static_cast<float>(static_cast<const Element*>(params.bias)[at]));
            }
        });
    }
}

// Turns raw products into base-2 logits: scale, softcap, ALiBi, bias.
template <class Config>
LIMELIGHT_DEVICE void change_scores(float (&s)[Config::kTilesM][Config::kTilesN][4],
                                    const FwdParams& params, const Tile& tile, const Mask& mask,
                                    int warp_row, int first_column) {
    if (params.softcap > 0.0f) {
        for_each_score<Config>(s, warp_row, first_column, [&](float& x, int, int) {
            x = params.softcap_log2 * tanh_exp2(x * params.softcap_inner);
        });
    } else {
        for_each_score<Config>(s, warp_row, first_column,
                               [&](float& x, int, int) { x *= params.scale_log2; });
    }
    add_position_terms<Config, Rows::kQueries>(s, params, tile.batch, tile.head, mask, warp_row,
                                               first_column);
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

// Rounds the warp's rows of a result once, turns them in its own rows of `tile` and writes 16 bytes
// a lane: `used` rows of the tile hold results, from there to `extent` the output gets zeros.
template <class Config>
LIMELIGHT_DEVICE void store_rows(const float (&o)[Config::kTilesM][Config::kTilesD][4],
                                 typename Config::Element* tile, typename Config::Element* out,
                                 int64_t row_stride, int used, int extent, int cols) {
    using Element = typename Config::Element;
    using Layout = typename Config::Layout;
    constexpr int kWarpRows = Config::kTilesM * 16;
    const int warp_first = threadIdx.x / kWarpSize * kWarpRows;
    const int lane = threadIdx.x % kWarpSize;
    char* const bytes = reinterpret_cast<char*>(tile);
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 2 * Config::kTilesM; ++r) {
        const int row = lane_row(warp_first, r);
#pragma unroll
        for (int d = 0; d < Config::kTilesD; ++d) {
            const float* const pair = &o[r / 2][d][2 * (r % 2)];
            *reinterpret_cast<uint32_t*>(bytes + Layout::offset(row, d) + lane % 4 * 4) =
                row < used ? pack2(pair[0], pair[1], Element{}) : 0u;
        }
    }
    __syncwarp();
    constexpr int kLanesPerRow = Layout::kGroup;
#pragma unroll
    for (int first = 0; first < kWarpRows; first += kWarpSize / kLanesPerRow) {
        const int row = warp_first + first + lane / kLanesPerRow;
#pragma unroll
        for (int group = 0; group < Layout::kChunks; group += kLanesPerRow) {
            const int chunk = group + lane % kLanesPerRow;
            if (row < extent && chunk * Layout::kChunkElements < cols) {
                *reinterpret_cast<uint4*>(out + row * row_stride + chunk * Layout::kChunkElements) =
                    *reinterpret_cast<const uint4*>(bytes + Layout::offset(row, chunk));
            }
        }
    }
}

}  // namespace limelight::sm80
