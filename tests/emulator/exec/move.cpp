// SPDX-License-Identifier: BSD-3-Clause
// mov (values, vectors, special registers), cvta, isspacep, mapa, getctarank, setmaxnreg's
// relatives live elsewhere.
#include <chrono>

#include "exec/lanes.h"
#include "exec/program.h"

namespace emu {

namespace {

using ptx::Operand;
using ptx::Type;

template <class P>
void mov(Warp& w, const Instr& i, uint32_t active) {
    const P* a = w.at<P>(i.r[1]);
    each(w.at<P>(i.r[0]), active, [&](int l) { return a[l]; });
}

void mov_pred(Warp& w, const Instr& i, uint32_t active) {
    w.set_pred(i.p[0], w.pred(i.p[1]), active);
}

void mov128(Warp& w, const Instr& i, uint32_t active) {
    const uint64_t* a = w.u64(i.r[1]);
    uint64_t* d = w.u64(i.r[0]);
    for_lanes(active, [&](int l) { d[l] = a[l], d[kLanes + l] = a[kLanes + l]; });
}

// A vector operand: element k of `bits` bits; imm = bits, small = count.
void pack_any(Warp& w, const Instr& i, uint32_t active) {
    const auto bits = static_cast<int>(i.imm);
    const bool wide = bits * static_cast<int>(i.small) == 64;
    for_lanes(active, [&](int l) {
        uint64_t v = 0;
        for (uint32_t k = 0; k < i.small; ++k) {
            v |= (w.u32(i.r[1 + k])[l] & (~0ull >> (64 - bits)))
                 << (k * static_cast<uint32_t>(bits));
        }
        if (wide) {
            w.u64(i.r[0])[l] = v;
        } else {
            w.u32(i.r[0])[l] = static_cast<uint32_t>(v);
        }
    });
}

void unpack_any(Warp& w, const Instr& i, uint32_t active) {
    const auto bits = static_cast<int>(i.imm);
    const bool wide = bits * static_cast<int>(i.small) == 64;
    for_lanes(active, [&](int l) {
        const uint64_t v = wide ? w.u64(i.r[5])[l] : w.u32(i.r[5])[l];
        for (uint32_t k = 0; k < i.small; ++k) {
            if (i.r[k] != kNoRef) {
                w.u32(i.r[k])[l] = static_cast<uint32_t>(v >> (k * static_cast<uint32_t>(bits)) &
                                                         (~0ull >> (64 - bits)));
            }
        }
    });
}

void pack_64(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    each(w.u64(i.r[0]), active, [&](int l) { return static_cast<uint64_t>(b[l]) << 32 | a[l]; });
}

void pack_halves(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    each(w.u32(i.r[0]), active, [&](int l) { return b[l] << 16 | (a[l] & 0xffff); });
}

void unpack_64(Warp& w, const Instr& i, uint32_t active) {
    const uint64_t* a = w.u64(i.r[5]);
    if (i.r[0] != kNoRef) {
        each(w.u32(i.r[0]), active, [&](int l) { return static_cast<uint32_t>(a[l]); });
    }
    if (i.r[1] != kNoRef) {
        each(w.u32(i.r[1]), active, [&](int l) { return static_cast<uint32_t>(a[l] >> 32); });
    }
}

void unpack_halves(Warp& w, const Instr& i, uint32_t active) {
    uint32_t copy[kLanes];
    const uint32_t* a = w.u32(i.r[5]);
    for (int l = 0; l < kLanes; ++l) {
        copy[l] = a[l];
    }
    if (i.r[0] != kNoRef) {
        each(w.u32(i.r[0]), active, [&](int l) { return copy[l] & 0xffff; });
    }
    if (i.r[1] != kNoRef) {
        each(w.u32(i.r[1]), active, [&](int l) { return copy[l] >> 16; });
    }
}

void pack_128(Warp& w, const Instr& i, uint32_t active) {
    const uint64_t* a = w.u64(i.r[1]);
    const uint64_t* b = w.u64(i.r[2]);
    uint64_t* d = w.u64(i.r[0]);
    for_lanes(active, [&](int l) { d[l] = a[l], d[kLanes + l] = b[l]; });
}

void unpack_128(Warp& w, const Instr& i, uint32_t active) {
    const uint64_t* a = w.u64(i.r[5]);
    for_lanes(active, [&](int l) {
        const uint64_t low = a[l], high = a[kLanes + l];
        if (i.r[0] != kNoRef) {
            w.u64(i.r[0])[l] = low;
        }
        if (i.r[1] != kNoRef) {
            w.u64(i.r[1])[l] = high;
        }
    });
}

// small: 0 %clock, 1 %clock_hi, 2 %clock64, 3 %globaltimer, 4 %globaltimer_lo, 5 %globaltimer_hi.
// The clock counts the instructions of the warp, so that it grows and runs are repeatable.
void mov_clock(Warp& w, const Instr& i, uint32_t active) {
    uint64_t v;
    if (i.small < 3) {
        w.hint = true;
        v = w.cluster->turn * 16 + w.instructions_now() * 4;
    } else {
        v = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
        w.hint = true;
    }
    if (i.small == 1 || i.small == 5) {
        v >>= 32;
    }
    for_lanes(active, [&](int l) {
        if (i.small == 2 || i.small == 3) {
            w.u64(i.r[0])[l] = v;
        } else {
            w.u32(i.r[0])[l] = static_cast<uint32_t>(v);
        }
    });
}

void mov_explicit_cluster(Warp& w, const Instr& i, uint32_t active) {
    w.set_pred(i.p[0], w.launch->cluster.count() > 1 ? kAllLanes : 0, active);
}

Instr decode_vector(DecodeContext& c, Type t) {
    const Operand& d = c.operand(0);
    const Operand& a = c.operand(1);
    const bool packs = a.kind == Operand::Kind::vector;
    const Operand& vector = packs ? a : d;
    const auto count = static_cast<uint32_t>(vector.items.size());
    const int bits = ptx::bytes_of(t) * 8 / static_cast<int>(count);
    if (count < 2 || count > 4 ||
        (bits != 4 && bits != 8 && bits != 16 && bits != 32 && bits != 64)) {
        c.fail("unknown vector form of mov");
    }
    const Type element = bits == 64   ? Type::b64
                         : bits == 32 ? Type::b32
                         : bits == 16 ? Type::b16
                                      : Type::b8;
    Instr i;
    i.small = count, i.imm = bits;
    if (packs) {
        i.r[0] = c.target(d, t);
        for (uint32_t k = 0; k < count; ++k) {
            i.r[1 + k] = c.source(a.items[k], element);
        }
        i.run = bits == 64                 ? pack_128
                : bits == 32 && count == 2 ? pack_64
                : bits == 16 && count == 2 ? pack_halves
                                           : pack_any;
    } else {
        i.r[5] = c.source(a, t);
        for (uint32_t k = 0; k < count; ++k) {
            i.r[k] =
                d.items[k].kind == Operand::Kind::sink ? kNoRef : c.target(d.items[k], element);
        }
        i.run = bits == 64                 ? unpack_128
                : bits == 32 && count == 2 ? unpack_64
                : bits == 16 && count == 2 ? unpack_halves
                                           : unpack_any;
        // A register that is both source and first destination would be cut short: only wide forms
        // could be, and PTX gives the two different widths.
    }
    if (bits * static_cast<int>(count) == 128 && count == 4) {
        c.fail("mov.b128 of four words is not known");
    }
    return i;
}

Instr decode_mov(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    Instr i;
    const Operand& d = c.operand(0);
    const Operand& a = c.operand(1);
    if (t == Type::pred) {
        i.p[0] = c.predicate_target(d);
        if (a.kind == Operand::Kind::special && a.name == "%is_explicit_cluster") {
            i.run = mov_explicit_cluster;
            return i;
        }
        i.p[1] = c.predicate(a);
        i.run = mov_pred;
        return i;
    }
    if (d.kind == Operand::Kind::vector || a.kind == Operand::Kind::vector) {
        return decode_vector(c, t);
    }
    i.r[0] = c.target(d, t);
    if (a.kind == Operand::Kind::special) {
        constexpr std::string_view kDynamic[] = {"%clock",          "%clock_hi",
                                                 "%clock64",        "%globaltimer",
                                                 "%globaltimer_lo", "%globaltimer_hi"};
        for (uint32_t k = 0; k < 6; ++k) {
            if (a.name == kDynamic[k]) {
                i.run = mov_clock;
                i.small = k;
                return i;
            }
        }
        // 16-bit reads of the 32-bit special registers are old style but legal.
        i.r[1] = c.source(a, t);
    } else {
        i.r[1] = c.source(a, t);
    }
    i.run = ptx::bytes_of(t) == 16 ? mov128 : ptx::bytes_of(t) == 8 ? mov<uint64_t> : mov<uint32_t>;
    return i;
}

template <class P>
void add_constant(Warp& w, const Instr& i, uint32_t active) {
    const P* a = w.at<P>(i.r[1]);
    const P n = static_cast<P>(i.imm);
    each(w.at<P>(i.r[0]), active, [&](int l) { return a[l] + n; });
}

uint64_t window(std::string_view space) {
    return space.starts_with("shared") ? kSharedWindow : space == "local" ? kLocalWindow : 0;
}

Instr decode_cvta(const ptx::Statement& s, DecodeContext& c) {
    const bool to = s.parts[1] == "to";
    const std::string_view space = s.parts[to ? 2 : 1];
    const Type t = last_type(s);
    if (t != Type::u64) {
        c.fail("only cvta.u64 is known");
    }
    Instr i = pack(c, add_constant<uint64_t>, {t, t});
    i.imm = static_cast<int64_t>(to ? 0 - window(space) : window(space));
    if (i.imm == 0) {
        i.run = mov<uint64_t>;
    }
    return i;
}

// small: 0 global, 1 shared::cta, 2 shared::cluster, 3 local, 4 const, 5 param
void isspacep(Warp& w, const Instr& i, uint32_t active) {
    const uint64_t* a = w.u64(i.r[1]);
    const uint64_t base = reinterpret_cast<uint64_t>(w.launch->argument_base);
    const uint32_t bits = ballot([&](int l) {
        const uint64_t window = a[l] >> 52;
        switch (i.small) {
            case 0:
                return window == 0 && !(a[l] >= base && a[l] < base + w.launch->arguments.size());
            case 1:
                return window == 1 && (static_cast<uint32_t>(a[l]) >> kRankShift) == w.cta->rank;
            case 2:
                return window == 1;
            case 3:
                return window == 2;
            case 4:
                return false;
            default:
                return a[l] >= base && a[l] < base + w.launch->arguments.size();
        }
    });
    w.set_pred(i.p[0], bits, active);
}

Instr decode_isspacep(const ptx::Statement& s, DecodeContext& c) {
    constexpr std::string_view kNames[] = {"global", "shared::cta", "shared::cluster",
                                           "local",  "const",       "param"};
    Instr i;
    i.run = isspacep;
    const std::string_view n = s.parts[1] == "shared"         ? "shared::cta"
                               : s.parts[1] == "param::entry" ? "param"
                                                              : s.parts[1];
    i.small = 6;
    for (uint32_t k = 0; k < 6; ++k) {
        if (n == kNames[k]) {
            i.small = k;
        }
    }
    if (i.small == 6) {
        c.unknown(n);
    }
    i.p[0] = c.predicate_target(c.operand(0));
    i.r[1] = c.source(c.operand(1), Type::u64);
    return i;
}

template <class P>
void mapa(Warp& w, const Instr& i, uint32_t active) {
    const P* a = w.at<P>(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    each(w.at<P>(i.r[0]), active, [&](int l) {
        return static_cast<P>((a[l] & ~static_cast<P>(0xff000000u)) | static_cast<P>(b[l])
                                                                          << kRankShift);
    });
}

template <class P>
void getctarank(Warp& w, const Instr& i, uint32_t active) {
    const P* a = w.at<P>(i.r[1]);
    each(w.u32(i.r[0]), active, [&](int l) { return static_cast<uint32_t>(a[l]) >> kRankShift; });
}

Instr decode_mapa(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    Instr i;
    i.r[0] = c.target(c.operand(0), t);
    i.r[1] = c.source(c.operand(1), t);
    i.r[2] = c.source(c.operand(2), Type::u32);
    i.run = t == Type::u64 ? mapa<uint64_t> : mapa<uint32_t>;
    return i;
}

Instr decode_getctarank(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    Instr i;
    i.r[0] = c.target(c.operand(0), Type::u32);
    i.r[1] = c.source(c.operand(1), t);
    i.run = t == Type::u64 ? getctarank<uint64_t> : getctarank<uint32_t>;
    return i;
}

const RegisterFamily kFamilies[] = {
    {"mov", decode_mov},
    {"cvta", decode_cvta},
    {"isspacep", decode_isspacep},
    {"mapa", decode_mapa},
    {"getctarank", decode_getctarank},
};

}  // namespace

}  // namespace emu
