// SPDX-License-Identifier: BSD-3-Clause
// setp, set, selp, slct.
#include <cmath>

#include "exec/floating.h"
#include "exec/lanes.h"
#include "units/numeric.h"

namespace emu {

namespace {

using ptx::Type;

enum class Cmp : uint32_t { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, nan, none };

Cmp cmp_named(std::string_view n) {
    constexpr std::string_view kNames[] = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "equ",
                                           "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
    for (uint32_t k = 0; k < 14; ++k) {
        if (n == kNames[k]) {
            return static_cast<Cmp>(k);
        }
    }
    return n == "lo"   ? Cmp::lt
           : n == "ls" ? Cmp::le
           : n == "hi" ? Cmp::gt
           : n == "hs" ? Cmp::ge
                       : Cmp::none;
}

template <Cmp kCmp, class T>
inline bool compare(T a, T b) {
    switch (kCmp) {
        case Cmp::eq:
            return a == b && a == a && b == b;
        case Cmp::ne:
            return a < b || a > b;
        case Cmp::lt:
            return a < b;
        case Cmp::le:
            return a <= b;
        case Cmp::gt:
            return a > b;
        case Cmp::ge:
            return a >= b;
        case Cmp::equ:
            return !(a < b || a > b);
        case Cmp::neu:
            return !(a == b);
        case Cmp::ltu:
            return !(a >= b);
        case Cmp::leu:
            return !(a > b);
        case Cmp::gtu:
            return !(a <= b);
        case Cmp::geu:
            return !(a < b);
        case Cmp::num:
            return a == a && b == b;
        default:
            return a != a || b != b;
    }
}

// small: 0 no BoolOp, 1 and, 2 or, 3 xor; 4: ftz. p[0], p[1] destinations, p[2] the third operand.
inline void combine(Warp& w, const Instr& i, uint32_t bits, uint32_t active) {
    const uint32_t c = w.pred(i.p[2]), inverse = ~bits;
    uint32_t p = bits, q = inverse;
    switch (i.small & 3) {
        case 1:
            p = bits & c, q = inverse & c;
            break;
        case 2:
            p = bits | c, q = inverse | c;
            break;
        case 3:
            p = bits ^ c, q = inverse ^ c;
            break;
        default:
            break;
    }
    w.set_pred(i.p[0], p, active);
    if (i.p[1] != kPredSink) {
        w.set_pred(i.p[1], q, active);
    }
}

template <class T>
inline T load(const Plane<T>* p, int l, bool ftz) {
    T v = get<T>(p, l);
    if constexpr (std::is_same_v<T, float>) {
        return ftz ? num::f32_ftz(v) : v;
    }
    return v;
}

template <class T, Cmp kCmp>
uint32_t compare_lanes(Warp& w, const Instr& i) {
    const Plane<T>* a = w.at<Plane<T>>(i.r[1]);
    const Plane<T>* b = w.at<Plane<T>>(i.r[2]);
    const bool ftz = i.small & 4;
    return ballot([&](int l) { return compare<kCmp>(load<T>(a, l, ftz), load<T>(b, l, ftz)); });
}

using CompareFn = uint32_t (*)(Warp&, const Instr&);

template <class T, Cmp kCmp>
void setp(Warp& w, const Instr& i, uint32_t active) {
    combine(w, i, compare_lanes<T, kCmp>(w, i), active);
}

template <class T>
std::pair<Handler, CompareFn> by_cmp(Cmp c) {
    switch (c) {
        case Cmp::eq:
            return {setp<T, Cmp::eq>, compare_lanes<T, Cmp::eq>};
        case Cmp::ne:
            return {setp<T, Cmp::ne>, compare_lanes<T, Cmp::ne>};
        case Cmp::lt:
            return {setp<T, Cmp::lt>, compare_lanes<T, Cmp::lt>};
        case Cmp::le:
            return {setp<T, Cmp::le>, compare_lanes<T, Cmp::le>};
        case Cmp::gt:
            return {setp<T, Cmp::gt>, compare_lanes<T, Cmp::gt>};
        case Cmp::ge:
            return {setp<T, Cmp::ge>, compare_lanes<T, Cmp::ge>};
        default:
            break;
    }
    if constexpr (std::is_floating_point_v<T>) {
        switch (c) {
            case Cmp::equ:
                return {setp<T, Cmp::equ>, compare_lanes<T, Cmp::equ>};
            case Cmp::neu:
                return {setp<T, Cmp::neu>, compare_lanes<T, Cmp::neu>};
            case Cmp::ltu:
                return {setp<T, Cmp::ltu>, compare_lanes<T, Cmp::ltu>};
            case Cmp::leu:
                return {setp<T, Cmp::leu>, compare_lanes<T, Cmp::leu>};
            case Cmp::gtu:
                return {setp<T, Cmp::gtu>, compare_lanes<T, Cmp::gtu>};
            case Cmp::geu:
                return {setp<T, Cmp::geu>, compare_lanes<T, Cmp::geu>};
            case Cmp::num:
                return {setp<T, Cmp::num>, compare_lanes<T, Cmp::num>};
            case Cmp::nan:
                return {setp<T, Cmp::nan>, compare_lanes<T, Cmp::nan>};
            default:
                break;
        }
    }
    return {nullptr, nullptr};
}

std::pair<Handler, CompareFn> by_type(Type t, Cmp c) {
    switch (t) {
        case Type::b16:
        case Type::u16:
            return by_cmp<uint16_t>(c);
        case Type::s16:
            return by_cmp<int16_t>(c);
        case Type::b32:
        case Type::u32:
            return by_cmp<uint32_t>(c);
        case Type::s32:
            return by_cmp<int32_t>(c);
        case Type::b64:
        case Type::u64:
            return by_cmp<uint64_t>(c);
        case Type::s64:
            return by_cmp<int64_t>(c);
        case Type::f32:
            return by_cmp<float>(c);
        case Type::f64:
            return by_cmp<double>(c);
        default:
            return {nullptr, nullptr};
    }
}

bool compare_any(Cmp c, float a, float b) {
    switch (c) {
        case Cmp::eq:
            return compare<Cmp::eq>(a, b);
        case Cmp::ne:
            return compare<Cmp::ne>(a, b);
        case Cmp::lt:
            return compare<Cmp::lt>(a, b);
        case Cmp::le:
            return compare<Cmp::le>(a, b);
        case Cmp::gt:
            return compare<Cmp::gt>(a, b);
        case Cmp::ge:
            return compare<Cmp::ge>(a, b);
        case Cmp::equ:
            return compare<Cmp::equ>(a, b);
        case Cmp::neu:
            return compare<Cmp::neu>(a, b);
        case Cmp::ltu:
            return compare<Cmp::ltu>(a, b);
        case Cmp::leu:
            return compare<Cmp::leu>(a, b);
        case Cmp::gtu:
            return compare<Cmp::gtu>(a, b);
        case Cmp::geu:
            return compare<Cmp::geu>(a, b);
        case Cmp::num:
            return compare<Cmp::num>(a, b);
        default:
            return compare<Cmp::nan>(a, b);
    }
}

// 16-bit floats; half 1 is the upper one of a pair. imm: Cmp | bf16 << 8
uint32_t compare_half(Warp& w, const Instr& i, int half) {
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    const auto c = static_cast<Cmp>(i.imm & 0xff);
    const bool bf16 = i.imm >> 8 & 1, ftz = i.small & 4;
    return ballot([&](int l) {
        auto widen = [&](uint32_t word) {
            auto h = static_cast<uint16_t>(word >> (16 * half));
            h = ftz && !bf16 ? num::f16_ftz(h) : h;
            return bf16 ? num::bf16_to_f32(h) : num::f16_to_f32(h);
        };
        return compare_any(c, widen(a[l]), widen(b[l]));
    });
}

void setp_half(Warp& w, const Instr& i, uint32_t active) {
    combine(w, i, compare_half(w, i, 0), active);
}

// f16x2: p is the result of the lower halves, q of the upper ones.
void setp_half2(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t low = compare_half(w, i, 0), high = compare_half(w, i, 1), c = w.pred(i.p[2]);
    auto join = [&](uint32_t bits) {
        switch (i.small & 3) {
            case 1:
                return bits & c;
            case 2:
                return bits | c;
            case 3:
                return bits ^ c;
            default:
                return bits;
        }
    };
    w.set_pred(i.p[0], join(low), active);
    if (i.p[1] != kPredSink) {
        w.set_pred(i.p[1], join(high), active);
    }
}

struct Parsed {
    Cmp cmp = Cmp::none;
    uint32_t small = 0;
};

Parsed parse(const ptx::Statement& s, DecodeContext& c, size_t types) {
    Parsed p;
    for (size_t k = 1; k + types < s.parts.size(); ++k) {
        const std::string_view part = s.parts[k];
        if (k == 1) {
            p.cmp = cmp_named(part);
        } else if (part == "and") {
            p.small |= 1;
        } else if (part == "or") {
            p.small |= 2;
        } else if (part == "xor") {
            p.small |= 3;
        } else if (part == "ftz") {
            p.small |= 4;
        } else {
            c.unknown(part);
        }
    }
    if (p.cmp == Cmp::none) {
        c.fail("unknown comparison");
    }
    return p;
}

Instr decode_setp(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    const Parsed p = parse(s, c, 1);
    Instr i;
    i.small = p.small;
    i.p[1] = kPredSink;
    const ptx::Operand& d = c.operand(0);
    if (d.kind == ptx::Operand::Kind::pair) {
        i.p[0] = c.predicate_target(d.items[0]);
        i.p[1] = c.predicate_target(d.items[1]);
    } else {
        i.p[0] = c.predicate_target(d);
    }
    i.r[1] = c.source(c.operand(1), t);
    i.r[2] = c.source(c.operand(2), t);
    if (i.small & 3) {
        i.p[2] = c.predicate(c.operand(3));
    }
    if (is_half(t)) {
        i.imm = static_cast<int64_t>(p.cmp) | (t == Type::bf16 || t == Type::bf16x2 ? 0x100 : 0);
        i.run = ptx::bytes_of(t) == 4 ? setp_half2 : setp_half;
    } else {
        i.run = by_type(t, p.cmp).first;
    }
    if (!i.run) {
        c.fail("unknown form of setp");
    }
    return i;
}

// set: ext is the CompareFn; imm bits: Cmp, bf16 << 8; target: 1 destination is f32, 2 f16, 3 bf16,
// 0 integer; +4 f16x2 pairs
struct SetData {
    CompareFn compare = nullptr;  // nullptr: 16-bit floats
    uint32_t truth = 0xffffffff;
    bool pairs = false;
};

void set_any(Warp& w, const Instr& i, uint32_t active) {
    const auto& data = *static_cast<const SetData*>(i.ext);
    const uint32_t c = w.pred(i.p[2]);
    auto join = [&](uint32_t bits) {
        switch (i.small & 3) {
            case 1:
                return bits & c;
            case 2:
                return bits | c;
            case 3:
                return bits ^ c;
            default:
                return bits;
        }
    };
    const uint32_t low = join(data.compare ? data.compare(w, i) : compare_half(w, i, 0));
    const uint32_t high = data.pairs ? join(compare_half(w, i, 1)) : 0;
    each_active(w.u32(i.r[0]), active, [&](int l) {
        uint32_t v = low >> l & 1 ? data.truth : 0;
        if (data.pairs) {
            v = (v & 0xffff) | (high >> l & 1 ? data.truth << 16 : 0);
        }
        return v;
    });
}

Instr decode_set(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s), d = ptx::type_named(s.parts[s.parts.size() - 2]);
    const Parsed p = parse(s, c, 2);
    Instr i;
    i.run = set_any;
    i.small = p.small;
    SetData data;
    i.r[0] = c.target(c.operand(0), d);
    i.r[1] = c.source(c.operand(1), t);
    i.r[2] = c.source(c.operand(2), t);
    if (i.small & 3) {
        i.p[2] = c.predicate(c.operand(3));
    }
    switch (d) {
        case Type::f32:
            data.truth = 0x3f800000;
            break;
        case Type::f16:
        case Type::f16x2:
            data.truth = 0x3c00;
            break;
        case Type::bf16:
        case Type::bf16x2:
            data.truth = 0x3f80;
            break;
        case Type::u16:
        case Type::s16:
            data.truth = 0xffff;
            break;
        default:
            break;
    }
    if (is_half(t)) {
        i.imm = static_cast<int64_t>(p.cmp) | (t == Type::bf16 || t == Type::bf16x2 ? 0x100 : 0);
        data.pairs = ptx::bytes_of(t) == 4;
        if (data.pairs && !is_half(d)) {
            data.truth = 0xffff;
        }
    } else {
        data.compare = by_type(t, p.cmp).second;
        if (!data.compare) {
            c.fail("unknown form of set");
        }
    }
    i.ext = c.own(data);
    return i;
}

template <class P>
void selp(Warp& w, const Instr& i, uint32_t active) {
    const P* a = w.at<P>(i.r[1]);
    const P* b = w.at<P>(i.r[2]);
    const uint32_t p = w.pred(i.p[0]);
    each(w.at<P>(i.r[0]), active, [&](int l) { return p >> l & 1 ? a[l] : b[l]; });
}

Instr decode_selp(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    Instr i;
    i.run = ptx::bytes_of(t) == 8 ? selp<uint64_t> : selp<uint32_t>;
    i.r[0] = c.target(c.operand(0), t);
    i.r[1] = c.source(c.operand(1), t);
    i.r[2] = c.source(c.operand(2), t);
    i.p[0] = c.predicate(c.operand(3));
    return i;
}

template <class P, class C>
void slct(Warp& w, const Instr& i, uint32_t active) {
    const P* a = w.at<P>(i.r[1]);
    const P* b = w.at<P>(i.r[2]);
    const uint32_t* c = w.u32(i.r[3]);
    each(w.at<P>(i.r[0]), active, [&](int l) { return get<C>(c, l) >= C{0} ? a[l] : b[l]; });
}

Instr decode_slct(const ptx::Statement& s, DecodeContext& c) {
    const Type control = last_type(s), t = ptx::type_named(s.parts[s.parts.size() - 2]);
    const bool wide = ptx::bytes_of(t) == 8;
    Handler run = control == Type::f32 ? (wide ? slct<uint64_t, float> : slct<uint32_t, float>)
                                       : (wide ? slct<uint64_t, int32_t> : slct<uint32_t, int32_t>);
    return pack(c, run, {t, t, t, control});
}

const RegisterFamily kFamilies[] = {
    {"setp", decode_setp}, {"set", decode_set}, {"selp", decode_selp}, {"slct", decode_slct}};

}  // namespace

}  // namespace emu
