// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "arch/float8.cuh"
#include "attention/softmax.cuh"

namespace limelight::sm90 {

// Online softmax in base 2 whose P goes into an e4m3 GEMM: P is 2^8 times exp2(s - max), so that it
// fills e4m3 from its largest power of two, 256, down to subnormals of 2^-9. O and its row sum come
// from the rounded P, lse from the unrounded; all of them carry the factor until finish().
template <int kTilesN>
struct Fp8Softmax {
    static constexpr int kRows = 2;
    static constexpr float kOffset = 8.0f;
    using Scores = float[1][kTilesN][4];
    using Probabilities = uint32_t[1][kTilesN / 4][4];  // A fragments of m64k32

    float row_max[kRows];
    float exact_sum[kRows];  // this thread's part until finish()

    LIMELIGHT_DEVICE Fp8Softmax() {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            row_max[r] = -INFINITY;
            exact_sum[r] = 0.0f;
        }
    }

    // What a row subtracts: its maximum, or 0 while it saw no key, which makes its P exact zeros.
    LIMELIGHT_DEVICE static float base(float largest, float scale) {
        return largest == -INFINITY ? 0.0f : largest * scale;
    }

    // Raises the row maxima to those of s and gives the factor by which everything accumulated
    // before shrinks.
    LIMELIGHT_DEVICE void raise_max(const Scores& s, float scale, float (&shrink)[kRows]) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            float largest = row_max[r];
#pragma unroll
            for (int n = 0; n < kTilesN; ++n) {
                largest = fmaxf(largest, fmaxf(s[0][n][2 * r], s[0][n][2 * r + 1]));
            }
            largest = quad_max(largest);
            shrink[r] = exp2_approx(row_max[r] * scale - base(largest, scale));
            row_max[r] = largest;
            exact_sum[r] *= shrink[r];
        }
    }

    // Tiles kBegin to kEnd of s become 2^8 exp2(s * scale - max).
    template <int kBegin, int kEnd>
    LIMELIGHT_DEVICE void exponentiate_in_place(Scores& s, float scale) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const float top = base(row_max[r], scale) - kOffset;
#pragma unroll
            for (int n = kBegin; n < kEnd; ++n) {
                float& x0 = s[0][n][2 * r];
                float& x1 = s[0][n][2 * r + 1];
                x0 = exp2_approx(x0 * scale - top);
                x1 = exp2_approx(x1 * scale - top);
                exact_sum[r] += x0 + x1;
            }
        }
    }

    // Rounds the scores to A fragments without moving any between lanes: of 16 keys in a row the
    // GEMM's k slot 4 t + 2 i + e takes key 8 i + 2 t + e, which V's transposition follows.
    LIMELIGHT_DEVICE static void round(const Scores& s, Probabilities& p) {
#pragma unroll
        for (int n = 0; n < kTilesN; n += 2) {
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                p[0][n / 4][n % 4 + r] = pack2_e4m3(s[0][n][2 * r], s[0][n][2 * r + 1]) |
                                         pack2_e4m3(s[0][n + 1][2 * r], s[0][n + 1][2 * r + 1])
                                             << 16;
            }
        }
    }

    // From the sums of the rounded P (whole rows) and the sink logits (base 2; -inf for none): the
    // factor that normalises O, times v_scale, and the natural log of the denominator. 0 and -inf
    // for a row that saw no key.
    LIMELIGHT_DEVICE void finish(float scale, const float (&sink)[kRows], float v_scale,
                                 const float (&rounded_sum)[kRows], float (&normalise)[kRows],
                                 float (&lse)[kRows]) {
        const float offset = exp2f(kOffset);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const float exact = quad_sum(exact_sum[r]);
            const float largest = row_max[r] * scale;
            const bool empty = row_max[r] == -INFINITY && exact == 0.0f;  // NaN rows stay NaN
            const float top = fmaxf(largest, sink[r]);
            const float weight = exp2_approx(largest - top);
            const float sink_weight = exp2_approx(sink[r] - top) * offset;
            normalise[r] =
                empty ? 0.0f : v_scale * weight / (rounded_sum[r] * weight + sink_weight);
            lse[r] =
                empty ? -INFINITY : (top + log2f(exact * weight + sink_weight) - kOffset) * kLn2;
        }
    }
};

}  // namespace limelight::sm90
