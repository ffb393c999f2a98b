// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#define LIMELIGHT_DEVICE __device__ __forceinline__

namespace limelight {

constexpr int kWarpSize = 32;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

template <class T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
    return (a + b - 1) / b;
}

// The 32-bit shared-window address that ldmatrix and cp.async take.
LIMELIGHT_DEVICE uint32_t smem_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// The same value, of which the compiler knows nothing: what depends on it is computed again instead
// of being kept in registers.
LIMELIGHT_DEVICE int opaque(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

// Two 16-bit elements in one register, low half first, rounded to nearest even.
LIMELIGHT_DEVICE uint32_t pack2(float low, float high, __half) {
    const __half2 pair = __floats2half2_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
}
LIMELIGHT_DEVICE uint32_t pack2(float low, float high, __nv_bfloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
}

LIMELIGHT_DEVICE float2 unpack2(uint32_t pair, __half) {
    return __half22float2(reinterpret_cast<const __half2&>(pair));
}
LIMELIGHT_DEVICE float2 unpack2(uint32_t pair, __nv_bfloat16) {
    // One instruction each; __bfloat1622float2 takes two (a byte permutation, then a shift).
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}

// Both products, or differences, of two pairs.
LIMELIGHT_DEVICE uint32_t multiply2(uint32_t a, uint32_t b, __nv_bfloat16) {
    const __nv_bfloat162 product = __hmul2(reinterpret_cast<const __nv_bfloat162&>(a),
                                           reinterpret_cast<const __nv_bfloat162&>(b));
    return reinterpret_cast<const uint32_t&>(product);
}
LIMELIGHT_DEVICE uint32_t subtract2(uint32_t a, uint32_t b, __half) {
    const __half2 difference =
        __hsub2(reinterpret_cast<const __half2&>(a), reinterpret_cast<const __half2&>(b));
    return reinterpret_cast<const uint32_t&>(difference);
}
LIMELIGHT_DEVICE uint32_t subtract2(uint32_t a, uint32_t b, __nv_bfloat16) {
    const __nv_bfloat162 difference = __hsub2(reinterpret_cast<const __nv_bfloat162&>(a),
                                              reinterpret_cast<const __nv_bfloat162&>(b));
    return reinterpret_cast<const uint32_t&>(difference);
}

// Cursor of a pipeline of kStages slots; phase flips each time the cursor wraps.
template <int kStages>
struct Ring {
    int stage = 0;
    uint32_t phase = 0;

    LIMELIGHT_DEVICE void advance() {
        if (++stage == kStages) {
            stage = 0;
            phase ^= 1;
        }
    }
};

}  // namespace limelight
