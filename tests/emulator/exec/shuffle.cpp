// SPDX-License-Identifier: BSD-3-Clause
// shfl, vote, match, redux, activemask, elect: data exchange inside a warp.
#include <algorithm>
#include <cstring>

#include "exec/lanes.h"
#include "units/numeric.h"

namespace emu {

namespace {

using ptx::Operand;
using ptx::Type;

// All lanes named by the member masks of the active lanes.
inline uint32_t members(Warp& w, Ref r, uint32_t active) {
    uint32_t all = 0;
    const uint32_t* m = w.u32(r);
    for (int l = 0; l < kLanes; ++l) {
        all |= active >> l & 1 ? m[l] : 0;
    }
    return all;
}

// Tiles of a warp execute one instruction with different member masks: f(mask, lanes that gave it)
// for each.
template <class F>
void each_mask(Warp& w, Ref r, uint32_t active, F f) {
    const uint32_t* m = w.u32(r);
    for (uint32_t left = active; left;) {
        const uint32_t mask = m[__builtin_ctz(left)];
        uint32_t same = 0;
        for (int l = 0; l < kLanes; ++l) {
            same |= static_cast<uint32_t>(m[l] == mask) << l;
        }
        f(mask, same & left);
        left &= ~same;
    }
}

enum class Shuffle : uint32_t { up, down, bfly, idx };

template <Shuffle kMode>
void shfl(Warp& w, const Instr& i, uint32_t active) {
    if (!w.converge(i, active, i.r[4] == kNoRef ? active : members(w, i.r[4], active))) {
        return;
    }
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    const uint32_t* c = w.u32(i.r[3]);
    uint32_t source[kLanes];
    std::memcpy(source, a, sizeof source);
    uint32_t* d = w.u32(i.r[0]);
    uint32_t valid = 0;
    for_lanes(active, [&](int l) {
        const int bval = static_cast<int>(b[l] & 31), clamp = static_cast<int>(c[l] & 31),
                  seg = static_cast<int>(c[l] >> 8 & 31);
        const int max_lane = (l & seg) | (clamp & ~seg), min_lane = l & seg;
        int j;
        bool p;
        if constexpr (kMode == Shuffle::up) {
            j = l - bval, p = j >= max_lane;
        } else if constexpr (kMode == Shuffle::down) {
            j = l + bval, p = j <= max_lane;
        } else if constexpr (kMode == Shuffle::bfly) {
            j = l ^ bval, p = j <= max_lane;
        } else {
            j = min_lane | (bval & ~seg), p = j <= max_lane;
        }
        d[l] = source[p ? j : l];
        valid |= static_cast<uint32_t>(p) << l;
    });
    if (i.p[0] != kPredSink) {
        w.set_pred(i.p[0], valid, active);
    }
}

Instr decode_shfl(const ptx::Statement& s, DecodeContext& c) {
    Instr i;
    const Operand& d = c.operand(0);
    i.p[0] = kPredSink;
    if (d.kind == Operand::Kind::pair) {
        i.r[0] = c.target(d.items[0], Type::b32);
        i.p[0] = c.predicate_target(d.items[1]);
    } else {
        i.r[0] = c.target(d, Type::b32);
    }
    for (size_t k = 1; k < 4; ++k) {
        i.r[k] = c.source(c.operand(k), Type::b32);
    }
    if (s.has("sync")) {
        i.r[4] = c.source(c.operand(4), Type::b32);
    }
    i.run = s.has("up")     ? shfl<Shuffle::up>
            : s.has("down") ? shfl<Shuffle::down>
            : s.has("bfly") ? shfl<Shuffle::bfly>
                            : shfl<Shuffle::idx>;
    return i;
}

// small: 0 ballot, 1 all, 2 any, 3 uni
void vote_of(Warp& w, const Instr& i, uint32_t m, uint32_t active) {
    const uint32_t bits = w.pred(i.p[1]) & active & m;
    if (i.small == 0) {
        each(w.u32(i.r[0]), active, [&](int) { return bits; });
        return;
    }
    const uint32_t voters = active & m;
    const bool r = i.small == 1   ? bits == voters
                   : i.small == 2 ? bits != 0
                                  : bits == voters || bits == 0;
    w.set_pred(i.p[0], r ? kAllLanes : 0, active);
}

void vote(Warp& w, const Instr& i, uint32_t active) {
    if (i.r[4] == kNoRef) {
        vote_of(w, i, active, active);
    } else if (w.converge(i, active, members(w, i.r[4], active))) {
        each_mask(w, i.r[4], active, [&](uint32_t m, uint32_t lanes) { vote_of(w, i, m, lanes); });
    }
}

Instr decode_vote(const ptx::Statement& s, DecodeContext& c) {
    Instr i;
    i.run = vote;
    i.small = s.has("ballot") ? 0 : s.has("all") ? 1 : s.has("any") ? 2 : 3;
    if (i.small == 0) {
        i.r[0] = c.target(c.operand(0), Type::b32);
    } else {
        i.p[0] = c.predicate_target(c.operand(0));
    }
    i.p[1] = c.predicate(c.operand(1));
    if (s.has("sync")) {
        i.r[4] = c.source(c.operand(2), Type::b32);
    }
    return i;
}

template <class P, bool kAll>
void match_of(Warp& w, const Instr& i, uint32_t m, uint32_t active) {
    const P* a = w.at<P>(i.r[1]);
    P value[kLanes];
    std::memcpy(value, a, sizeof value);
    uint32_t* d = w.u32(i.r[0]);
    uint32_t all = 0;
    for_lanes(active, [&](int l) {
        uint32_t same = 0;
        for_lanes(active & m,
                  [&](int k) { same |= static_cast<uint32_t>(value[k] == value[l]) << k; });
        const bool every = same == (active & m);
        all |= static_cast<uint32_t>(every) << l;
        d[l] = kAll && !every ? 0 : same;
    });
    if (kAll && i.p[0] != kPredSink) {
        w.set_pred(i.p[0], all, active);
    }
}

template <class P, bool kAll>
void match(Warp& w, const Instr& i, uint32_t active) {
    if (w.converge(i, active, members(w, i.r[4], active))) {
        each_mask(w, i.r[4], active,
                  [&](uint32_t m, uint32_t lanes) { match_of<P, kAll>(w, i, m, lanes); });
    }
}

Instr decode_match(const ptx::Statement& s, DecodeContext& c) {
    Instr i;
    const bool all = s.has("all"), wide = ptx::bytes_of(last_type(s)) == 8;
    const Operand& d = c.operand(0);
    i.p[0] = kPredSink;
    if (d.kind == Operand::Kind::pair) {
        i.r[0] = c.target(d.items[0], Type::b32);
        i.p[0] = c.predicate_target(d.items[1]);
    } else {
        i.r[0] = c.target(d, Type::b32);
    }
    i.r[1] = c.source(c.operand(1), last_type(s));
    i.r[4] = c.source(c.operand(2), Type::b32);
    i.run = wide ? (all ? match<uint64_t, true> : match<uint64_t, false>)
                 : (all ? match<uint32_t, true> : match<uint32_t, false>);
    return i;
}

// small: 0 add, 1 min, 2 max, 3 and, 4 or, 5 xor; imm: 1 signed, 2 float, 4 abs, 8 NaN
void redux_of(Warp& w, const Instr& i, uint32_t m, uint32_t active) {
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t voters = active & m;
    uint32_t r = a[__builtin_ctz(voters)];
    if (i.imm & 2) {
        bool nan = false, first = true;
        float best = 0;
        for_lanes(voters, [&](int l) {
            float v = std::bit_cast<float>(a[l]);
            v = i.imm & 4 ? std::fabs(v) : v;
            if (v != v) {
                nan = true;
                return;
            }
            best = first ? v : i.small == 1 ? std::min(best, v) : std::max(best, v);
            first = false;
        });
        r = (nan && (i.imm & 8)) || first ? 0x7fffffff : std::bit_cast<uint32_t>(best);
    } else {
        for_lanes(voters & (voters - 1), [&](int l) {
            const auto x = static_cast<int32_t>(r), y = static_cast<int32_t>(a[l]);
            switch (i.small) {
                case 0:
                    r += a[l];
                    break;
                case 1:
                    r = i.imm & 1 ? static_cast<uint32_t>(std::min(x, y)) : std::min(r, a[l]);
                    break;
                case 2:
                    r = i.imm & 1 ? static_cast<uint32_t>(std::max(x, y)) : std::max(r, a[l]);
                    break;
                case 3:
                    r &= a[l];
                    break;
                case 4:
                    r |= a[l];
                    break;
                default:
                    r ^= a[l];
                    break;
            }
        });
    }
    each(w.u32(i.r[0]), active, [&](int) { return r; });
}

void redux(Warp& w, const Instr& i, uint32_t active) {
    if (w.converge(i, active, members(w, i.r[4], active))) {
        each_mask(w, i.r[4], active, [&](uint32_t m, uint32_t lanes) { redux_of(w, i, m, lanes); });
    }
}

Instr decode_redux(const ptx::Statement& s, DecodeContext& c) {
    constexpr std::string_view kNames[] = {"add", "min", "max", "and", "or", "xor"};
    const Type t = last_type(s);
    Instr i;
    i.run = redux;
    for (uint32_t k = 0; k < 6; ++k) {
        if (s.has(kNames[k])) {
            i.small = k;
        }
    }
    i.imm = (t == Type::s32 ? 1 : 0) | (t == Type::f32 ? 2 : 0) | (s.has("abs") ? 4 : 0) |
            (s.has("NaN") ? 8 : 0);
    i.r[0] = c.target(c.operand(0), t);
    i.r[1] = c.source(c.operand(1), t);
    i.r[4] = c.source(c.operand(2), Type::b32);
    return i;
}

void activemask(Warp& w, const Instr& i, uint32_t active) {
    each(w.u32(i.r[0]), active, [&](int) { return active; });
}

Instr decode_activemask(const ptx::Statement&, DecodeContext& c) {
    Instr i;
    i.run = activemask;
    i.r[0] = c.target(c.operand(0), Type::b32);
    return i;
}

void elect_of(Warp& w, const Instr& i, uint32_t m, uint32_t active) {
    const uint32_t leader = m & active ? static_cast<uint32_t>(__builtin_ctz(m & active)) : 0;
    if (i.r[0] != kNoRef) {
        each(w.u32(i.r[0]), active, [&](int) { return leader; });
    }
    w.set_pred(i.p[0], 1u << leader, active);
}

void elect(Warp& w, const Instr& i, uint32_t active) {
    if (w.converge(i, active, members(w, i.r[4], active))) {
        each_mask(w, i.r[4], active, [&](uint32_t m, uint32_t lanes) { elect_of(w, i, m, lanes); });
    }
}

Instr decode_elect(const ptx::Statement&, DecodeContext& c) {
    Instr i;
    i.run = elect;
    const Operand& d = c.operand(0);
    if (d.kind != Operand::Kind::pair) {
        c.fail("elect.sync needs d|p");
    }
    if (d.items[0].kind != Operand::Kind::sink) {
        i.r[0] = c.target(d.items[0], Type::b32);
    }
    i.p[0] = c.predicate_target(d.items[1]);
    i.r[4] = c.source(c.operand(1), Type::b32);
    return i;
}

const RegisterFamily kFamilies[] = {
    {"shfl", decode_shfl},
    {"vote", decode_vote},
    {"match", decode_match},
    {"redux", decode_redux},
    {"activemask", decode_activemask},
    {"elect", decode_elect},
};

}  // namespace

}  // namespace emu
