// SPDX-License-Identifier: BSD-3-Clause
// The rows of a decode tile in registers: Q's fragments, what turns products into logits, and the
// two GEMMs on keys and values of 16 bits or FP8.
#pragma once

#include "arch/e4m3.cuh"
#include "decode/combine.cuh"
#include "sm80/decode_config.h"
#include "sm80/tile.cuh"

namespace limelight::sm80 {

// The two rows of the M tile whose accumulators a lane holds: row and row + 8.
template <class Config>
struct LaneRows {
    int token[2];  // -1: no such row
    int head[2];

    LIMELIGHT_DEVICE LaneRows(const DecodeCall& call, const TileRows& rows) {
        const int warp_row = threadIdx.x / kWarpSize % Config::kRowWarps * 16;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int row = lane_row(warp_row, r);
            const int packed = rows.first + row;
            token[r] = packed / call.heads_per_kv;
            head[r] = rows.head_kv * call.heads_per_kv + packed % call.heads_per_kv;
            if (row >= rows.count || token[r] >= rows.tokens) {
                token[r] = -1;
            }
        }
    }
};

// Rounds x to half after a power of two that brings its row's largest magnitude into [1, 2); half
// then holds what bf16 held, but elements 2^-24 of the largest.
LIMELIGHT_DEVICE float power_of_two(float largest) {
    const int exponent = min(max(static_cast<int>(__float_as_uint(largest) >> 23), 1), 253);
    return __uint_as_float(static_cast<uint32_t>(254 - exponent) << 23);
}

// A fragments of Q straight from global memory, zeros for rows and columns that do not exist.
template <class Config>
struct QueryFragments {
    using Element = typename Config::Element;
    uint32_t registers[Config::kQInSmem ? 1 : Config::kStepsD][4];
    const uint4* smem;
    float scale[2] = {1.0f, 1.0f};  // what the rows were divided by

    LIMELIGHT_DEVICE QueryFragments(const DecodeCall& call, const TileRows& rows, uint4* memory) {
        const LaneRows<Config> lane_rows(call, rows);
        const int lane = threadIdx.x % kWarpSize;
        const int warp = threadIdx.x / kWarpSize % Config::kRowWarps;
        const int group = threadIdx.x / kWarpSize / Config::kRowWarps;
        uint4* const own = memory + warp * Config::kStepsD * kWarpSize + lane;
        smem = own;
        const Element* row[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            row[r] = static_cast<const Element*>(call.q) + rows.q_batch * call.q_strides.batch +
                     (rows.q_row + max(lane_rows.token[r], 0)) * call.q_strides.row +
                     lane_rows.head[r] * call.q_strides.head;
        }
        if constexpr (Config::kFp8) {
            if (call.dtype == Dtype::kBFloat16) {
                find_scales(call, row, lane_rows);
            }
        }
#pragma unroll
        for (int step = 0; step < Config::kStepsD; ++step) {
            if (Config::kQInSmem && step % Config::kGroups != group) {
                continue;  // the groups share the fragments of their rows, and the loads
            }
            uint32_t a[4];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                load(call, row[r], lane_rows.token[r] >= 0, step, scale[r], a[r], a[r + 2]);
            }
            if constexpr (Config::kQInSmem) {
                own[step * kWarpSize] = uint4{a[0], a[1], a[2], a[3]};
            } else {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    registers[step][i] = a[i];
                }
            }
        }
        if constexpr (Config::kQInSmem && Config::kGroups > 1) {
            __syncthreads();
        }
        if constexpr (Config::kFp8) {
            scale[0] = 1.0f / scale[0];
            scale[1] = 1.0f / scale[1];
        }
    }

    LIMELIGHT_DEVICE void get(int step, uint32_t (&a)[4]) const {
        if constexpr (Config::kQInSmem) {
            const uint4 packed = smem[step * kWarpSize];
            a[0] = packed.x;
            a[1] = packed.y;
            a[2] = packed.z;
            a[3] = packed.w;
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                a[i] = registers[step][i];
            }
        }
    }

  private:
    // The pairs of k16 step `step`: of a row, low k and high k. FP8 keys come out of shared memory
    // with a lane's k in the order 4t, 4t + 2 and 4t + 1, 4t + 3, so Q takes that order too.
    LIMELIGHT_DEVICE static void load(const DecodeCall& call, const Element* row, bool exists,
                                      int step, float scale, uint32_t& low, uint32_t& high) {
        const int t = threadIdx.x % 4;
        if constexpr (!Config::kFp8) {
            const int column = step * 16 + 2 * t;
            low = exists && column < call.headdim ? *reinterpret_cast<const uint32_t*>(row + column)
                                                  : 0u;
            high = exists && column + 8 < call.headdim
                       ? *reinterpret_cast<const uint32_t*>(row + column + 8)
                       : 0u;
        } else {
            const uint2 four = load_four(call, row, exists, step);
            if (call.dtype == Dtype::kBFloat16) {
                const float2 x = unpack2(four.x, __nv_bfloat16{});
                const float2 y = unpack2(four.y, __nv_bfloat16{});
                low = pack2(x.x * scale, y.x * scale, __half{});
                high = pack2(x.y * scale, y.y * scale, __half{});
            } else {
                low = __byte_perm(four.x, four.y, 0x5410);
                high = __byte_perm(four.x, four.y, 0x7632);
            }
        }
    }
    LIMELIGHT_DEVICE static uint2 load_four(const DecodeCall& call, const Element* row, bool exists,
                                            int step) {
        const int column = step * 16 + 4 * static_cast<int>(threadIdx.x % 4);
        return exists && column < call.headdim ? *reinterpret_cast<const uint2*>(row + column)
                                               : uint2{0u, 0u};
    }
    LIMELIGHT_DEVICE void find_scales(const DecodeCall& call, const Element* const (&row)[2],
                                      const LaneRows<Config>& lane_rows) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float largest = 0.0f;
#pragma unroll 1
            for (int step = 0; step < Config::kStepsD; ++step) {
                const uint2 four = load_four(call, row[r], lane_rows.token[r] >= 0, step);
                const float2 x = unpack2(four.x, __nv_bfloat16{});
                const float2 y = unpack2(four.y, __nv_bfloat16{});
                largest = fmaxf(
                    largest, fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(y.x), fabsf(y.y))));
            }
            scale[r] = power_of_two(quad_max(largest));
        }
    }
};

// What turns products into base-2 logits and hides keys. The part that is not needed for every key
// stays in shared memory.
struct RowScores {
    float slope;   // ALiBi, base 2
    int position;  // of the row's token among the keys
    int begin;     // visible keys
    int end;
};
struct TileScores {
    int full_begin;  // every row of the tile sees [full_begin, full_end)
    int full_end;
    int shift;  // position of token 0
    int batch;

    LIMELIGHT_DEVICE TileScores(const DecodeCall& call, const DecodeSequence& sequence,
                                const TileRows& rows)
        : batch(rows.batch) {
        const Mask mask(call, sequence, sequence.leftpad);
        const int last = min(rows.first + rows.count, rows.tokens * call.heads_per_kv) - 1;
        full_begin = max(mask.first_column(last / call.heads_per_kv), sequence.leftpad);
        full_end = mask.end_column(rows.first / call.heads_per_kv);
        shift = mask.shift;
        if (call.tree_mask != nullptr) {
            full_end = min(full_end, shift);
        }
    }
};

// Row `row` of the tile.
LIMELIGHT_DEVICE RowScores row_scores(const DecodeCall& call, const DecodeSequence& sequence,
                                      const TileRows& rows, int row) {
    const Mask mask(call, sequence, sequence.leftpad);
    const int packed = rows.first + row;
    const int token = packed / call.heads_per_kv;
    const int head = rows.head_kv * call.heads_per_kv + packed % call.heads_per_kv;
    const bool exists = row < rows.count && token < rows.tokens;
    RowScores scores;
    scores.position = token + mask.shift;
    scores.begin = max(mask.first_column(token), sequence.leftpad);
    scores.end = exists ? mask.end_column(token) : 0;
    scores.slope = call.alibi_slopes == nullptr || !exists
                       ? 0.0f
                       : kLog2e * call.alibi_slopes[rows.batch * call.alibi_batch_stride + head];
    return scores;
}

// The factor of products: to base 2, or to what softcap's tanh takes.
template <class Config>
LIMELIGHT_DEVICE float product_scale(const DecodeCall& call, const TileRows& rows) {
    float scale = call.softcap > 0.0f ? call.softcap_inner : call.scale_log2;
    if constexpr (Config::kFp8) {
        scale *= kE4m3HalfScale;
        if (call.k_descale != nullptr) {
            scale *= call.k_descale[rows.batch * call.k_descale_strides.batch +
                                    rows.head_kv * call.k_descale_strides.head];
        }
    }
    return scale;
}

// Calls change(x, r, key) on every score; r is the lane's row, 0 or 1.
template <class Config, class Change>
LIMELIGHT_DEVICE void for_each_key(float (&s)[1][Config::kTilesN][4], int first_key,
                                   Change change) {
#pragma unroll
    for (int n = 0; n < Config::kTilesN; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            change(s[0][n][e], e / 2, first_key + lane_column(n, e));
        }
    }
}

// Products of the warp's rows with the keys from first_key on, to logits; `rows` are the warp's.
template <class Config>
LIMELIGHT_DEVICE void finish_scores(float (&s)[1][Config::kTilesN][4], const DecodeCall& call,
                                    const TileScores& tile, const RowScores* rows,
                                    const float (&scale)[2], int first_key) {
    if (call.softcap > 0.0f) {
        for_each_key<Config>(s, first_key, [&](float& x, int r, int) {
            x = call.softcap_log2 * tanh_exp2(x * scale[r]);
        });
    } else {
        for_each_key<Config>(s, first_key, [&](float& x, int r, int) { x *= scale[r]; });
    }
    const bool full =
        first_key >= tile.full_begin && first_key + Config::kGroupKeys <= tile.full_end;
    if (full && call.alibi_slopes == nullptr) {
        return;
    }
    const RowScores mine[2] = {rows[lane_row(0, 0)], rows[lane_row(0, 1)]};
    if (call.alibi_slopes != nullptr) {
        for_each_key<Config>(s, first_key, [&](float& x, int r, int key) {
            x -= mine[r].slope * fabsf(static_cast<float>(mine[r].position - key));
        });
    }
    if (full) {
        return;
    }
    for_each_key<Config>(s, first_key, [&](float& x, int r, int key) {
        if (key < mine[r].begin || key >= mine[r].end) {
            x = -INFINITY;
        }
    });
    if (call.tree_mask != nullptr) {
        const uint32_t* const tree = call.tree_mask + tile.batch * call.tree_batch_stride;
        for_each_key<Config>(s, first_key, [&](float& x, int r, int key) {
            const int row = mine[r].position - tile.shift;
            const int token = key - tile.shift;
            if (token >= 0 && key < mine[r].end &&
                (tree[row * call.tree_row_stride + token / 32] >> (token % 32) & 1) == 0) {
                x = -INFINITY;
            }
        });
    }
}

// S = Q K^T for the warp's 16 rows and its group's keys in `slot`.
template <class Config>
LIMELIGHT_DEVICE void gemm_scores(float (&s)[1][Config::kTilesN][4],
                                  const QueryFragments<Config>& q, uint32_t slot) {
    using Layout = typename Config::Layout;
    using Element = typename Config::Element;
    const uint32_t lane = lane_offset_k_first<Layout>();
#pragma unroll
    for (int n = 0; n < Config::kTilesN; ++n) {
        s[0][n][0] = s[0][n][1] = s[0][n][2] = s[0][n][3] = 0.0f;
    }
#pragma unroll
    for (int chunk = 0; chunk < Layout::kChunks; chunk += 2) {
        uint32_t a[2][4];
        q.get(Config::kFp8 ? chunk : chunk / 2, a[0]);
        if constexpr (Config::kFp8) {
            q.get(chunk + 1, a[1]);
        }
#pragma unroll
        for (int n = 0; n < Config::kTilesN; n += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, slot + Layout::advance(lane, chunk) + n * 8 * Layout::kPitchBytes);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                if constexpr (Config::kFp8) {
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const uint32_t four = b[2 * i + half];
                        mma_m16n8k16(s[0][n + i], a[half], e4m3_even_to_half2(four),
                                     e4m3_odd_to_half2(four), Element{});
                    }
                } else {
                    mma_m16n8k16(s[0][n + i], a[0], b[2 * i], b[2 * i + 1], Element{});
                }
            }
        }
    }
}

// O += P V. FP8: o[0][2c] holds the even and o[0][2c + 1] the odd columns of 16-column chunk c.
template <class Config, class Probabilities>
LIMELIGHT_DEVICE void gemm_values(float (&o)[1][Config::kTilesD][4], const Probabilities& p,
                                  uint32_t slot) {
    if constexpr (!Config::kFp8) {
        gemm_columns<Config>(o, p, slot);
    } else {
        using Layout = typename Config::Layout;
        const uint32_t lane = lane_offset_rows_first<Layout>();
#pragma unroll
        for (int step = 0; step < Config::kTilesN / 2; ++step) {
#pragma unroll
            for (int chunk = 0; chunk < Layout::kChunks; chunk += 2) {
                uint32_t b[4];
                ldmatrix_x4_trans(
                    b, slot + Layout::advance(lane, chunk) + step * 16 * Layout::kPitchBytes);
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int d = 2 * (chunk + i);
                    mma_m16n8k16(o[0][d], p[0][step], e4m3_even_to_half2(b[2 * i]),
                                 e4m3_even_to_half2(b[2 * i + 1]), __half{});
                    mma_m16n8k16(o[0][d + 1], p[0][step], e4m3_odd_to_half2(b[2 * i]),
                                 e4m3_odd_to_half2(b[2 * i + 1]), __half{});
                }
            }
        }
    }
}

}  // namespace limelight::sm80
