// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "arch/math.cuh"

namespace limelight {

// Online softmax in base 2 over the accumulators of mma.m16n8: a thread holds rows g and g + 8 of
// each m16 tile. O is normalised by the sum of the P that was rounded for the second GEMM, so that
// its rounding cancels; lse comes from the unrounded sum, so that exp(S - lse) adds up to one in
// the backward pass. Both sums are this thread's part until finish().
template <class Element, int kTilesM, int kTilesN>
struct OnlineSoftmax {
    static constexpr int kRows = 2 * kTilesM;
    using Scores = float[kTilesM][kTilesN][4];
    using Probabilities = uint32_t[kTilesM][kTilesN / 2][4];  // A fragments of the P V GEMM

    float row_max[kRows];
    float rounded_sum[kRows];
    float exact_sum[kRows];

    LIMELIGHT_DEVICE OnlineSoftmax() {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            row_max[r] = -INFINITY;
            rounded_sum[r] = exact_sum[r] = 0.0f;
        }
    }

    // Raises the row maxima to those of s (any unit; scale turns it to base 2) and gives the factor
    // by which everything accumulated before shrinks.
    LIMELIGHT_DEVICE void raise_max(const Scores& s, float scale, float (&shrink)[kRows]) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            float largest = row_max[r];
#pragma unroll
            for (int n = 0; n < kTilesN; ++n) {
                largest = fmaxf(largest, fmaxf(s[r / 2][n][r % 2 * 2], s[r / 2][n][r % 2 * 2 + 1]));
            }
            largest = quad_max(largest);
            shrink[r] = exp2_approx(row_max[r] * scale - base(largest, scale));
            row_max[r] = largest;
            rounded_sum[r] *= shrink[r];
            exact_sum[r] *= shrink[r];
        }
    }

    // P = exp2(s * scale - max), rounded to A fragments.
    LIMELIGHT_DEVICE void exponentiate(const Scores& s, float scale, Probabilities& p) {
        float top[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            top[r] = base(row_max[r], scale);
        }
#pragma unroll
        for (int n = 0; n < kTilesN; ++n) {
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                const float p0 = exp2_approx(s[r / 2][n][r % 2 * 2] * scale - top[r]);
                const float p1 = exp2_approx(s[r / 2][n][r % 2 * 2 + 1] * scale - top[r]);
                const uint32_t pair = pack2(p0, p1, Element{});
                const float2 rounded = unpack2(pair, Element{});
                rounded_sum[r] += rounded.x + rounded.y;
                exact_sum[r] += p0 + p1;
                p[r / 2][n / 2][2 * (n % 2) + r % 2] = pair;
            }
        }
    }

    // The same, but a row keeps its base while no score exceeds it by more than kLazyLog2: P stays
    // below 2^kLazyLog2 and the normalisation at the end cancels the base. Whether a row keeps it
    // depends on its own scores alone. True if any row of the warp shrinks.
    LIMELIGHT_DEVICE bool raise_max_lazily(const Scores& s, float scale, float (&shrink)[kRows]) {
        constexpr float kLazyLog2 = 8.0f;
        bool raised = false;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            float largest = row_max[r];
#pragma unroll
            for (int n = 0; n < kTilesN; ++n) {
                largest = fmaxf(largest, fmaxf(s[r / 2][n][r % 2 * 2], s[r / 2][n][r % 2 * 2 + 1]));
            }
            largest = quad_max(largest);
            const bool raise = (largest - row_max[r]) * scale > kLazyLog2;
            largest = raise ? largest : row_max[r];
            shrink[r] = raise ? exp2_approx(row_max[r] * scale - base(largest, scale)) : 1.0f;
            row_max[r] = largest;
            rounded_sum[r] *= shrink[r];
            exact_sum[r] *= shrink[r];
            raised = raised || raise;
        }
        return __any_sync(0xffffffffu, raised);
    }

    // exponentiate() in two halves, for a caller whose `p` is still in use during the first: s
    // becomes exp2(s * scale - max), then p its rounding; without kAddUp the caller adds the
    // rounded up.
    LIMELIGHT_DEVICE void exponentiate_in_place(Scores& s, float scale) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const float top = base(row_max[r], scale);
#pragma unroll
            for (int n = 0; n < kTilesN; ++n) {
                float (&x)[4] = s[r / 2][n];
                x[r % 2 * 2] = exp2_approx(x[r % 2 * 2] * scale - top);
                x[r % 2 * 2 + 1] = exp2_approx(x[r % 2 * 2 + 1] * scale - top);
                exact_sum[r] += x[r % 2 * 2] + x[r % 2 * 2 + 1];
            }
        }
    }
    template <bool kAddUp = true>
    LIMELIGHT_DEVICE void round(const Scores& s, Probabilities& p) {
#pragma unroll
        for (int n = 0; n < kTilesN; ++n) {
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                const uint32_t pair =
                    pack2(s[r / 2][n][r % 2 * 2], s[r / 2][n][r % 2 * 2 + 1], Element{});
                if constexpr (kAddUp) {
                    const float2 rounded = unpack2(pair, Element{});
                    rounded_sum[r] += rounded.x + rounded.y;
                }
                p[r / 2][n / 2][2 * (n % 2) + r % 2] = pair;
            }
        }
    }

    // What a row subtracts: its maximum, or 0 while it saw no key, which makes its P exact zeros.
    LIMELIGHT_DEVICE static float base(float largest, float scale) {
        return largest == -INFINITY ? 0.0f : largest * scale;
    }

    // Adds the sink logits (base 2; -inf for none), leaves in `shrink` the factor that normalises O
    // and in `lse` the natural log of the denominator: 0 and -inf for a row that saw no key.
    LIMELIGHT_DEVICE void finish(float scale, const float (&sink)[kRows], float (&shrink)[kRows],
                                 float (&lse)[kRows]) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const float exact = quad_sum(exact_sum[r]);
            const float rounded = quad_sum(rounded_sum[r]);
            const float base = row_max[r] * scale;
            const bool empty = row_max[r] == -INFINITY && exact == 0.0f;  // a NaN row keeps its NaN
            const float top = fmaxf(base, sink[r]);
            const float weight = exp2_approx(base - top);
            const float sink_weight = exp2_approx(sink[r] - top);
            shrink[r] = empty ? 0.0f : weight / (rounded * weight + sink_weight);
            lse[r] = empty ? -INFINITY : (top + log2f(exact * weight + sink_weight)) * kLn2;
        }
    }
};

}  // namespace limelight
