// SPDX-License-Identifier: BSD-3-Clause
// Bitwise and shift instructions: and or xor not cnot lop3 shl shr shf prmt bfe bfi popc clz bfind
// brev fns szext bmsk.
#include <bit>

#include "exec/lanes.h"

namespace emu {

namespace {

using ptx::Type;

struct And {
    template <class T>
    T operator()(T a, T b) const {
        return a & b;
    }
};
struct Or {
    template <class T>
    T operator()(T a, T b) const {
        return a | b;
    }
};
struct Xor {
    template <class T>
    T operator()(T a, T b) const {
        return a ^ b;
    }
};
struct Not {
    template <class T>
    T operator()(T a) const {
        return static_cast<T>(~a);
    }
};
struct Cnot {
    template <class T>
    T operator()(T a) const {
        return a == 0;
    }
};
// Shift amounts beyond the width clamp to it.
struct Shl {
    template <class T>
    T operator()(T a, uint32_t n) const {
        constexpr uint32_t kBits = 8 * sizeof(T);
        return n >= kBits ? T{0} : static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) << n);
    }
};
struct Shr {
    template <class T>
    T operator()(T a, uint32_t n) const {
        constexpr uint32_t kBits = 8 * sizeof(T);
        if constexpr (std::is_signed_v<T>) {
            return static_cast<T>(a >> (n >= kBits ? kBits - 1 : n));
        } else {
            return n >= kBits ? T{0} : static_cast<T>(a >> n);
        }
    }
};
template <bool kLeft, bool kWrap>
struct Funnel {
    uint32_t operator()(uint32_t low, uint32_t high, uint32_t n) const {
        n = kWrap ? n & 31 : (n > 32 ? 32 : n);
        const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
        return static_cast<uint32_t>(kLeft ? (both << n) >> 32 : both >> n);
    }
};
struct Brev {
    template <class T>
    T operator()(T a) const {
        T r = 0;
        for (unsigned k = 0; k < 8 * sizeof(T); ++k) {
            r = static_cast<T>(r << 1 | (a >> k & 1));
        }
        return r;
    }
};

template <class Op>
Handler bitwise2(Type t) {
    switch (ptx::bytes_of(t)) {
        case 2:
            return map2<uint16_t, uint16_t, uint16_t, Op>;
        case 4:
            return map2<uint32_t, uint32_t, uint32_t, Op>;
        case 8:
            return map2<uint64_t, uint64_t, uint64_t, Op>;
        default:
            return nullptr;
    }
}
template <class Op>
Handler bitwise1(Type t) {
    switch (ptx::bytes_of(t)) {
        case 2:
            return map1<uint16_t, uint16_t, Op>;
        case 4:
            return map1<uint32_t, uint32_t, Op>;
        case 8:
            return map1<uint64_t, uint64_t, Op>;
        default:
            return nullptr;
    }
}

// d = p[0], sources p[1], p[2]
template <class Op>
void pred2(Warp& w, const Instr& i, uint32_t active) {
    w.set_pred(i.p[0], Op()(w.pred(i.p[1]), w.pred(i.p[2])), active);
}
void pred_not(Warp& w, const Instr& i, uint32_t active) {
    w.set_pred(i.p[0], ~w.pred(i.p[1]), active);
}

template <class Op>
Instr decode_bitwise2(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    if (t == Type::pred) {
        Instr i;
        i.run = pred2<Op>;
        i.p[0] = c.predicate_target(c.operand(0));
        i.p[1] = c.predicate(c.operand(1));
        i.p[2] = c.predicate(c.operand(2));
        return i;
    }
    return pack(c, bitwise2<Op>(t), {t, t, t});
}

Instr decode_not(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    if (t == Type::pred) {
        Instr i;
        i.run = pred_not;
        i.p[0] = c.predicate_target(c.operand(0));
        i.p[1] = c.predicate(c.operand(1));
        return i;
    }
    return pack(c, bitwise1<Not>(t), {t, t});
}

Instr decode_cnot(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    return pack(c, bitwise1<Cnot>(t), {t, t});
}

Instr decode_shl(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    Handler run = ptx::bytes_of(t) == 2   ? map2<uint16_t, uint16_t, uint32_t, Shl>
                  : ptx::bytes_of(t) == 4 ? map2<uint32_t, uint32_t, uint32_t, Shl>
                                          : map2<uint64_t, uint64_t, uint32_t, Shl>;
    return pack(c, run, {t, t, Type::u32});
}

Instr decode_shr(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    Handler run = nullptr;
    switch (t) {
        case Type::s16:
            run = map2<int16_t, int16_t, uint32_t, Shr>;
            break;
        case Type::s32:
            run = map2<int32_t, int32_t, uint32_t, Shr>;
            break;
        case Type::s64:
            run = map2<int64_t, int64_t, uint32_t, Shr>;
            break;
        case Type::u16:
        case Type::b16:
            run = map2<uint16_t, uint16_t, uint32_t, Shr>;
            break;
        case Type::u32:
        case Type::b32:
            run = map2<uint32_t, uint32_t, uint32_t, Shr>;
            break;
        case Type::u64:
        case Type::b64:
            run = map2<uint64_t, uint64_t, uint32_t, Shr>;
            break;
        default:
            c.unknown(s.parts.back());
    }
    return pack(c, run, {t, t, Type::u32});
}

Instr decode_shf(const ptx::Statement& s, DecodeContext& c) {
    const bool left = s.has("l"), wrap = s.has("wrap");
    Handler run = left
                      ? (wrap ? map3<uint32_t, uint32_t, uint32_t, uint32_t, Funnel<true, true>>
                              : map3<uint32_t, uint32_t, uint32_t, uint32_t, Funnel<true, false>>)
                      : (wrap ? map3<uint32_t, uint32_t, uint32_t, uint32_t, Funnel<false, true>>
                              : map3<uint32_t, uint32_t, uint32_t, uint32_t, Funnel<false, false>>);
    return pack(c, run, {Type::b32, Type::b32, Type::b32, Type::b32});
}

// ---- lop3: the truth table is expanded into masks ----

inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
    uint32_t r = 0;
    for (uint32_t k = 0; k < 8; ++k) {
        const uint32_t minterm = (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
        r |= minterm & (0 - (table >> k & 1));
    }
    return r;
}

void lop3_any(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    const uint32_t* c = w.u32(i.r[3]);
    const auto table = static_cast<uint32_t>(i.imm);
    each(w.u32(i.r[0]), active, [&](int l) { return lop3(a[l], b[l], c[l], table); });
}

template <uint32_t kTable>
struct Lop3Fixed {
    uint32_t operator()(uint32_t a, uint32_t b, uint32_t c) const { return lop3(a, b, c, kTable); }
};

// lop3.BoolOp d|p, a, b, c, table, q: p = (d != 0) BoolOp q; small: 1 for .and
void lop3_bool(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    const uint32_t* c = w.u32(i.r[3]);
    const auto table = static_cast<uint32_t>(i.imm);
    const uint32_t set = ballot([&](int l) { return lop3(a[l], b[l], c[l], table) != 0; });
    each(w.u32(i.r[0]), active, [&](int l) { return lop3(a[l], b[l], c[l], table); });
    const uint32_t q = w.pred(i.p[1]);
    w.set_pred(i.p[0], i.small ? set & q : set | q, active);
}

Instr decode_lop3(const ptx::Statement& s, DecodeContext& c) {
    const bool with_pred = s.has("and") || s.has("or");
    Instr i;
    const ptx::Operand& d = c.operand(0);
    if (with_pred) {
        if (d.kind != ptx::Operand::Kind::pair) {
            c.fail("lop3 with a BoolOp needs d|p");
        }
        i.r[0] = c.target(d.items[0], Type::b32);
        i.p[0] = c.predicate_target(d.items[1]);
        i.p[1] = c.predicate(c.operand(5));
        i.small = s.has("and");
        i.run = lop3_bool;
    } else {
        i.r[0] = c.target(d, Type::b32);
        i.run = lop3_any;
    }
    for (size_t k = 1; k < 4; ++k) {
        i.r[k] = c.source(c.operand(k), Type::b32);
    }
    i.imm = c.integer(c.operand(4)) & 0xff;
    if (!with_pred) {
        using F = uint32_t;
        switch (i.imm) {
            case 0x80:
                i.run = map3<F, F, F, F, Lop3Fixed<0x80>>;
                break;
            case 0x96:
                i.run = map3<F, F, F, F, Lop3Fixed<0x96>>;
                break;
            case 0xca:
                i.run = map3<F, F, F, F, Lop3Fixed<0xca>>;
                break;
            case 0xea:
                i.run = map3<F, F, F, F, Lop3Fixed<0xea>>;
                break;
            case 0xf8:
                i.run = map3<F, F, F, F, Lop3Fixed<0xf8>>;
                break;
            case 0xfe:
                i.run = map3<F, F, F, F, Lop3Fixed<0xfe>>;
                break;
            default:
                break;
        }
    }
    return i;
}

// ---- prmt ----

inline uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
    uint32_t r = 0;
    for (int k = 0; k < 4; ++k) {
        const uint32_t s = selector >> (4 * k) & 15;
        uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (s & 7))) & 0xff;
        if (s & 8) {
            byte = byte & 0x80 ? 0xff : 0;
        }
        r |= byte << (8 * k);
    }
    return r;
}

// small: 0 generic, 1 f4e, 2 b4e, 3 rc8, 4 ecl, 5 ecr, 6 rc16
inline uint32_t selector_of(uint32_t mode, uint32_t c) {
    const uint32_t n = c & 3;
    switch (mode) {
        case 1:
            return (n) | (n + 1) << 4 | (n + 2) << 8 | (n + 3) << 12;
        case 2:
            return (n) | ((n + 7) & 7) << 4 | ((n + 6) & 7) << 8 | ((n + 5) & 7) << 12;
        case 3:
            return n * 0x1111;
        case 4: {
            uint32_t s = 0;
            for (uint32_t k = 0; k < 4; ++k) {
                s |= (k < n ? n : k) << (4 * k);
            }
            return s;
        }
        case 5: {
            uint32_t s = 0;
            for (uint32_t k = 0; k < 4; ++k) {
                s |= (k > n ? n : k) << (4 * k);
            }
            return s;
        }
        case 6:
            return n & 1 ? 0x3232 : 0x1010;
        default:
            return c;
    }
}

void prmt(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    const uint32_t* c = w.u32(i.r[3]);
    const uint32_t mode = i.small;
    each_active(w.u32(i.r[0]), active,
                [&](int l) { return permute(a[l], b[l], selector_of(mode, c[l])); });
}

// Constant selector without sign replication: each byte is one shift of the pair.
void prmt_constant(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    const auto s = static_cast<uint32_t>(i.imm);
    const uint32_t s0 = 8 * (s & 7), s1 = 8 * (s >> 4 & 7), s2 = 8 * (s >> 8 & 7),
                   s3 = 8 * (s >> 12 & 7);
    each(w.u32(i.r[0]), active, [&](int l) {
        const uint64_t v = static_cast<uint64_t>(b[l]) << 32 | a[l];
        return (static_cast<uint32_t>(v >> s0) & 0xff) |
               (static_cast<uint32_t>(v >> s1) & 0xff) << 8 |
               (static_cast<uint32_t>(v >> s2) & 0xff) << 16 | static_cast<uint32_t>(v >> s3) << 24;
    });
}

Instr decode_prmt(const ptx::Statement& s, DecodeContext& c) {
    Instr i = pack(c, prmt, {Type::b32, Type::b32, Type::b32, Type::b32});
    constexpr std::string_view kModes[] = {"", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"};
    for (uint32_t m = 1; m < 7; ++m) {
        if (s.has(kModes[m])) {
            i.small = m;
        }
    }
    if (i.small == 0 && c.is_integer(c.operand(3)) && (c.operand(3).value & 0x8888) == 0) {
        i.imm = c.operand(3).value;
        i.run = prmt_constant;
    }
    return i;
}

// ---- bit fields ----

template <class T>
struct Bfe {
    T operator()(T a, uint32_t b, uint32_t c) const {
        constexpr uint32_t kBits = 8 * sizeof(T);
        using Un = std::make_unsigned_t<T>;
        const uint32_t pos = b & 0xff, len = c & 0xff;
        if (len == 0) {
            return 0;
        }
        // Bits beyond the top are the sign (signed) or zero.
        const uint32_t top = pos + len - 1 < kBits - 1 ? pos + len - 1 : kBits - 1;
        const bool sign = std::is_signed_v<T> && (static_cast<Un>(a) >> top & 1);
        const Un shifted = pos >= kBits ? (sign ? static_cast<Un>(~Un{0}) : Un{0})
                                        : static_cast<Un>(static_cast<Un>(a) >> pos);
        const uint32_t have = top + 1 > pos ? top + 1 - pos : 0;  // bits that come from a
        const Un mask =
            have >= kBits ? static_cast<Un>(~Un{0}) : static_cast<Un>((Un{1} << have) - 1);
        Un r = shifted & mask;
        if (sign) {
            r |= static_cast<Un>(~mask);
        }
        return static_cast<T>(r);
    }
};
template <class T>
struct Bfi {
    T operator()(T a, T b, uint32_t c, uint32_t d) const {
        constexpr uint32_t kBits = 8 * sizeof(T);
        const uint32_t pos = c & 0xff, len = d & 0xff;
        if (pos >= kBits || len == 0) {
            return b;
        }
        const T ones = len >= kBits ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << len) - 1);
        const T mask = static_cast<T>(ones << pos);
        return (b & ~mask) | ((a << pos) & mask);
    }
};

template <class T>
void bfi(Warp& w, const Instr& i, uint32_t active) {
    const Plane<T>* a = w.at<Plane<T>>(i.r[1]);
    const Plane<T>* b = w.at<Plane<T>>(i.r[2]);
    const uint32_t* c = w.u32(i.r[3]);
    const uint32_t* d = w.u32(i.r[4]);
    each_active(w.at<Plane<T>>(i.r[0]), active,
                [&](int l) { return Bfi<T>()(a[l], b[l], c[l], d[l]); });
}

Instr decode_bfe(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    Handler run = t == Type::u32   ? scalar3<uint32_t, uint32_t, uint32_t, uint32_t, Bfe<uint32_t>>
                  : t == Type::s32 ? scalar3<int32_t, int32_t, uint32_t, uint32_t, Bfe<int32_t>>
                  : t == Type::u64 ? scalar3<uint64_t, uint64_t, uint32_t, uint32_t, Bfe<uint64_t>>
                                   : scalar3<int64_t, int64_t, uint32_t, uint32_t, Bfe<int64_t>>;
    return pack(c, run, {t, t, Type::u32, Type::u32});
}

Instr decode_bfi(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    return pack(c, ptx::bytes_of(t) == 8 ? bfi<uint64_t> : bfi<uint32_t>,
                {t, t, t, Type::u32, Type::u32});
}

// ---- counting ----

struct Popc {
    template <class T>
    uint32_t operator()(T a) const {
        return static_cast<uint32_t>(std::popcount(a));
    }
};
struct Clz {
    template <class T>
    uint32_t operator()(T a) const {
        return static_cast<uint32_t>(std::countl_zero(a));
    }
};
template <class T, bool kShift>
struct Bfind {
    uint32_t operator()(T a) const {
        using Un = std::make_unsigned_t<T>;
        const Un v = std::is_signed_v<T> && a < 0 ? static_cast<Un>(~static_cast<Un>(a))
                                                  : static_cast<Un>(a);
        if (v == 0) {
            return 0xffffffff;
        }
        const auto zeros = static_cast<uint32_t>(std::countl_zero(v));
        return kShift ? zeros : static_cast<uint32_t>(8 * sizeof(T)) - 1 - zeros;
    }
};

Instr decode_popc(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    return pack(
        c, ptx::bytes_of(t) == 8 ? map1<uint32_t, uint64_t, Popc> : map1<uint32_t, uint32_t, Popc>,
        {Type::u32, t});
}

Instr decode_clz(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    return pack(
        c, ptx::bytes_of(t) == 8 ? map1<uint32_t, uint64_t, Clz> : map1<uint32_t, uint32_t, Clz>,
        {Type::u32, t});
}

template <bool kShift>
Handler bfind_for(Type t) {
    switch (t) {
        case Type::u32:
            return map1<uint32_t, uint32_t, Bfind<uint32_t, kShift>>;
        case Type::s32:
            return map1<uint32_t, int32_t, Bfind<int32_t, kShift>>;
        case Type::u64:
            return map1<uint32_t, uint64_t, Bfind<uint64_t, kShift>>;
        default:
            return map1<uint32_t, int64_t, Bfind<int64_t, kShift>>;
    }
}

Instr decode_bfind(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    return pack(c, s.has("shiftamt") ? bfind_for<true>(t) : bfind_for<false>(t), {Type::u32, t});
}

Instr decode_brev(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    return pack(c, bitwise1<Brev>(t), {t, t});
}

struct Fns {
    uint32_t operator()(uint32_t mask, uint32_t base, int32_t offset) const {
        if (offset == 0) {
            return mask >> (base & 31) & 1 ? base : 0xffffffff;
        }
        int left = offset > 0 ? offset : -offset;
        for (int k = static_cast<int>(base); k >= 0 && k < 32; k += offset > 0 ? 1 : -1) {
            if ((mask >> k & 1) && --left == 0) {
                return static_cast<uint32_t>(k);
            }
        }
        return 0xffffffff;
    }
};

Instr decode_fns(const ptx::Statement&, DecodeContext& c) {
    return pack(c, scalar3<uint32_t, uint32_t, uint32_t, int32_t, Fns>,
                {Type::b32, Type::b32, Type::b32, Type::s32});
}

template <bool kSigned, bool kWrap>
struct Szext {
    uint32_t operator()(uint32_t a, uint32_t n) const {
        n = kWrap ? n & 31 : (n > 32 ? 32 : n);
        if (n == 32) {
            return a;
        }
        if (n == 0) {
            return 0;
        }
        return kSigned ? static_cast<uint32_t>(static_cast<int32_t>(a << (32 - n)) >> (32 - n))
                       : a & ((1u << n) - 1);
    }
};

Instr decode_szext(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    const bool wrap = s.has("wrap");
    using F = uint32_t;
    Handler run =
        t == Type::s32
            ? (wrap ? map2<F, F, F, Szext<true, true>> : map2<F, F, F, Szext<true, false>>)
            : (wrap ? map2<F, F, F, Szext<false, true>> : map2<F, F, F, Szext<false, false>>);
    return pack(c, run, {t, t, Type::u32});
}

template <bool kWrap>
struct Bmsk {
    uint32_t operator()(uint32_t a, uint32_t b) const {
        a = kWrap ? a & 31 : a, b = kWrap ? b & 31 : b;
        if (a >= 32 || b == 0) {
            return 0;
        }
        return (b >= 32 ? 0xffffffffu : (1u << b) - 1) << a;
    }
};

Instr decode_bmsk(const ptx::Statement& s, DecodeContext& c) {
    using F = uint32_t;
    return pack(c, s.has("wrap") ? map2<F, F, F, Bmsk<true>> : map2<F, F, F, Bmsk<false>>,
                {Type::b32, Type::b32, Type::b32});
}

const RegisterFamily kFamilies[] = {
    {"and", decode_bitwise2<And>}, {"or", decode_bitwise2<Or>}, {"xor", decode_bitwise2<Xor>},
    {"not", decode_not},           {"cnot", decode_cnot},       {"shl", decode_shl},
    {"shr", decode_shr},           {"shf", decode_shf},         {"lop3", decode_lop3},
    {"prmt", decode_prmt},         {"bfe", decode_bfe},         {"bfi", decode_bfi},
    {"popc", decode_popc},         {"clz", decode_clz},         {"bfind", decode_bfind},
    {"brev", decode_brev},         {"fns", decode_fns},         {"szext", decode_szext},
    {"bmsk", decode_bmsk},
};

}  // namespace

}  // namespace emu
