// SPDX-License-Identifier: BSD-3-Clause
// Number formats of the PTX ISA: conversions and single-rounded 16-bit arithmetic. Pure functions,
// no machine.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace emu::num {

enum class Round : uint8_t { rn, rz, rm, rp, rna };

constexpr uint16_t kNanF16 = 0x7fff;
constexpr uint16_t kNanBf16 = 0x7fff;
constexpr uint32_t kNanF32 = 0x7fffffff;

// mantissa: stored bits; bias; max_finite: largest finite magnitude code; inf == nan means the
// format has no infinity.
struct Format {
    int mantissa, bias;
    uint32_t sign, max_finite, inf, nan;
};

inline constexpr Format kF16{10, 15, 0x8000, 0x7bff, 0x7c00, 0x7fff};
inline constexpr Format kBf16{7, 127, 0x8000, 0x7f7f, 0x7f80, 0x7fff};
inline constexpr Format kTf32{10,      127,     0x40000,
                              0x3fbff, 0x3fc00, 0x3ffff};  // code is the fp32 word >> 13
inline constexpr Format kE4m3{3, 7, 0x80, 0x7e, 0x7f, 0x7f};
inline constexpr Format kE5m2{2, 15, 0x80, 0x7b, 0x7c, 0x7f};
inline constexpr Format kE3m2{2,    3,   0x20, 0x1f,
                              0x1f, 0x1f};  // no infinity, no NaN: both become the largest value
inline constexpr Format kE2m3{3, 1, 0x20, 0x1f, 0x1f, 0x1f};
inline constexpr Format kE2m1{1, 1, 0x8, 0x7, 0x7, 0x7};

constexpr float bits_f32(uint32_t u) {
    return std::bit_cast<float>(u);
}
constexpr uint32_t f32_bits(float f) {
    return std::bit_cast<uint32_t>(f);
}

// One rounding of a float to `fmt`; the sticky bit of an inexact float may be held in its last
// mantissa bit (see to_odd). satfinite: out of range becomes the largest finite value; relu:
// negative becomes +0, NaN stays the canonical NaN.
inline uint32_t encode(float x, const Format& fmt, Round round, bool satfinite = false,
                       bool relu = false) {
    const uint32_t u = f32_bits(x), magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return fmt.nan;
    }
    const bool negative = u >> 31;
    if (relu && negative) {
        return 0;
    }
    const uint32_t sign = negative ? fmt.sign : 0;
    if (magnitude == 0x7f800000u) {
        return sign | (satfinite ? fmt.max_finite : fmt.inf);
    }
    if (magnitude == 0) {
        return sign;
    }
    int exponent = static_cast<int>(magnitude >> 23) - 127;
    uint64_t significand = magnitude & 0x7fffffu;
    if (exponent == -127) {
        exponent = -126;
    } else {
        significand |= 0x800000u;
    }
    const int lowest = 1 - fmt.bias;
    const int target = exponent > lowest ? exponent : lowest;
    int shift = 23 - fmt.mantissa + (target - exponent);
    if (shift > 40) {
        shift = 40;
    }
    uint64_t quotient = significand >> shift;
    const uint64_t rest = significand & ((1ull << shift) - 1),
                   half = shift > 0 ? 1ull << (shift - 1) : 0;
    switch (round) {
        case Round::rn:
            quotient += shift > 0 && (rest > half || (rest == half && (quotient & 1)));
            break;
        case Round::rna:
            quotient += shift > 0 && rest >= half;
            break;
        case Round::rz:
            break;
        case Round::rm:
            quotient += negative && rest != 0;
            break;
        case Round::rp:
            quotient += !negative && rest != 0;
            break;
    }
    const int64_t scaled =
        (static_cast<int64_t>(target - lowest) << fmt.mantissa) + static_cast<int64_t>(quotient);
    if (scaled > fmt.max_finite) {
        const bool toward_zero = round == Round::rz || (round == Round::rm && !negative) ||
                                 (round == Round::rp && negative);
        return sign | (satfinite || toward_zero ? fmt.max_finite : fmt.inf);
    }
    return sign | static_cast<uint32_t>(scaled);
}

// Every format above is exact in float.
inline float decode(uint32_t code, const Format& fmt) {
    const uint32_t magnitude = code & (fmt.sign - 1);
    const uint32_t sign = code & fmt.sign ? 0x80000000u : 0;
    if (fmt.nan != fmt.max_finite && magnitude > fmt.max_finite) {
        return bits_f32(sign |
                        (magnitude == fmt.inf && fmt.inf != fmt.nan ? 0x7f800000u : 0x7fffffffu));
    }
    const int exponent = static_cast<int>(magnitude >> fmt.mantissa);
    const uint32_t fraction = magnitude & ((1u << fmt.mantissa) - 1);
    const float value = exponent == 0
                            ? std::ldexp(static_cast<float>(fraction), 1 - fmt.bias - fmt.mantissa)
                            : std::ldexp(static_cast<float>(fraction | 1u << fmt.mantissa),
                                         exponent - fmt.bias - fmt.mantissa);
    return bits_f32(f32_bits(value) | sign);
}

// Branch-free: g++ vectorises a lane loop over these four.
inline float f16_to_f32(uint16_t h) {
    const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fff) << 13;
    const uint32_t scaled =
        f32_bits(bits_f32(magnitude) * bits_f32(0x77800000u));  // * 2^112, subnormals included
    const uint32_t special = magnitude | 0x7f800000u;
    return bits_f32((magnitude >= 0x0f800000u ? special : scaled) |
                    static_cast<uint32_t>(h & 0x8000) << 16);
}
inline uint16_t f32_to_f16(float x) {
    const uint32_t u = f32_bits(x), sign = u & 0x80000000u, magnitude = u ^ sign;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
    const uint32_t tiny = f32_bits(bits_f32(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t code = magnitude < 0x38800000u ? tiny : normal;
    code = magnitude >= 0x477ff000u ? 0x7c00u : code;
    const uint32_t signed_code = code | sign >> 16;
    return static_cast<uint16_t>(magnitude > 0x7f800000u ? 0x7fffu : signed_code);
}
inline float bf16_to_f32(uint16_t h) {
    return bits_f32(static_cast<uint32_t>(h) << 16);
}
inline uint16_t f32_to_bf16(float x) {
    const uint32_t u = f32_bits(x);
    const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
    return static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : rounded);
}

inline uint16_t f32_to_f16(float x, Round round, bool satfinite = false, bool relu = false) {
    return static_cast<uint16_t>(encode(x, kF16, round, satfinite, relu));
}
inline uint16_t f32_to_bf16(float x, Round round, bool satfinite = false, bool relu = false) {
    return static_cast<uint16_t>(encode(x, kBf16, round, satfinite, relu));
}
// cvt.{rn,rz,rna}.tf32.f32: the result is an fp32 word whose low 13 bits are zero.
inline uint32_t f32_to_tf32(float x, Round round, bool satfinite = false, bool relu = false) {
    const uint32_t code = encode(x, kTf32, round, satfinite, relu);
    return code == kTf32.nan ? kNanF32 : code << 13;
}
// How a tensor core reads a .tf32 operand: the low 13 bits of the word are ignored.
inline float tf32_operand(uint32_t word) {
    return bits_f32(word & 0xffffe000u);
}
inline uint8_t f32_to_e4m3(float x, bool relu = false) {
    return static_cast<uint8_t>(encode(x, kE4m3, Round::rn, true, relu));
}
inline uint8_t f32_to_e5m2(float x, bool relu = false) {
    return static_cast<uint8_t>(encode(x, kE5m2, Round::rn, true, relu));
}
float e4m3_to_f32(uint8_t code);
float e5m2_to_f32(uint8_t code);
inline float e2m1_to_f32(uint8_t code) {
    return decode(code & 0xf, kE2m1);
}
inline float e2m3_to_f32(uint8_t code) {
    return decode(code & 0x3f, kE2m3);
}
inline float e3m2_to_f32(uint8_t code) {
    return decode(code & 0x3f, kE3m2);
}
// NaN converts to the positive largest value in the formats without NaN.
inline uint8_t f32_to_e2m1(float x, bool relu = false) {
    return static_cast<uint8_t>(encode(x, kE2m1, Round::rn, true, relu));
}
inline uint8_t f32_to_e2m3(float x, bool relu = false) {
    return static_cast<uint8_t>(encode(x, kE2m3, Round::rn, true, relu));
}
inline uint8_t f32_to_e3m2(float x, bool relu = false) {
    return static_cast<uint8_t>(encode(x, kE3m2, Round::rn, true, relu));
}
// ue8m0 holds 2^(code-127); 255 is NaN. rz and rp only; the sign of the input is dropped.
uint8_t f32_to_ue8m0(float x, Round round, bool satfinite);
inline float ue8m0_to_f32(uint8_t code) {
    return code == 255 ? bits_f32(kNanF32)
           : code == 0 ? bits_f32(0x00400000u)
                       : bits_f32(static_cast<uint32_t>(code) << 23);
}

// The float next to d toward zero with its last bit set when inexact: a later rounding to <= 22
// bits rounds only once.
inline float to_odd(double d, bool inexact = false) {
    if (d != d || std::isinf(d)) {
        return static_cast<float>(d);
    }
    float f = static_cast<float>(d);
    uint32_t u = f32_bits(f);
    if (std::fabs(static_cast<double>(f)) > std::fabs(d)) {
        u -= 1;
    }
    return bits_f32(u | (inexact || static_cast<double>(bits_f32(u)) != d));
}
// a + b in double and whether it was inexact, result rounded to odd.
inline double add_odd(double a, double b) {
    const double s = a + b, t = s - a;
    const double error = (a - (s - t)) + (b - t);
    uint64_t u = std::bit_cast<uint64_t>(s);
    if (error != 0 && error == error && !(u & 1)) {
        u += (error > 0) == (s > 0) ? 1 : -1;
    }
    return std::bit_cast<double>(u);
}
inline float f64_to_f32(double d, Round round) {
    float f = static_cast<float>(d);
    if (round == Round::rn || d != d || static_cast<double>(f) == d) {
        return f;
    }
    const double back = f;
    const bool up = back > d;
    if (round == Round::rz   ? std::fabs(back) > std::fabs(d)
        : round == Round::rm ? up
        : round == Round::rp ? !up
                             : false) {
        const bool grow = round == Round::rm ? d < 0 : round == Round::rp && d > 0;
        if (f == 0) {
            return bits_f32((round == Round::rm ? 0x80000000u : 0u) | 1u);
        }
        f = bits_f32(f32_bits(f) + (grow ? 1 : -1));
    }
    return f;
}
// fp32 arithmetic with the rounding mode of the instruction; rn is what the host computes.
float f32_add(float a, float b, Round round);
float f32_mul(float a, float b, Round round);
float f32_fma(float a, float b, float c, Round round);
inline float f32_canonical(float x) {
    return x != x ? bits_f32(kNanF32) : x;
}
inline float f32_ftz(float x) {
    const uint32_t u = f32_bits(x);
    return bits_f32((u & 0x7f800000u) == 0 ? u & 0x80000000u : u);
}
// .sat: clamp to [0, 1], NaN becomes +0.
inline float f32_sat(float x) {
    return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
}
inline uint16_t f16_ftz(uint16_t h) {
    return (h & 0x7c00) == 0 ? h & 0x8000 : h;
}

// 16-bit arithmetic: one rounding to nearest even, NaN results canonical.
uint16_t f16_add(uint16_t a, uint16_t b);
uint16_t f16_sub(uint16_t a, uint16_t b);
uint16_t f16_mul(uint16_t a, uint16_t b);
uint16_t f16_fma(uint16_t a, uint16_t b, uint16_t c);
uint16_t bf16_add(uint16_t a, uint16_t b);
uint16_t bf16_sub(uint16_t a, uint16_t b);
uint16_t bf16_mul(uint16_t a, uint16_t b);
uint16_t bf16_fma(uint16_t a, uint16_t b, uint16_t c);
// nan_propagates is the .NaN form; otherwise the operand that is a number wins. -0 < +0.
uint16_t f16_min(uint16_t a, uint16_t b, bool nan_propagates = false);
uint16_t f16_max(uint16_t a, uint16_t b, bool nan_propagates = false);
uint16_t bf16_min(uint16_t a, uint16_t b, bool nan_propagates = false);
uint16_t bf16_max(uint16_t a, uint16_t b, bool nan_propagates = false);

// Two halves of a 32-bit word at once: packed(a, b, f16_add).
template <class Op>
inline uint32_t packed(uint32_t a, uint32_t b, Op op) {
    return static_cast<uint32_t>(op(static_cast<uint16_t>(a), static_cast<uint16_t>(b))) |
           static_cast<uint32_t>(op(static_cast<uint16_t>(a >> 16), static_cast<uint16_t>(b >> 16)))
               << 16;
}
template <class Op>
inline uint32_t packed(uint32_t a, uint32_t b, uint32_t c, Op op) {
    return static_cast<uint32_t>(
               op(static_cast<uint16_t>(a), static_cast<uint16_t>(b), static_cast<uint16_t>(c))) |
           static_cast<uint32_t>(op(static_cast<uint16_t>(a >> 16), static_cast<uint16_t>(b >> 16),
                                    static_cast<uint16_t>(c >> 16)))
               << 16;
}

}  // namespace emu::num
