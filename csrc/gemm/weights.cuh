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

// Two FP8 values of `word`, bytes `first` and `first` + 1, as 16-bit values times 2^-8 (float16) or
// 2^-120 (bfloat16): the exponent field keeps its bits, only its bias differs.
template <class Element>
LIMELIGHT_DEVICE uint32_t e4m3_bits(uint32_t word, int first) {
    constexpr bool kHalf = std::is_same_v<Element, __half>;
    const uint32_t high = __byte_perm(word, 0, first == 0 ? 0x1404 : 0x3424);
    return (high & 0x80008000u) | (kHalf ? (high >> 1 & 0x3f803f80u) : (high >> 4 & 0x07f007f0u));
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
            nan[i] = ((words[i] & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                uint32_t& pair = pairs[2 * i + half];
                pair = e4m3_bits<Element>(words[i], 2 * half);
                if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
                    pair = multiply2(pair, 0x7b807b80u, Element{});  // 2^120
                }
            }
        }
        if ((nan[0] | nan[1] | nan[2] | nan[3]) != 0) {
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
