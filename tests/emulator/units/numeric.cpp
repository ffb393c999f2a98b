// SPDX-License-Identifier: BSD-3-Clause
#include "numeric.h"

#include <array>

#include "approx.h"

namespace emu::num {
namespace {

template <const Format& fmt>
std::array<float, 256> decode_table() {
    std::array<float, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
        table[i] = decode(i, fmt);
    }
    return table;
}
const std::array<float, 256> kE4m3Table = decode_table<kE4m3>();
const std::array<float, 256> kE5m2Table = decode_table<kE5m2>();

// IEEE order with -0 below +0, on values whose sign is the top bit of 16.
bool less16(uint16_t a, uint16_t b) {
    const int x = a & 0x8000 ? -static_cast<int>(a & 0x7fff) - 1 : a;
    const int y = b & 0x8000 ? -static_cast<int>(b & 0x7fff) - 1 : b;
    return x < y;
}
uint16_t pick16(uint16_t a, uint16_t b, uint16_t inf, bool want_less, bool nan_propagates) {
    const bool a_nan = (a & 0x7fff) > inf, b_nan = (b & 0x7fff) > inf;
    if (a_nan || b_nan) {
        return nan_propagates || (a_nan && b_nan) ? 0x7fff : (a_nan ? b : a);
    }
    return less16(a, b) == want_less ? a : b;
}

}  // namespace

float e4m3_to_f32(uint8_t code) {
    return kE4m3Table[code];
}
float e5m2_to_f32(uint8_t code) {
    return kE5m2Table[code];
}

uint8_t f32_to_ue8m0(float x, Round round, bool satfinite) {
    const uint32_t u = f32_bits(x) & 0x7fffffffu;
    if (u > 0x7f800000u) {
        return 255;
    }
    if (u == 0x7f800000u) {
        return satfinite ? 254 : 255;
    }
    uint32_t code = u >> 23;
    const uint32_t rest = u & 0x7fffffu;
    if (code == 0) {  // subnormals: 2^-127 is code 0, anything above it up to 2^-126 is code 1
        return static_cast<uint8_t>(round == Round::rp && rest > 0x400000u);
    }
    code += round == Round::rp && rest != 0;
    return static_cast<uint8_t>(code > 254 ? (satfinite ? 254 : 255) : code);
}

float f32_add(float a, float b, Round round) {
    if (round == Round::rn) {
        return f32_canonical(a + b);
    }
    const double s = add_odd(a, b);
    if (s == 0 && a != 0) {
        return round == Round::rm ? -0.0f : 0.0f;
    }
    return f32_canonical(f64_to_f32(s, round));
}
float f32_mul(float a, float b, Round round) {
    return f32_canonical(f64_to_f32(static_cast<double>(a) * b, round));
}
float f32_fma(float a, float b, float c, Round round) {
    if (round == Round::rn) {
        return f32_canonical(std::fma(a, b, c));
    }
    const double product = static_cast<double>(a) * b, s = add_odd(product, c);
    if (s == 0 && product != 0) {
        return round == Round::rm ? -0.0f : 0.0f;
    }
    return f32_canonical(f64_to_f32(s, round));
}

uint16_t f16_add(uint16_t a, uint16_t b) {
    return f32_to_f16(to_odd(static_cast<double>(f16_to_f32(a)) + f16_to_f32(b)));
}
uint16_t f16_sub(uint16_t a, uint16_t b) {
    return f32_to_f16(to_odd(static_cast<double>(f16_to_f32(a)) - f16_to_f32(b)));
}
uint16_t f16_mul(uint16_t a, uint16_t b) {
    return f32_to_f16(f16_to_f32(a) * f16_to_f32(b));  // 22 product bits: exact in fp32
}
uint16_t f16_fma(uint16_t a, uint16_t b, uint16_t c) {
    return f32_to_f16(
        to_odd(add_odd(static_cast<double>(f16_to_f32(a)) * f16_to_f32(b), f16_to_f32(c))));
}
uint16_t bf16_add(uint16_t a, uint16_t b) {
    return f32_to_bf16(to_odd(add_odd(bf16_to_f32(a), bf16_to_f32(b))));
}
uint16_t bf16_sub(uint16_t a, uint16_t b) {
    return bf16_add(a, static_cast<uint16_t>(b ^ 0x8000));
}
uint16_t bf16_mul(uint16_t a, uint16_t b) {
    return f32_to_bf16(to_odd(static_cast<double>(bf16_to_f32(a)) * bf16_to_f32(b)));
}
uint16_t bf16_fma(uint16_t a, uint16_t b, uint16_t c) {
    return f32_to_bf16(
        to_odd(add_odd(static_cast<double>(bf16_to_f32(a)) * bf16_to_f32(b), bf16_to_f32(c))));
}
uint16_t f16_min(uint16_t a, uint16_t b, bool nan_propagates) {
    return pick16(a, b, 0x7c00, true, nan_propagates);
}
uint16_t f16_max(uint16_t a, uint16_t b, bool nan_propagates) {
    return pick16(a, b, 0x7c00, false, nan_propagates);
}
uint16_t bf16_min(uint16_t a, uint16_t b, bool nan_propagates) {
    return pick16(a, b, 0x7f80, true, nan_propagates);
}
uint16_t bf16_max(uint16_t a, uint16_t b, bool nan_propagates) {
    return pick16(a, b, 0x7f80, false, nan_propagates);
}

float lg2_approx(float x) {
    return f32_canonical(static_cast<float>(std::log2(static_cast<double>(x))));
}
float rcp_approx(float x) {
    return f32_canonical(1.0f / x);
}
float rsqrt_approx(float x) {
    return f32_canonical(static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))));
}
float sqrt_approx(float x) {
    return f32_canonical(std::sqrt(x));
}
float sin_approx(float x) {
    return f32_canonical(static_cast<float>(std::sin(static_cast<double>(x))));
}
float cos_approx(float x) {
    return f32_canonical(static_cast<float>(std::cos(static_cast<double>(x))));
}
float tanh_approx(float x) {
    return f32_canonical(static_cast<float>(std::tanh(static_cast<double>(x))));
}
float div_approx(float a, float b) {
    const float magnitude = std::fabs(b);
    if (magnitude > 0x1p126f && magnitude < INFINITY) {
        return std::isinf(a) ? bits_f32(kNanF32) : std::copysign(0.0f, a) * std::copysign(1.0f, b);
    }
    return f32_canonical(a / b);
}
uint16_t ex2_approx_f16(uint16_t x) {
    return f32_to_f16(static_cast<float>(std::exp2(static_cast<double>(f16_to_f32(x)))));
}
uint16_t ex2_approx_bf16(uint16_t x) {
    return f32_to_bf16(static_cast<float>(std::exp2(static_cast<double>(bf16_to_f32(x)))));
}
uint16_t tanh_approx_f16(uint16_t x) {
    return f32_to_f16(static_cast<float>(std::tanh(static_cast<double>(f16_to_f32(x)))));
}
uint16_t tanh_approx_bf16(uint16_t x) {
    return f32_to_bf16(static_cast<float>(std::tanh(static_cast<double>(bf16_to_f32(x)))));
}

}  // namespace emu::num
