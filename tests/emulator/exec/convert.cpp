// SPDX-License-Identifier: BSD-3-Clause
// cvt in all its forms, cvt.pack.
#include <algorithm>
#include <cmath>
#include <limits>

#include "exec/floating.h"
#include "exec/lanes.h"
#include "units/numeric.h"

namespace emu {

namespace {

using num::Round;
using ptx::Type;

// How a value is rounded; the integer rounding modes (rni ...) are rn ... with `integral`.
struct Mode {
    Round round = Round::rn;
    bool integral = false, rounded = false, ftz = false, sat = false, satfinite = false,
         relu = false;
};

// A value on its way: exact, as a long double holds every 64-bit integer and double.
using Exact = long double;

Exact round_integral(Exact v, Round r) {
    switch (r) {
        case Round::rz:
            return std::trunc(v);
        case Round::rm:
            return std::floor(v);
        case Round::rp:
            return std::ceil(v);
        default:
            return std::nearbyint(v);
    }
}

// One rounding to odd at 53 bits, after which any rounding to <= 24 bits is right.
double odd_double(Exact v) {
    auto d = static_cast<double>(v);
    if (static_cast<Exact>(d) == v || std::isnan(d) || std::isinf(d)) {
        return d;
    }
    if (std::fabs(static_cast<Exact>(d)) > std::fabs(v)) {
        d = std::nextafter(d, 0.0);
    }
    return std::bit_cast<double>(std::bit_cast<uint64_t>(d) | 1);
}

Exact read(Type t, uint64_t bits, bool ftz) {
    switch (t) {
        case Type::u8:
            return static_cast<uint8_t>(bits);
        case Type::s8:
            return static_cast<int8_t>(bits);
        case Type::u16:
            return static_cast<uint16_t>(bits);
        case Type::s16:
            return static_cast<int16_t>(bits);
        case Type::u32:
            return static_cast<uint32_t>(bits);
        case Type::s32:
            return static_cast<int32_t>(bits);
        case Type::u64:
            return bits;
        case Type::s64:
            return static_cast<int64_t>(bits);
        case Type::f16:
            return num::f16_to_f32(static_cast<uint16_t>(bits));
        case Type::bf16:
            return num::bf16_to_f32(static_cast<uint16_t>(bits));
        case Type::f32: {
            const float f = std::bit_cast<float>(static_cast<uint32_t>(bits));
            return ftz ? num::f32_ftz(f) : f;
        }
        default:
            return std::bit_cast<double>(bits);
    }
}

uint64_t to_integer(Type d, Type s, Exact v) {
    const int bytes = ptx::bytes_of(d);
    if (std::isnan(v)) {
        return s != Type::f64 && bytes < 8 ? 0 : 1ull << (8 * bytes - 1);
    }
    if (ptx::is_signed(d)) {
        const Exact low = -std::ldexp(Exact{1}, 8 * bytes - 1), high = -low - 1;
        return static_cast<uint64_t>(static_cast<int64_t>(std::clamp(v, low, high)));
    }
    const Exact high = std::ldexp(Exact{1}, 8 * bytes) - 1;
    return static_cast<uint64_t>(std::clamp(v, Exact{0}, high));
}

uint64_t to_float(Type d, Exact v, const Mode& m) {
    // Nearest-even and directed roundings; overflow and NaN are dealt with by the formats.
    if (d == Type::f64) {
        auto r = static_cast<double>(v);
        const Exact back = r;
        if (back != v && !std::isnan(r)) {
            const bool up = m.round == Round::rp || (m.round == Round::rz && v < 0);
            const bool down = m.round == Round::rm || (m.round == Round::rz && v > 0);
            if (up && back < v) {
                r = std::nextafter(r, std::numeric_limits<double>::infinity());
            } else if (down && back > v) {
                r = std::nextafter(r, -std::numeric_limits<double>::infinity());
            }
        }
        if (m.sat) {
            r = r > 0 ? std::min(r, 1.0) : 0.0;
        }
        return std::isnan(r) ? 0x7fffffffffffffffull : std::bit_cast<uint64_t>(r);
    }
    const double wide = odd_double(v);
    if (d == Type::f32) {
        float r = num::f64_to_f32(wide, m.round);
        r = m.ftz ? num::f32_ftz(r) : r;
        r = m.sat ? num::f32_sat(r) : r;
        r = m.relu && r < 0 ? 0.0f : r;
        return std::bit_cast<uint32_t>(num::f32_canonical(r));
    }
    const float narrow = num::to_odd(wide);
    uint16_t r = d == Type::f16 ? num::f32_to_f16(narrow, m.round, m.satfinite, m.relu)
                                : num::f32_to_bf16(narrow, m.round, m.satfinite, m.relu);
    if (m.sat) {
        const float f = d == Type::f16 ? num::f16_to_f32(r) : num::bf16_to_f32(r);
        r = f > 0 ? (f < 1 ? r : static_cast<uint16_t>(d == Type::f16 ? 0x3c00 : 0x3f80)) : 0;
    }
    return r;
}

struct Cvt {
    Type d, s;
    Mode mode;
    int register_bytes;  // of the destination: results narrower than it are extended
    bool wide_in;        // the source register has 64 bits, whatever the type
};

// Extends an integer result to the register and cuts 16-bit registers.
uint64_t extend(const Cvt& c, uint64_t v) {
    const int bytes = ptx::bytes_of(c.d);
    if (bytes < c.register_bytes) {
        const int shift = 64 - 8 * bytes;
        v = ptx::is_signed(c.d) ? static_cast<uint64_t>(static_cast<int64_t>(v << shift) >> shift)
                                : v << shift >> shift;
    }
    return c.register_bytes == 2 ? v & 0xffff : c.register_bytes == 1 ? v & 0xff : v;
}

void cvt_any(Warp& w, const Instr& i, uint32_t active) {
    const auto& c = *static_cast<const Cvt*>(i.ext);
    const bool wide_in = c.wide_in, wide_out = c.register_bytes == 8;
    for_lanes(active, [&](int l) {
        const uint64_t bits = wide_in ? w.u64(i.r[1])[l] : w.u32(i.r[1])[l];
        uint64_t r;
        if (!ptx::is_float(c.s) && !ptx::is_float(c.d) && !c.mode.sat) {
            const int shift = 64 - 8 * ptx::bytes_of(c.s);
            r = ptx::is_signed(c.s)
                    ? static_cast<uint64_t>(static_cast<int64_t>(bits << shift) >> shift)
                    : bits << shift >> shift;
            r = extend(c,
                       ptx::bytes_of(c.d) == 8 ? r : r & (~0ull >> (64 - 8 * ptx::bytes_of(c.d))));
        } else {
            Exact v = read(c.s, bits, c.mode.ftz);
            if (c.mode.integral) {
                const Exact whole = round_integral(v, c.mode.round);
                v = whole == 0 ? std::copysign(Exact{0}, v) : whole;
            }
            r = ptx::is_float(c.d) ? to_float(c.d, v, c.mode) : extend(c, to_integer(c.d, c.s, v));
        }
        if (wide_out) {
            w.u64(i.r[0])[l] = r;
        } else {
            w.u32(i.r[0])[l] = static_cast<uint32_t>(r);
        }
    });
}

template <class D, class S>
struct To {
    D operator()(S v) const { return static_cast<D>(v); }
};
struct F16ToF32 {
    float operator()(uint16_t h) const { return num::f16_to_f32(h); }
};
struct Bf16ToF32 {
    float operator()(uint16_t h) const {
        return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
    }
};
struct F32ToF16 {
    uint16_t operator()(float f) const { return num::f32_to_f16(f); }
};
struct F32ToBf16 {
    uint16_t operator()(float f) const { return num::f32_to_bf16(f); }
};
struct F64ToF32 {
    float operator()(double d) const { return num::f32_canonical(static_cast<float>(d)); }
};
struct F32ToF64 {
    double operator()(float f) const {
        return f != f ? std::bit_cast<double>(0x7fffffffffffffffull) : static_cast<double>(f);
    }
};
// f32 -> s32 toward zero: what casts in C compile to.
struct F32ToS32 {
    int32_t operator()(float f) const {
        const float c = f < -2147483648.0f ? -2147483648.0f : f;
        return f != f ? 0 : (c >= 2147483648.0f ? INT32_MAX : static_cast<int32_t>(c));
    }
};

// The common conversions, vectorised; nullptr otherwise.
Handler fast(Type d, Type s, const Mode& m, int register_bytes) {
    if (m.sat || m.satfinite || m.relu || m.ftz) {
        return nullptr;
    }
    if (!m.integral && m.round == Round::rn) {
        if (d == Type::f32 && s == Type::f16) {
            return map1<float, uint16_t, F16ToF32>;
        }
        if (d == Type::f32 && s == Type::bf16) {
            return map1<float, uint16_t, Bf16ToF32>;
        }
        if (d == Type::f16 && s == Type::f32) {
            return map1<uint16_t, float, F32ToF16>;
        }
        if (d == Type::bf16 && s == Type::f32) {
            return map1<uint16_t, float, F32ToBf16>;
        }
        if (d == Type::f32 && s == Type::s32) {
            return map1<float, int32_t, To<float, int32_t>>;
        }
        if (d == Type::f32 && s == Type::u32) {
            return map1<float, uint32_t, To<float, uint32_t>>;
        }
        if (d == Type::f64 && s == Type::s32) {
            return map1<double, int32_t, To<double, int32_t>>;
        }
        if (d == Type::f32 && s == Type::f64) {
            return map1<float, double, F64ToF32>;
        }
        if (d == Type::f64 && s == Type::f32) {
            return map1<double, float, F32ToF64>;
        }
    }
    if (d == Type::s32 && s == Type::f32 && m.integral && m.round == Round::rz) {
        return map1<int32_t, float, F32ToS32>;
    }
    if (register_bytes == 8 && ptx::bytes_of(d) == 8 && !ptx::is_float(d)) {
        if (s == Type::u32) {
            return map1<uint64_t, uint32_t, To<uint64_t, uint32_t>>;
        }
        if (s == Type::s32) {
            return map1<uint64_t, int32_t, To<uint64_t, int32_t>>;
        }
        if (s == Type::u16) {
            return map1<uint64_t, uint16_t, To<uint64_t, uint16_t>>;
        }
    }
    if (register_bytes == 4 && ptx::bytes_of(d) == 4 && !ptx::is_float(d)) {
        if (s == Type::u64 || s == Type::s64) {
            return map1<uint32_t, uint64_t, To<uint32_t, uint64_t>>;
        }
        if (s == Type::u16) {
            return map1<uint32_t, uint16_t, To<uint32_t, uint16_t>>;
        }
        if (s == Type::s16) {
            return map1<uint32_t, int16_t, To<uint32_t, int16_t>>;
        }
        if (s == Type::u8) {
            return map1<uint32_t, uint8_t, To<uint32_t, uint8_t>>;
        }
        if (s == Type::s8) {
            return map1<uint32_t, int8_t, To<uint32_t, int8_t>>;
        }
    }
    if (register_bytes == 2 && ptx::bytes_of(d) == 2 && !ptx::is_float(d) &&
        (s == Type::u32 || s == Type::s32)) {
        return map1<uint16_t, uint32_t, To<uint16_t, uint32_t>>;
    }
    return nullptr;
}

// ---- packed destinations: cvt.f16x2.f32 d, a, b puts a into the upper half ----

enum class Small : uint32_t { f16, bf16, e4m3, e5m2, e3m2, e2m3, e2m1, ue8m0, none };

struct PackedCvt {
    Small d, s;  // s none: f32
    Mode mode;
};

Small small_named(std::string_view n) {
    if (n == "f16x2") {
        return Small::f16;
    }
    if (n == "bf16x2") {
        return Small::bf16;
    }
    if (n == "e4m3x2") {
        return Small::e4m3;
    }
    if (n == "e5m2x2") {
        return Small::e5m2;
    }
    if (n == "e3m2x2") {
        return Small::e3m2;
    }
    if (n == "e2m3x2") {
        return Small::e2m3;
    }
    if (n == "e2m1x2") {
        return Small::e2m1;
    }
    return n == "ue8m0x2" ? Small::ue8m0 : Small::none;
}

int bits_of(Small s) {
    return s == Small::f16 || s == Small::bf16 ? 16 : s == Small::e2m1 ? 4 : 8;
}

uint32_t encode(Small d, float x, const Mode& m) {
    switch (d) {
        case Small::f16:
            return num::f32_to_f16(x, m.round, m.satfinite, m.relu);
        case Small::bf16:
            return num::f32_to_bf16(x, m.round, m.satfinite, m.relu);
        case Small::e4m3:
            return num::f32_to_e4m3(x, m.relu);
        case Small::e5m2:
            return num::f32_to_e5m2(x, m.relu);
        case Small::e3m2:
            return num::f32_to_e3m2(x, m.relu);
        case Small::e2m3:
            return num::f32_to_e2m3(x, m.relu);
        case Small::e2m1:
            return num::f32_to_e2m1(x, m.relu);
        default:
            return num::f32_to_ue8m0(x, m.round, m.satfinite);
    }
}

float decode(Small s, uint32_t code) {
    switch (s) {
        case Small::f16:
            return num::f16_to_f32(static_cast<uint16_t>(code));
        case Small::bf16:
            return num::bf16_to_f32(static_cast<uint16_t>(code));
        case Small::e4m3:
            return num::e4m3_to_f32(static_cast<uint8_t>(code));
        case Small::e5m2:
            return num::e5m2_to_f32(static_cast<uint8_t>(code));
        case Small::e3m2:
            return num::e3m2_to_f32(static_cast<uint8_t>(code));
        case Small::e2m3:
            return num::e2m3_to_f32(static_cast<uint8_t>(code));
        case Small::e2m1:
            return num::e2m1_to_f32(static_cast<uint8_t>(code));
        default:
            return num::ue8m0_to_f32(static_cast<uint8_t>(code));
    }
}

void cvt_packed(Warp& w, const Instr& i, uint32_t active) {
    const auto& c = *static_cast<const PackedCvt*>(i.ext);
    const int out = bits_of(c.d);
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = i.r[2] == kNoRef ? a : w.u32(i.r[2]);
    each_active(w.u32(i.r[0]), active, [&](int l) {
        float high, low;
        if (c.s == Small::none) {
            high = std::bit_cast<float>(a[l]), low = std::bit_cast<float>(b[l]);
        } else {
            const int in = bits_of(c.s);
            low = decode(c.s, a[l] & ((1u << in) - 1));
            high = decode(c.s, a[l] >> in & ((1u << in) - 1));
        }
        return encode(c.d, low, c.mode) | encode(c.d, high, c.mode) << out;
    });
}

void cvt_f16x2(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    each(w.u32(i.r[0]), active, [&](int l) {
        return static_cast<uint32_t>(num::f32_to_f16(std::bit_cast<float>(a[l]))) << 16 |
               num::f32_to_f16(std::bit_cast<float>(b[l]));
    });
}

void cvt_bf16x2(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    each(w.u32(i.r[0]), active, [&](int l) {
        return static_cast<uint32_t>(num::f32_to_bf16(std::bit_cast<float>(a[l]))) << 16 |
               num::f32_to_bf16(std::bit_cast<float>(b[l]));
    });
}

void cvt_tf32(Warp& w, const Instr& i, uint32_t active) {
    const auto& m = *static_cast<const Mode*>(i.ext);
    const uint32_t* a = w.u32(i.r[1]);
    each_active(w.u32(i.r[0]), active, [&](int l) {
        return num::f32_to_tf32(std::bit_cast<float>(a[l]), m.round, m.satfinite, m.relu);
    });
}

// cvt.pack.sat.T.s32{.b32} d, a, b{, c}: d = sat(a), sat(b) in the low bits, c shifted up. small:
// bits | signed << 8
void cvt_pack(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    const uint32_t* c = i.r[3] == kNoRef ? nullptr : w.u32(i.r[3]);
    const uint32_t bits = i.small & 0xff;
    const bool is_signed = i.small >> 8;
    const int64_t low = is_signed ? -(int64_t{1} << (bits - 1)) : 0,
                  high = is_signed ? -low - 1 : (int64_t{1} << bits) - 1;
    const uint32_t mask = (1u << bits) - 1;
    each_active(w.u32(i.r[0]), active, [&](int l) {
        auto sat = [&](uint32_t v) {
            return static_cast<uint32_t>(std::clamp<int64_t>(static_cast<int32_t>(v), low, high)) &
                   mask;
        };
        const uint32_t pair = sat(a[l]) << bits | sat(b[l]);
        return c ? pair | c[l] << (2 * bits) : pair;
    });
}

Instr decode_cvt_pack(const ptx::Statement& s, DecodeContext& c) {
    Instr i;
    i.run = cvt_pack;
    if (!s.has("sat") || s.parts.size() < 5) {
        c.fail("unknown form of cvt.pack");
    }
    const std::string_view t = s.parts[3];
    i.small = static_cast<uint32_t>(t == "u16" || t == "s16" ? 16
                                    : t == "u8" || t == "s8" ? 8
                                    : t == "u4" || t == "s4" ? 4
                                                             : 2) |
              (t[0] == 's' ? 0x100u : 0u);
    i.r[0] = c.target(c.operand(0), Type::b32);
    i.r[1] = c.source(c.operand(1), Type::s32);
    i.r[2] = c.source(c.operand(2), Type::s32);
    if (c.operands() > 3) {
        i.r[3] = c.source(c.operand(3), Type::b32);
    }
    return i;
}

Instr decode_cvt(const ptx::Statement& s, DecodeContext& c) {
    if (s.has("pack")) {
        return decode_cvt_pack(s, c);
    }
    Mode m;
    const size_t n = s.parts.size();
    for (size_t k = 1; k + 2 < n; ++k) {
        const std::string_view p = s.parts[k];
        const std::string_view kInt = "i";
        if (p.size() >= 2 && p[0] == 'r' &&
            (p.substr(0, 2) == "rn" || p.substr(0, 2) == "rz" || p.substr(0, 2) == "rm" ||
             p.substr(0, 2) == "rp") &&
            (p.size() == 2 || p.substr(2) == kInt || p == "rna")) {
            m.rounded = true;
            m.integral = p.size() == 3 && p[2] == 'i';
            m.round = p == "rna"    ? Round::rna
                      : p[1] == 'n' ? Round::rn
                      : p[1] == 'z' ? Round::rz
                      : p[1] == 'm' ? Round::rm
                                    : Round::rp;
        } else if (p == "ftz") {
            m.ftz = true;
        } else if (p == "sat") {
            m.sat = true;
        } else if (p == "satfinite") {
            m.satfinite = true;
        } else if (p == "relu") {
            m.relu = true;
        } else {
            c.unknown(p);
        }
    }
    Instr i;
    const std::string_view dn = s.parts[n - 2], sn = s.parts[n - 1];
    if (const Small d = small_named(dn); d != Small::none) {
        const Small from = small_named(sn);
        if (from == Small::none && sn != "f32") {
            c.unknown(sn);
        }
        const Type word = bits_of(d) == 16 ? Type::b32 : bits_of(d) == 8 ? Type::b16 : Type::b8;
        i.r[0] = c.target(c.operand(0), word);
        if (from == Small::none) {
            i.r[1] = c.source(c.operand(1), Type::f32);
            i.r[2] = c.source(c.operand(2), Type::f32);
            const bool plain = m.round == Round::rn && !m.satfinite && !m.relu;
            i.run = plain && d == Small::f16    ? cvt_f16x2
                    : plain && d == Small::bf16 ? cvt_bf16x2
                                                : cvt_packed;
            if (c.operands() > 3) {
                c.fail("stochastic rounding is not known");
            }
        } else {
            i.r[1] = c.source(c.operand(1), bits_of(from) == 16  ? Type::b32
                                            : bits_of(from) == 8 ? Type::b16
                                                                 : Type::b8);
            i.run = cvt_packed;
        }
        i.ext = c.own(PackedCvt{d, from, m});
        return i;
    }
    const Type d = ptx::type_named(dn), from = ptx::type_named(sn);
    if (d == Type::none || from == Type::none) {
        c.unknown(d == Type::none ? dn : sn);
    }
    if (d == Type::tf32) {
        i.r[0] = c.target(c.operand(0), Type::b32);
        i.r[1] = c.source(c.operand(1), Type::f32);
        i.run = cvt_tf32;
        i.ext = c.own(m);
        return i;
    }
    const int width = c.width_of(c.operand(0));
    const int register_bytes = width ? width : ptx::bytes_of(d);
    const Type stored = register_bytes == 8 ? Type::b64 : Type::b32;
    i.r[0] = c.target(c.operand(0), stored);
    const int source_width = c.width_of(c.operand(1));
    i.r[1] =
        c.source(c.operand(1), source_width == 8 && ptx::bytes_of(from) < 8 ? Type::b64 : from);
    if (ptx::is_float(from) && ptx::is_float(d) && !m.rounded) {
        m.round = Round::rn;
    }
    const bool wide_in = source_width == 8 || (source_width == 0 && ptx::bytes_of(from) == 8);
    i.run = wide_in == (ptx::bytes_of(from) == 8) ? fast(d, from, m, register_bytes) : nullptr;
    if (!i.run) {
        i.run = cvt_any;
        i.ext = c.own(Cvt{d, from, m, register_bytes, wide_in});
    }
    return i;
}

const RegisterFamily kFamily("cvt", decode_cvt);

}  // namespace

}  // namespace emu
