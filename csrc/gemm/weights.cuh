// SPDX-License-Identifier: BSD-3-Clause
// How a lane reads weights: kLaneK consecutive k of one row in one load, turned into pairs of
// 16-bit values without rounding.
//
// A span is the 4 * kLaneK values of k that the four lanes of a quad hold. MMA j of a span takes
// pairs 2j and 2j + 1 of every lane, of weight and of x alike: a permutation of k, which a sum over
// k does not see.
#pragma once

#include <type_traits>

#include "arch/atomic.cuh"
#include "arch/base.cuh"
#include "gemm/params.h"

namespace limelight::gemm {

template <class Element, WeightFormat kFormat>
struct WeightLane;

template <class Element>
struct WeightLane<Element, WeightFormat::k16Bit> {
    using Raw = uint4;
    static constexpr int kLaneK = 8;
    static constexpr bool kScaled = false;

    LIMELIGHT_DEVICE static void decode(const Raw& raw, uint32_t, uint32_t (&pairs)[kLaneK / 2]) {
        pairs[0] = raw.x;
        pairs[1] = raw.y;
        pairs[2] = raw.z;
        pairs[3] = raw.w;
    }
};

// FP8 bytes `first` and `first` + 1 of `word` in the high bytes of two 16-bit values.
LIMELIGHT_DEVICE uint32_t spread_bytes(uint32_t word, int first) {
    return __byte_perm(word, 0, first == 0 ? 0x1404 : 0x3424);
}

// Two FP8 values as two float16 times 2^-8, of the exponent field's other bias; NaN stays NaN: the
// carry out of 0x7f fills the exponent.
LIMELIGHT_DEVICE uint32_t decode_e4m3(uint32_t high, __half) {
    const uint32_t magnitude = high >> 1 & 0x3f803f80u;
    const uint32_t nan = (magnitude + 0x00800080u) & 0x40004000u;
    return magnitude | (high & 0x80008000u) | nan;
}

// As two bfloat16, times 2^-120 before the exact product; NaN becomes 480, which the caller mends.
LIMELIGHT_DEVICE uint32_t decode_e4m3(uint32_t high, __nv_bfloat16 element) {
    constexpr uint32_t kTwoTo120 = 0x7b807b80u;
    return multiply2((high & 0x80008000u) | (high >> 4 & 0x07f007f0u), kTwoTo120, element);
}

template <class Element>
struct WeightLane<Element, WeightFormat::kFloat8E4M3> {
    using Raw = uint4;
    static constexpr int kLaneK = 16;
    static constexpr bool kScaled = true;
    // What decode leaves to the scale.
    static constexpr float kScaleFactor = std::is_same_v<Element, __half> ? 256.0f : 1.0f;

    LIMELIGHT_DEVICE static void decode(const Raw& raw, uint32_t, uint32_t (&pairs)[kLaneK / 2]) {
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
        uint32_t nan[4];  // bit 7 of each byte that is NaN
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            pairs[2 * i] = decode_e4m3(spread_bytes(words[i], 0), Element{});
            pairs[2 * i + 1] = decode_e4m3(spread_bytes(words[i], 2), Element{});
            nan[i] = ((words[i] & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u;
        }
        constexpr bool kMend = std::is_same_v<Element, __nv_bfloat16>;
        if (kMend && (nan[0] | nan[1] | nan[2] | nan[3]) != 0) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const uint32_t flags = nan[i / 2] >> (i % 2 * 16);
                pairs[i] |= (flags & 0x80 ? 0x7fffu : 0u) | (flags & 0x8000 ? 0x7fff0000u : 0u);
            }
        }
    }
};

// `zero` is the pair of 16-bit values kInt4Magic + zero.
template <class Element>
struct WeightLane<Element, WeightFormat::kInt4> {
    using Raw = uint2;
    static constexpr int kLaneK = 16;
    static constexpr bool kScaled = true;
    static constexpr float kScaleFactor = 1.0f;
    // A 16-bit value whose units are the last bits of its mantissa: 1024 or 128.
    static constexpr uint32_t kMagicByte = std::is_same_v<Element, __half> ? 0x64 : 0x43;
    static constexpr float kMagic = std::is_same_v<Element, __half> ? 1024.0f : 128.0f;

    LIMELIGHT_DEVICE static uint32_t zero_pair(float zero) {
        return pack2(kMagic + zero, kMagic + zero, Element{});
    }

    LIMELIGHT_DEVICE static void decode(const Raw& raw, uint32_t zero,
                                        uint32_t (&pairs)[kLaneK / 2]) {
        const uint32_t words[2] = {raw.x, raw.y};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint32_t even = words[i] & 0x0f0f0f0fu;
            const uint32_t odd = words[i] >> 4 & 0x0f0f0f0fu;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const uint32_t bytes = __byte_perm(even, odd, half == 0 ? 0x5140 : 0x7362);
#pragma unroll
                for (int pair = 0; pair < 2; ++pair) {
                    const uint32_t offset =
                        __byte_perm(bytes, kMagicByte, pair == 0 ? 0x4140 : 0x4342);
                    pairs[4 * i + 2 * half + pair] = subtract2(offset, zero, Element{});
                }
            }
        }
    }
};

LIMELIGHT_DEVICE uint4 load_once(const void* global, uint4) {
    return load_once_16(global);
}
LIMELIGHT_DEVICE uint2 load_once(const void* global, uint2) {
    return load_once_8(global);
}

}  // namespace limelight::gemm
