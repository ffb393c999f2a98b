// SPDX-License-Identifier: BSD-3-Clause
// From accumulators to out: bias, activation, residual, conversion.
#pragma once

#include "arch/math.cuh"
#include "gemm/schedule.cuh"
#include "gemm/tiles.h"

namespace limelight::gemm {

LIMELIGHT_DEVICE float silu(float x) {
    return x * reciprocal_approx(1.0f + exp2_approx(-kLog2e * x));
}

LIMELIGHT_DEVICE float activate(float x, Activation activation) {
    switch (activation) {
        case Activation::kGelu:
            return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
        case Activation::kGeluTanh:
            return 0.5f * x *
                   (1.0f + tanh_exp2(0.79788456080286536f * (x + 0.044715f * x * x * x)));
        case Activation::kSilu:
            return silu(x);
        default:
            return x;
    }
}

// Rounds to the nearest FP8 e4m3 value, ties to even, beyond 448 to 448; NaN stays NaN.
LIMELIGHT_DEVICE uint8_t to_e4m3(float x) {
    const uint32_t sign = __float_as_uint(x) >> 24 & 0x80;
    const float magnitude = fminf(fabsf(x), 448.0f);
    uint32_t code;
    if (x != x) {
        code = 0x7f;
    } else if (magnitude < 0x1p-6f) {
        code = static_cast<uint32_t>(__float2int_rn(magnitude * 0x1p9f));
    } else {
        const uint32_t bits = __float_as_uint(magnitude);
        code = ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120 << 3);
    }
    return static_cast<uint8_t>(sign | code);
}

template <class Element>
LIMELIGHT_DEVICE void store_result(const GemmParams& p, int row, int column, float y) {
    y = activate(y, p.activation);
    if (p.residual != nullptr) {
        y += static_cast<float>(
            static_cast<const Element*>(p.residual)[row * p.residual_row_stride + column]);
    }
    const int64_t at = row * p.out_row_stride + column;
    if (p.out_dtype == Dtype::kFloat8E4M3) {
        static_cast<uint8_t*>(p.out)[at] = to_e4m3(y / *p.out_scale);
    } else {
        static_cast<Element*>(p.out)[at] = static_cast<Element>(y);
    }
}

// Finishes one warp's rows of weight, group `group` of the tile: kTilesN m16 tiles by the rows of x
// from first_row on. `turn` is the warp's own kTurnFloats of shared memory.
template <class Element, class Row, int kTilesN, int kTilesM>
LIMELIGHT_DEVICE void store_group(const GemmParams& p, int tile, int group, int first_row,
                                  const float (&acc)[kTilesN][kTilesM][4], float* turn) {
    const int lane = threadIdx.x % kWarpSize;
    const bool swiglu = p.activation == Activation::kSwiGLU;

    float bias[kTilesN][2] = {};
    if (p.bias != nullptr) {
#pragma unroll
        for (int i = 0; i < 2 * kTilesN; ++i) {
            const Row at(p, tile, group, i * 8 + lane / 4);
            if (at.column < p.n) {
                bias[i / 2][i % 2] =
                    static_cast<float>(static_cast<const Element*>(p.bias)[at.row]);
            }
        }
    }
    const int width = swiglu && kTilesN == 1 ? 8 : 16;
#pragma unroll 1
    for (int m_tile = 0; m_tile < kTilesM && first_row + m_tile * 8 < p.m; ++m_tile) {
        float y[kTilesN][4] = {};
#pragma unroll
        for (int m = 0; m < kTilesM; ++m) {
            if (m == m_tile) {
#pragma unroll
                for (int i = 0; i < 4 * kTilesN; ++i) {
                    y[i / 4][i % 4] = acc[i / 4][m][i % 4] + bias[i / 4][i % 4 / 2];
                }
            }
        }
        if (swiglu) {
#pragma unroll
            for (int e = 0; e < 2 * kTilesN; ++e) {
                y[0][e] = silu(y[0][e]) * (kTilesN == 1 ? y[0][e + 2] : y[kTilesN - 1][e]);
            }
        }
#pragma unroll
        for (int n = 0; n < kTilesN; ++n) {
            if (n > 0 && swiglu) {
                break;
            }
            const int column = Row(p, tile, group, n * 16).column + lane % 16;
            __syncwarp();
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                turn[(lane % 4 * 2 + e % 2) * kTurnPitch + e / 2 * 8 + lane / 4] = y[n][e];
            }
            __syncwarp();
#pragma unroll 1
            for (int i = 0; i < 4; ++i) {
                const int turned = lane / 16 * 4 + i;
                const int row = first_row + m_tile * 8 + turned;
                if (row < p.m && lane % 16 < width && column < p.n) {
                    store_result<Element>(p, row, column, turn[turned * kTurnPitch + lane % 16]);
                }
            }
        }
    }
}

}  // namespace limelight::gemm
