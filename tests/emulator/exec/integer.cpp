// SPDX-License-Identifier: BSD-3-Clause
// Integer arithmetic: add sub mul mad mul24 mad24 div rem abs neg min max sad, carries, dp4a dp2a.
#include <algorithm>
#include <limits>

#include "exec/floating.h"
#include "exec/lanes.h"

namespace emu {

namespace {

using ptx::Type;
template <class T>
using U = std::make_unsigned_t<T>;
template <class T>
using Wide =
    std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                       std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;
template <class T>
using Double = std::conditional_t<
    sizeof(T) == 8, std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>, Wide<T>>;

// Wrapping arithmetic is done in unsigned types at least 32 bits wide.
template <class T>
using W = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

struct Add {
    template <class T>
    T operator()(T a, T b) const {
        return static_cast<T>(static_cast<W<T>>(a) + static_cast<W<T>>(b));
    }
};
struct Sub {
    template <class T>
    T operator()(T a, T b) const {
        return static_cast<T>(static_cast<W<T>>(a) - static_cast<W<T>>(b));
    }
};
struct AddSat {
    int32_t operator()(int32_t a, int32_t b) const {
        const int64_t v = int64_t{a} + b;
        return static_cast<int32_t>(std::clamp<int64_t>(v, INT32_MIN, INT32_MAX));
    }
};
struct SubSat {
    int32_t operator()(int32_t a, int32_t b) const {
        const int64_t v = int64_t{a} - b;
        return static_cast<int32_t>(std::clamp<int64_t>(v, INT32_MIN, INT32_MAX));
    }
};
struct MulLo {
    template <class T>
    T operator()(T a, T b) const {
        return static_cast<T>(static_cast<W<T>>(a) * static_cast<W<T>>(b));
    }
};
struct MulHi {
    template <class T>
    T operator()(T a, T b) const {
        return static_cast<T>((static_cast<Double<T>>(a) * static_cast<Double<T>>(b)) >>
                              (8 * sizeof(T)));
    }
};
struct MulWide {
    template <class T>
    Wide<T> operator()(T a, T b) const {
        return static_cast<Wide<T>>(static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b));
    }
};
struct MadLo {
    template <class T>
    T operator()(T a, T b, T c) const {
        return static_cast<T>(static_cast<W<T>>(a) * static_cast<W<T>>(b) + static_cast<W<T>>(c));
    }
};
struct MadHi {
    template <class T>
    T operator()(T a, T b, T c) const {
        return Add()(MulHi()(a, b), c);
    }
};
struct MadHiSat {
    int32_t operator()(int32_t a, int32_t b, int32_t c) const { return AddSat()(MulHi()(a, b), c); }
};
struct MadWide {
    template <class T>
    Wide<T> operator()(T a, T b, Wide<T> c) const {
        return Add()(MulWide()(a, b), c);
    }
};
template <bool kHigh, class T>
T mul24(T a, T b) {
    auto narrow = [](T v) {
        return std::is_signed_v<T>
                   ? static_cast<int64_t>(static_cast<int32_t>(static_cast<uint32_t>(v) << 8) >> 8)
                   : static_cast<int64_t>(static_cast<uint32_t>(v) & 0xffffff);
    };
    const int64_t product = narrow(a) * narrow(b);
    return static_cast<T>(kHigh ? product >> 16 : product);
}
struct Mul24Lo {
    template <class T>
    T operator()(T a, T b) const {
        return mul24<false>(a, b);
    }
};
struct Mul24Hi {
    template <class T>
    T operator()(T a, T b) const {
        return mul24<true>(a, b);
    }
};
struct Mad24Lo {
    template <class T>
    T operator()(T a, T b, T c) const {
        return Add()(mul24<false>(a, b), c);
    }
};
struct Mad24Hi {
    template <class T>
    T operator()(T a, T b, T c) const {
        return Add()(mul24<true>(a, b), c);
    }
};
// Division by zero gives all ones, the remainder the dividend, as the hardware's code does.
struct Div {
    template <class T>
    T operator()(T a, T b) const {
        if (b == 0) {
            return static_cast<T>(~T{0});
        }
        if (std::is_signed_v<T> && b == static_cast<T>(-1)) {
            return Sub()(T{0}, a);
        }
        return static_cast<T>(a / b);
    }
};
struct Rem {
    template <class T>
    T operator()(T a, T b) const {
        if (b == 0) {
            return a;
        }
        if (std::is_signed_v<T> && b == static_cast<T>(-1)) {
            return 0;
        }
        return static_cast<T>(a % b);
    }
};
struct Abs {
    template <class T>
    T operator()(T a) const {
        return a < 0 ? Sub()(T{0}, a) : a;
    }
};
struct Neg {
    template <class T>
    T operator()(T a) const {
        return Sub()(T{0}, a);
    }
};
struct Min {
    template <class T>
    T operator()(T a, T b) const {
        return a < b ? a : b;
    }
};
struct Max {
    template <class T>
    T operator()(T a, T b) const {
        return a > b ? a : b;
    }
};
template <class Op>
struct Relu {
    int32_t operator()(int32_t a, int32_t b) const { return std::max(0, Op()(a, b)); }
};
template <class T, class Op, bool kRelu = false>
struct Pair {  // two 16-bit values in a word
    uint32_t operator()(uint32_t a, uint32_t b) const {
        T low = Op()(static_cast<T>(a), static_cast<T>(b));
        T high = Op()(static_cast<T>(a >> 16), static_cast<T>(b >> 16));
        if constexpr (kRelu) {
            low = std::max<T>(low, 0), high = std::max<T>(high, 0);
        }
        return static_cast<uint32_t>(static_cast<uint16_t>(low)) |
               static_cast<uint32_t>(static_cast<uint16_t>(high)) << 16;
    }
};
struct Sad {
    template <class T>
    T operator()(T a, T b, T c) const {
        return Add()(c, a < b ? Sub()(b, a) : Sub()(a, b));
    }
};

template <class Op>
Handler binary(Type t) {
    switch (t) {
        case Type::u16:
            return map2<uint16_t, uint16_t, uint16_t, Op>;
        case Type::s16:
            return map2<int16_t, int16_t, int16_t, Op>;
        case Type::u32:
            return map2<uint32_t, uint32_t, uint32_t, Op>;
        case Type::s32:
            return map2<int32_t, int32_t, int32_t, Op>;
        case Type::u64:
            return map2<uint64_t, uint64_t, uint64_t, Op>;
        case Type::s64:
            return map2<int64_t, int64_t, int64_t, Op>;
        default:
            return nullptr;
    }
}
template <class Op>
Handler dividing(Type t) {
    switch (t) {
        case Type::u16:
            return scalar2<uint16_t, uint16_t, uint16_t, Op>;
        case Type::s16:
            return scalar2<int16_t, int16_t, int16_t, Op>;
        case Type::u32:
            return scalar2<uint32_t, uint32_t, uint32_t, Op>;
        case Type::s32:
            return scalar2<int32_t, int32_t, int32_t, Op>;
        case Type::u64:
            return scalar2<uint64_t, uint64_t, uint64_t, Op>;
        case Type::s64:
            return scalar2<int64_t, int64_t, int64_t, Op>;
        default:
            return nullptr;
    }
}
template <class Op>
Handler ternary(Type t) {
    switch (t) {
        case Type::u16:
            return map3<uint16_t, uint16_t, uint16_t, uint16_t, Op>;
        case Type::s16:
            return map3<int16_t, int16_t, int16_t, int16_t, Op>;
        case Type::u32:
            return map3<uint32_t, uint32_t, uint32_t, uint32_t, Op>;
        case Type::s32:
            return map3<int32_t, int32_t, int32_t, int32_t, Op>;
        case Type::u64:
            return map3<uint64_t, uint64_t, uint64_t, uint64_t, Op>;
        case Type::s64:
            return map3<int64_t, int64_t, int64_t, int64_t, Op>;
        default:
            return nullptr;
    }
}
template <class Op>
Handler signed_unary(Type t) {
    switch (t) {
        case Type::s16:
            return map1<int16_t, int16_t, Op>;
        case Type::s32:
            return map1<int32_t, int32_t, Op>;
        case Type::s64:
            return map1<int64_t, int64_t, Op>;
        default:
            return nullptr;
    }
}

Type wide_of(Type t) {
    switch (t) {
        case Type::u16:
            return Type::u32;
        case Type::s16:
            return Type::s32;
        case Type::u32:
            return Type::u64;
        default:
            return Type::s64;
    }
}

bool packed16(const ptx::Statement& s) {
    return s.parts.back() == "u16x2" || s.parts.back() == "s16x2";
}

Instr checked(DecodeContext& c, Handler run, std::initializer_list<Type> types) {
    if (!run) {
        c.unknown(c.statement->parts.back());
    }
    return pack(c, run, types);
}

// ---- carries: the condition code is a predicate per lane ----

template <class T, bool kIn, bool kOut, bool kSubtract>
void carry(Warp& w, const Instr& i, uint32_t active) {
    T* d = w.at<T>(i.r[0]);
    const T* a = w.at<T>(i.r[1]);
    const T* b = w.at<T>(i.r[2]);
    const uint32_t in = w.carry;
    uint32_t out = 0;
    for_lanes(active, [&](int l) {
        const T x = a[l], y = kSubtract ? ~b[l] : b[l];
        // The carry flag of a subtraction is the inverted borrow inside; PTX's CC.CF holds the
        // borrow.
        const T c = kSubtract ? (kIn ? !(in >> l & 1) : 1) : (kIn ? in >> l & 1 : 0);
        T v;
        bool o = __builtin_add_overflow(x, y, &v);
        o |= __builtin_add_overflow(v, c, &v);
        d[l] = v;
        out |= static_cast<uint32_t>(kSubtract ? !o : o) << l;
    });
    if constexpr (kOut) {
        w.carry = (w.carry & ~active) | out;
    }
}

template <class T, bool kIn, bool kOut, bool kHigh>
void mad_carry(Warp& w, const Instr& i, uint32_t active) {
    T* d = w.at<T>(i.r[0]);
    const T* a = w.at<T>(i.r[1]);
    const T* b = w.at<T>(i.r[2]);
    const T* c = w.at<T>(i.r[3]);
    const bool is_signed = i.small;
    const uint32_t in = w.carry;
    uint32_t out = 0;
    for_lanes(active, [&](int l) {
        using S = std::make_signed_t<T>;
        const T x = !kHigh ? a[l] * b[l]
                    : is_signed
                        ? static_cast<T>(MulHi()(static_cast<S>(a[l]), static_cast<S>(b[l])))
                        : MulHi()(a[l], b[l]);
        T v;
        bool o = __builtin_add_overflow(x, c[l], &v);
        o |= __builtin_add_overflow(v, static_cast<T>(kIn ? in >> l & 1 : 0), &v);
        d[l] = v;
        out |= static_cast<uint32_t>(o) << l;
    });
    if constexpr (kOut) {
        w.carry = (w.carry & ~active) | out;
    }
}

template <bool kSubtract>
Instr decode_carry(const ptx::Statement& s, DecodeContext& c, bool in) {
    const bool out = s.has("cc");
    const Type t = last_type(s);
    const bool wide = ptx::bytes_of(t) == 8;
    Handler run = wide ? (in ? (out ? carry<uint64_t, true, true, kSubtract>
                                    : carry<uint64_t, true, false, kSubtract>)
                             : carry<uint64_t, false, true, kSubtract>)
                       : (in ? (out ? carry<uint32_t, true, true, kSubtract>
                                    : carry<uint32_t, true, false, kSubtract>)
                             : carry<uint32_t, false, true, kSubtract>);
    return pack(c, run, {t, t, t});
}

template <class T>
Handler mad_carry_for(bool in, bool out, bool high) {
    if (high) {
        return in ? (out ? mad_carry<T, true, true, true> : mad_carry<T, true, false, true>)
                  : mad_carry<T, false, true, true>;
    }
    return in ? (out ? mad_carry<T, true, true, false> : mad_carry<T, true, false, false>)
              : mad_carry<T, false, true, false>;
}

Instr decode_mad_carry(const ptx::Statement& s, DecodeContext& c, bool in) {
    const Type t = last_type(s);
    const bool out = s.has("cc"), high = s.has("hi");
    Instr i = pack(c,
                   ptx::bytes_of(t) == 8 ? mad_carry_for<uint64_t>(in, out, high)
                                         : mad_carry_for<uint32_t>(in, out, high),
                   {t, t, t, t});
    i.small = ptx::is_signed(t);
    return i;
}

// ---- decoders ----

Instr decode_add(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    if (packed16(s)) {
        return pack(c, map2<uint32_t, uint32_t, uint32_t, Pair<uint16_t, Add>>,
                    {Type::b32, Type::b32, Type::b32});
    }
    if (ptx::is_float(t)) {
        return decode_float_add(s, c);
    }
    if (s.has("cc")) {
        return decode_carry<false>(s, c, false);
    }
    if (s.has("sat")) {
        return pack(c, map2<int32_t, int32_t, int32_t, AddSat>, {t, t, t});
    }
    return checked(c, binary<Add>(t), {t, t, t});
}

Instr decode_sub(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    if (packed16(s)) {
        return pack(c, map2<uint32_t, uint32_t, uint32_t, Pair<uint16_t, Sub>>,
                    {Type::b32, Type::b32, Type::b32});
    }
    if (ptx::is_float(t)) {
        return decode_float_sub(s, c);
    }
    if (s.has("cc")) {
        return decode_carry<true>(s, c, false);
    }
    if (s.has("sat")) {
        return pack(c, map2<int32_t, int32_t, int32_t, SubSat>, {t, t, t});
    }
    return checked(c, binary<Sub>(t), {t, t, t});
}

Instr decode_addc(const ptx::Statement& s, DecodeContext& c) {
    return decode_carry<false>(s, c, true);
}

Instr decode_subc(const ptx::Statement& s, DecodeContext& c) {
    return decode_carry<true>(s, c, true);
}

Instr decode_madc(const ptx::Statement& s, DecodeContext& c) {
    return decode_mad_carry(s, c, true);
}

Instr decode_mul(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    if (ptx::is_float(t)) {
        return decode_float_mul(s, c);
    }
    if (s.has("wide")) {
        Handler run = nullptr;
        switch (t) {
            case Type::u16:
                run = map2<uint32_t, uint16_t, uint16_t, MulWide>;
                break;
            case Type::s16:
                run = map2<int32_t, int16_t, int16_t, MulWide>;
                break;
            case Type::u32:
                run = map2<uint64_t, uint32_t, uint32_t, MulWide>;
                break;
            case Type::s32:
                run = map2<int64_t, int32_t, int32_t, MulWide>;
                break;
            default:
                break;
        }
        return checked(c, run, {wide_of(t), t, t});
    }
    if (s.has("hi")) {
        return checked(c,
                       t == Type::u64   ? scalar2<uint64_t, uint64_t, uint64_t, MulHi>
                       : t == Type::s64 ? scalar2<int64_t, int64_t, int64_t, MulHi>
                                        : binary<MulHi>(t),
                       {t, t, t});
    }
    if (!s.has("lo")) {
        c.fail("mul needs .lo, .hi or .wide");
    }
    return checked(c, binary<MulLo>(t), {t, t, t});
}

Instr decode_mad(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    if (ptx::is_float(t)) {
        return decode_float_fma(s, c);
    }
    if (s.has("cc")) {
        return decode_mad_carry(s, c, false);
    }
    if (s.has("wide")) {
        Handler run = nullptr;
        switch (t) {
            case Type::u16:
                run = map3<uint32_t, uint16_t, uint16_t, uint32_t, MadWide>;
                break;
            case Type::s16:
                run = map3<int32_t, int16_t, int16_t, int32_t, MadWide>;
                break;
            case Type::u32:
                run = map3<uint64_t, uint32_t, uint32_t, uint64_t, MadWide>;
                break;
            case Type::s32:
                run = map3<int64_t, int32_t, int32_t, int64_t, MadWide>;
                break;
            default:
                break;
        }
        return checked(c, run, {wide_of(t), t, t, wide_of(t)});
    }
    if (s.has("hi")) {
        if (s.has("sat")) {
            return pack(c, map3<int32_t, int32_t, int32_t, int32_t, MadHiSat>, {t, t, t, t});
        }
        return checked(c,
                       t == Type::u64   ? scalar3<uint64_t, uint64_t, uint64_t, uint64_t, MadHi>
                       : t == Type::s64 ? scalar3<int64_t, int64_t, int64_t, int64_t, MadHi>
                                        : ternary<MadHi>(t),
                       {t, t, t, t});
    }
    return checked(c, ternary<MadLo>(t), {t, t, t, t});
}

Instr decode_mul24(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    const bool high = s.has("hi");
    if (t == Type::u32) {
        return pack(c,
                    high ? map2<uint32_t, uint32_t, uint32_t, Mul24Hi>
                         : map2<uint32_t, uint32_t, uint32_t, Mul24Lo>,
                    {t, t, t});
    }
    return pack(
        c,
        high ? map2<int32_t, int32_t, int32_t, Mul24Hi> : map2<int32_t, int32_t, int32_t, Mul24Lo>,
        {t, t, t});
}

Instr decode_mad24(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    const bool high = s.has("hi");
    if (s.has("sat")) {
        c.unknown("sat");
    }
    if (t == Type::u32) {
        return pack(c,
                    high ? map3<uint32_t, uint32_t, uint32_t, uint32_t, Mad24Hi>
                         : map3<uint32_t, uint32_t, uint32_t, uint32_t, Mad24Lo>,
                    {t, t, t, t});
    }
    return pack(c,
                high ? map3<int32_t, int32_t, int32_t, int32_t, Mad24Hi>
                     : map3<int32_t, int32_t, int32_t, int32_t, Mad24Lo>,
                {t, t, t, t});
}

Instr decode_div(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    return ptx::is_float(t) ? decode_float_div(s, c) : checked(c, dividing<Div>(t), {t, t, t});
}

Instr decode_rem(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    return checked(c, dividing<Rem>(t), {t, t, t});
}

Instr decode_abs(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    return ptx::is_float(t) ? decode_float_abs(s, c) : checked(c, signed_unary<Abs>(t), {t, t});
}

Instr decode_neg(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    return ptx::is_float(t) ? decode_float_neg(s, c) : checked(c, signed_unary<Neg>(t), {t, t});
}

template <class Op>
Instr decode_extreme(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    if (packed16(s)) {
        const bool is_signed = s.parts.back() == "s16x2";
        Handler run = s.has("relu") ? map2<uint32_t, uint32_t, uint32_t, Pair<int16_t, Op, true>>
                      : is_signed   ? map2<uint32_t, uint32_t, uint32_t, Pair<int16_t, Op>>
                                    : map2<uint32_t, uint32_t, uint32_t, Pair<uint16_t, Op>>;
        return pack(c, run, {Type::b32, Type::b32, Type::b32});
    }
    if (s.has("relu") && t == Type::s32) {
        return pack(c, map2<int32_t, int32_t, int32_t, Relu<Op>>, {t, t, t});
    }
    return checked(c, binary<Op>(t), {t, t, t});
}

Instr decode_min(const ptx::Statement& s, DecodeContext& c) {
    return ptx::is_float(last_type(s)) ? decode_float_min(s, c) : decode_extreme<Min>(s, c);
}

Instr decode_max(const ptx::Statement& s, DecodeContext& c) {
    return ptx::is_float(last_type(s)) ? decode_float_max(s, c) : decode_extreme<Max>(s, c);
}

Instr decode_sad(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    return checked(c, ternary<Sad>(t), {t, t, t, t});
}

// ---- dot products: bit 0 of small: a signed, bit 1: b signed, bit 2: dp2a high half ----

template <int kBytes>
void dot(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    const uint32_t* c = w.u32(i.r[3]);
    const bool as = i.small & 1, bs = i.small & 2;
    const int half = i.small & 4 ? 2 : 0;
    each_active(w.u32(i.r[0]), active, [&](int l) {
        uint32_t sum = c[l];
        for (int k = 0; k < kBytes; ++k) {
            const uint32_t x = kBytes == 4 ? a[l] >> (8 * k) & 0xff : a[l] >> (16 * k) & 0xffff;
            const uint32_t y = b[l] >> (8 * (k + (kBytes == 2 ? half : 0))) & 0xff;
            const int32_t sx = as ? (kBytes == 4 ? static_cast<int8_t>(x) : static_cast<int16_t>(x))
                                  : static_cast<int32_t>(x);
            const int32_t sy = bs ? static_cast<int8_t>(y) : static_cast<int32_t>(y);
            sum += static_cast<uint32_t>(sx * sy);
        }
        return sum;
    });
}

template <int kBytes>
Instr decode_dot(const ptx::Statement& s, DecodeContext& c) {
    Instr i = pack(c, dot<kBytes>, {Type::b32, Type::b32, Type::b32, Type::b32});
    const size_t n = s.parts.size();
    i.small = (s.parts[n - 2] == "s32" ? 1 : 0) | (s.parts[n - 1] == "s32" ? 2 : 0) |
              (s.has("hi") ? 4 : 0);
    return i;
}

const RegisterFamily kFamilies[] = {
    {"add", decode_add},       {"sub", decode_sub},     {"addc", decode_addc},
    {"subc", decode_subc},     {"mul", decode_mul},     {"mad", decode_mad},
    {"madc", decode_madc},     {"mul24", decode_mul24}, {"mad24", decode_mad24},
    {"div", decode_div},       {"rem", decode_rem},     {"abs", decode_abs},
    {"neg", decode_neg},       {"min", decode_min},     {"max", decode_max},
    {"sad", decode_sad},       {"dp4a", decode_dot<4>}, {"dp2a", decode_dot<2>},
    {"fma", decode_float_fma},
};

}  // namespace

}  // namespace emu
