// SPDX-License-Identifier: BSD-3-Clause
// atom and red: really atomic on the host for global memory, CTAs of one cluster share a host
// thread.
#include <algorithm>
#include <cstring>

#include "exec/async_families.h"
#include "exec/floating.h"
#include "exec/memory.h"
#include "units/numeric.h"

namespace emu {

namespace {

using ptx::Operand;
using ptx::Type;

enum class Op : uint8_t { and_, or_, xor_, exch, cas, add, inc, dec, min, max };

struct Atomic {
    MemoryOp memory;
    Op op = Op::add;
    Ref result[4] = {kNoRef, kNoRef, kNoRef, kNoRef};
    Ref b[4] = {kNoRef, kNoRef, kNoRef, kNoRef}, c = kNoRef;
    bool noftz = true;
};

// The new value of one element (a 32-bit word for packed halves), from bits to bits.
uint64_t apply(Op op, Type t, uint64_t old, uint64_t b, uint64_t c) {
    auto as_float = [](uint64_t v) { return std::bit_cast<float>(static_cast<uint32_t>(v)); };
    switch (op) {
        case Op::and_:
            return old & b;
        case Op::or_:
            return old | b;
        case Op::xor_:
            return old ^ b;
        case Op::exch:
            return b;
        case Op::cas:
            return old == b ? c : old;
        case Op::inc:
            return static_cast<uint32_t>(old) >= static_cast<uint32_t>(b)
                       ? 0
                       : static_cast<uint32_t>(old + 1);
        case Op::dec:
            return old == 0 || static_cast<uint32_t>(old) > static_cast<uint32_t>(b)
                       ? static_cast<uint32_t>(b)
                       : static_cast<uint32_t>(old - 1);
        case Op::add:
            switch (t) {
                case Type::f32: {
                    const float r = as_float(old) + as_float(b);
                    return std::bit_cast<uint32_t>(num::f32_canonical(r));
                }
                case Type::f64:
                    return std::bit_cast<uint64_t>(std::bit_cast<double>(old) +
                                                   std::bit_cast<double>(b));
                case Type::f16:
                    return num::f16_add(static_cast<uint16_t>(old), static_cast<uint16_t>(b));
                case Type::bf16:
                    return num::bf16_add(static_cast<uint16_t>(old), static_cast<uint16_t>(b));
                case Type::f16x2:
                    return num::packed(static_cast<uint32_t>(old), static_cast<uint32_t>(b),
                                       num::f16_add);
                case Type::bf16x2:
                    return num::packed(static_cast<uint32_t>(old), static_cast<uint32_t>(b),
                                       num::bf16_add);
                default:
                    return old + b;
            }
        default:
            break;
    }
    const bool low = op == Op::min;
    auto pick = [&](auto x, auto y) { return low ? std::min(x, y) : std::max(x, y); };
    auto half_pair = [&](auto minimum, auto maximum) -> uint64_t {
        auto f = [&](uint16_t x, uint16_t y) {
            return low ? minimum(x, y, false) : maximum(x, y, false);
        };
        return ptx::bytes_of(t) == 4
                   ? num::packed(static_cast<uint32_t>(old), static_cast<uint32_t>(b), f)
                   : f(static_cast<uint16_t>(old), static_cast<uint16_t>(b));
    };
    switch (t) {
        case Type::s32:
            return static_cast<uint32_t>(pick(static_cast<int32_t>(old), static_cast<int32_t>(b)));
        case Type::u32:
            return pick(static_cast<uint32_t>(old), static_cast<uint32_t>(b));
        case Type::s64:
            return static_cast<uint64_t>(pick(static_cast<int64_t>(old), static_cast<int64_t>(b)));
        case Type::u64:
            return pick(old, b);
        case Type::f16:
        case Type::f16x2:
            return half_pair(num::f16_min, num::f16_max);
        case Type::bf16:
        case Type::bf16x2:
            return half_pair(num::bf16_min, num::bf16_max);
        default:
            return pick(old, b);
    }
}

template <class T>
uint64_t swap_in(uint8_t* at, const Atomic& a, uint64_t b, uint64_t c) {
    auto* p = reinterpret_cast<T*>(at);
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (true) {
        const T wanted = static_cast<T>(apply(a.op, a.memory.type, old, b, c));
        if (__atomic_compare_exchange_n(p, &old, wanted, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
            return old;
        }
    }
}

uint64_t swap128(Warp& w, const Atomic& a, uint8_t* at, int l, uint64_t* high_out) {
    using Wide = unsigned __int128;
    auto get = [&](Ref r) { return static_cast<Wide>(w.u64(r)[kLanes + l]) << 64 | w.u64(r)[l]; };
    const Wide b = get(a.b[0]), c = a.c == kNoRef ? b : get(a.c);
    static std::mutex mutex;  // no 16-byte compare-exchange is assumed
    std::lock_guard lock(mutex);
    Wide old;
    std::memcpy(&old, at, 16);
    const Wide wanted = a.op == Op::exch ? b : old == b ? c : old;
    std::memcpy(at, &wanted, 16);
    *high_out = static_cast<uint64_t>(old >> 64);
    return static_cast<uint64_t>(old);
}

void atom(Warp& w, const Instr& i, uint32_t active) {
    const auto& a = *static_cast<const Atomic*>(i.ext);
    const MemoryOp& m = a.memory;
    Resolved r;
    resolve(w, m, Touch::atomic, active, static_cast<uint32_t>(m.bytes) * m.count, nullptr, r);
    bool failed = false, moved = false;
    for_lanes(active, [&](int l) {
        if (m.bytes == 16) {
            uint64_t high = 0;
            const uint64_t low = swap128(w, a, r.host[l], l, &high);
            if (a.result[0] != kNoRef) {
                w.u64(a.result[0])[l] = low, w.u64(a.result[0])[kLanes + l] = high;
            }
            return;
        }
        for (int e = 0; e < m.count; ++e) {
            const bool wide = m.bytes == 8;
            const uint64_t b = wide ? w.u64(a.b[e])[l] : w.u32(a.b[e])[l];
            const uint64_t c = a.c == kNoRef ? 0 : wide ? w.u64(a.c)[l] : w.u32(a.c)[l];
            uint8_t* at = r.host[l] + e * m.bytes;
            uint64_t old;
            switch (m.bytes) {
                case 2:
                    old = swap_in<uint16_t>(at, a, b, c);
                    break;
                case 4:
                    old = swap_in<uint32_t>(at, a, b, c);
                    break;
                default:
                    old = swap_in<uint64_t>(at, a, b, c);
                    break;
            }
            failed |= a.op == Op::cas && old != b;
            moved |= a.op == Op::cas
                         ? old == b
                         : a.op != Op::or_ && a.op != Op::exch && !(a.op == Op::add && b == 0);
            if (a.result[e] != kNoRef) {
                if (wide) {
                    w.u64(a.result[e])[l] = old;
                } else {
                    w.u32(a.result[e])[l] = static_cast<uint32_t>(old);
                }
            }
        }
    });
    acquired(w, m, true, active, r);
    // A lock that was not got, or a poll by exchange: others should run before the next try.
    w.hint = failed || !moved;
}

Op op_named(std::string_view n, bool& known) {
    constexpr std::pair<std::string_view, Op> kOps[] = {
        {"and", Op::and_}, {"or", Op::or_},  {"xor", Op::xor_}, {"exch", Op::exch},
        {"cas", Op::cas},  {"add", Op::add}, {"inc", Op::inc},  {"dec", Op::dec},
        {"min", Op::min},  {"max", Op::max}};
    for (auto [name, op] : kOps) {
        if (n == name) {
            known = true;
            return op;
        }
    }
    return Op::add;
}

Instr decode_atomic(const ptx::Statement& s, DecodeContext& c, bool returns) {
    Atomic a;
    const size_t at = returns ? 1 : 0;
    a.memory = decode_memory(
        s, c, c.operand(at),
        {"and", "or", "xor", "exch", "cas", "add", "inc", "dec", "min", "max", "noftz"});
    bool known = false;
    for (std::string_view p : s.parts) {
        bool here = false;
        const Op op = op_named(p, here);
        if (here) {
            a.op = op, known = true;
        }
    }
    if (!known) {
        c.fail("unknown operation of " + std::string(s.parts[0]));
    }
    MemoryOp& m = a.memory;
    m.strong = true;
    m.scope = s.has("cta") ? 0 : s.has("cluster") ? 1 : s.has("sys") ? 3 : 2;
    auto list = [&](const Operand& o, Ref* out, bool target) {
        auto one = [&](const Operand& x) {
            return x.kind == Operand::Kind::sink ? kNoRef
                   : target                      ? c.target(x, m.type)
                                                 : c.source(x, m.type);
        };
        if (m.count == 1) {
            out[0] = one(o);
            return;
        }
        if (o.kind != Operand::Kind::vector || o.items.size() != m.count) {
            c.fail("a vector of " + std::to_string(m.count) + " registers is expected");
        }
        // .v8.f16: pairs of 16-bit registers would need eight; only up to four elements are known.
        for (size_t e = 0; e < o.items.size(); ++e) {
            out[e] = one(o.items[e]);
        }
    };
    if (m.count > 4) {
        c.unknown("v8");
    }
    if (returns) {
        list(c.operand(0), a.result, true);
    }
    list(c.operand(at + 1), a.b, false);
    if (a.op == Op::cas) {
        a.c = c.source(c.operand(at + 2), m.type);
    }
    Instr i;
    i.run = atom;
    i.ext = c.own(a);
    return i;
}

Instr decode_atom(const ptx::Statement& s, DecodeContext& c) {
    return decode_atomic(s, c, true);
}

Instr decode_red(const ptx::Statement& s, DecodeContext& c) {
    return s.parts[1] == "async" ? decode_red_async(s, c) : decode_atomic(s, c, false);
}

const RegisterFamily kFamilies[] = {{"atom", decode_atom}, {"red", decode_red}};

}  // namespace

}  // namespace emu
