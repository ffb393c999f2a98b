// SPDX-License-Identifier: BSD-3-Clause
// What the backward kernels do between their GEMMs: from raw S and dP to P and dS, and to the A
// fragments of the products that take them.
#pragma once

#include "attention/dropout.cuh"
#include "sm80/bwd_config.h"
#include "sm80/tile.cuh"

namespace limelight::sm80 {

// Where the statistics of one head of one sequence begin.
LIMELIGHT_DEVICE int64_t statistics_offset(const BwdParams& params, const Sequence& sequence,
                                           int head) {
    return sequence.q_batch * params.statistics_batch_stride +
           head * params.statistics_head_stride + sequence.q_row;
}

// Where keep_bits holds element e of n8 tile n.
LIMELIGHT_DEVICE int keep_bit(int n, int e) {
    return 4 * n + e;
}

// One bit for every score of the lane: whether dropout keeps it.
template <class Config, Rows kRows>
LIMELIGHT_DEVICE uint32_t keep_bits(const Dropout& dropout, int warp_row, int first_column) {
    static_assert(Config::kTilesM == 1 && Config::kTilesN <= 8, "one bit a score");
    constexpr bool kSwap = kRows == Rows::kKeys;
    // A lane of S holds pairs of neighbouring keys, as a random word does. A lane of S^T holds one
    // key and pairs of neighbouring rows of q: it draws one row of each pair, for its own key and
    // for the neighbouring key, which belongs to the lane that draws the other row.
    const int lane = threadIdx.x % kWarpSize;
    const int odd_key = lane / 4 % 2;
    const int place = kSwap ? 4 * (2 * (lane % 4) + odd_key) + lane / 8 : lane;
    uint32_t even = 0;  // the even key of each word, at the bits of the even column
    uint32_t odd = 0;
#pragma unroll
    for (int step = 0; step < Config::kTilesN / 2; ++step) {
        const int column = first_column + step * 16;
        const uint4 four =
            kSwap ? dropout.words(column, warp_row, place) : dropout.words(warp_row, column, place);
        const uint32_t words[2][2] = {{four.x, four.y}, {four.z, four.w}};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int n = i / 2;
            const int half = i % 2;
            const uint32_t word = kSwap ? words[n][half] : words[half][n];
            const int bit = keep_bit(2 * step + n, 2 * half);
            even |= static_cast<uint32_t>(dropout.keeps_even(word)) << bit;
            odd |= static_cast<uint32_t>(dropout.keeps_odd(word)) << bit;
        }
    }
    if constexpr (!kSwap) {
        return even | odd << 1;
    } else {
        const uint32_t own = odd_key ? odd : even;
        const uint32_t others = odd_key ? even : odd;
        const uint32_t received = __shfl_xor_sync(0xffffffffu, others, 4);
        return own << odd_key | received << (1 - odd_key);
    }
}

// Zeroes what dropout removes of the rounded P.
template <class Config>
LIMELIGHT_DEVICE void drop_fragments(uint32_t (&p)[Config::kTilesM][Config::kTilesN / 2][4],
                                     uint32_t keep) {
#pragma unroll
    for (int step = 0; step < Config::kTilesN / 2; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint32_t pair = keep >> keep_bit(2 * step + i / 2, 2 * (i % 2));
            p[0][step][i] &= pair_mask(pair & 1, pair & 2);
        }
    }
}

// Raw products S and dP become P and dP - delta, dP after dropout and the difference times the
// derivative of softcap where a product follows. statistic(m, n, e) gives the (lse_log2, delta) of
// the row of q of an accumulator. Returns which P dropout keeps; P itself is not dropped.
template <class Config, Rows kRows, class Statistic>
LIMELIGHT_DEVICE uint32_t probabilities(float (&s)[Config::kTilesM][Config::kTilesN][4],
                                        float (&dp)[Config::kTilesM][Config::kTilesN][4],
                                        const BwdParams& params, int batch, int head,
                                        const Mask& mask, bool whole, int warp_row,
                                        int first_column, Statistic statistic) {
    constexpr bool kSwap = kRows == Rows::kKeys;
    const auto for_each = [](auto change) {
#pragma unroll
        for (int m = 0; m < Config::kTilesM; ++m) {
#pragma unroll
            for (int n = 0; n < Config::kTilesN; ++n) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    change(m, n, e);
                }
            }
        }
    };
    uint32_t keep = ~0u;
    if constexpr (Config::kChangeScores) {
        if (params.dropout_threshold > 0) {
            keep = keep_bits<Config, kRows>(Dropout(params, batch, head), warp_row, first_column);
            if constexpr (Config::kWantsDs) {
                for_each([&](int m, int n, int e) {
                    dp[m][n][e] = keep >> keep_bit(n, e) & 1 ? dp[m][n][e] : 0.0f;
                });
            }
        }
    }
    if constexpr (Config::kWantsDs) {
        const float scale = Config::kChangeScores ? params.dropout_scale : 1.0f;
        for_each(
            [&](int m, int n, int e) { dp[m][n][e] = dp[m][n][e] * scale - statistic(m, n, e).y; });
    }
    if constexpr (Config::kChangeScores) {
        if (params.softcap > 0.0f) {
            for_each([&](int m, int n, int e) {
                const float t = tanh_exp2(s[m][n][e] * params.softcap_inner);
                s[m][n][e] = params.softcap_log2 * t;
                if constexpr (Config::kWantsDs && !Config::kWantsBias) {
                    dp[m][n][e] *= 1.0f - t * t;
                }
            });
        } else {
            for_each([&](int m, int n, int e) { s[m][n][e] *= params.scale_log2; });
        }
        add_position_terms<Config, kRows>(s, params, batch, head, mask, warp_row, first_column);
    }
    if (!whole) {
#pragma unroll
        for (int r = 0; r < 2 * Config::kTilesM; ++r) {
            // What the row of the tile sees, or which rows see it where it is a key.
            const int row = lane_row(warp_row, r);
            const int extent = kSwap ? mask.seqlen_k : mask.seqlen_k - mask.shift;
            const int begin = kSwap ? mask.first_row(row) : mask.first_column(row);
            const int end = row >= extent ? 0 : kSwap ? mask.end_row(row) : mask.end_column(row);
#pragma unroll
            for (int n = 0; n < Config::kTilesN; ++n) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const int column = first_column + lane_column(n, e);
                    if (column < begin || column >= end) {
                        s[r / 2][n][2 * (r % 2) + e] = -INFINITY;
                    }
                }
            }
        }
    }
    const float scale = Config::kChangeScores ? 1.0f : params.scale_log2;
    for_each([&](int m, int n, int e) {
        s[m][n][e] = exp2_approx(s[m][n][e] * scale - statistic(m, n, e).x);
    });
    return keep;
}

// Rounds accumulators to the A fragments of the next GEMM.
template <class Config>
LIMELIGHT_DEVICE void round_fragments(uint32_t (&a)[Config::kTilesM][Config::kTilesN / 2][4],
                                      const float (&x)[Config::kTilesM][Config::kTilesN][4]) {
#pragma unroll
    for (int m = 0; m < Config::kTilesM; ++m) {
#pragma unroll
        for (int n = 0; n < Config::kTilesN; ++n) {
            a[m][n / 2][2 * (n % 2)] = pack2(x[m][n][0], x[m][n][1], typename Config::Element{});
            a[m][n / 2][2 * (n % 2) + 1] =
                pack2(x[m][n][2], x[m][n][3], typename Config::Element{});
        }
    }
}

// dS = P * (dP - delta), in place of the latter.
template <class Config>
LIMELIGHT_DEVICE void multiply(float (&dp)[Config::kTilesM][Config::kTilesN][4],
                               const float (&p)[Config::kTilesM][Config::kTilesN][4]) {
#pragma unroll
    for (int m = 0; m < Config::kTilesM; ++m) {
#pragma unroll
        for (int n = 0; n < Config::kTilesN; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                dp[m][n][e] *= p[m][n][e];
            }
        }
    }
}

template <class Config>
LIMELIGHT_DEVICE void scale_gradient(float (&x)[Config::kTilesM][Config::kTilesD][4], float scale) {
#pragma unroll
    for (int m = 0; m < Config::kTilesM; ++m) {
#pragma unroll
        for (int d = 0; d < Config::kTilesD; ++d) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                x[m][d][e] *= scale;
            }
        }
    }
}

}  // namespace limelight::sm80
