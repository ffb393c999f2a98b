// SPDX-License-Identifier: BSD-3-Clause
// wmma.load, wmma.store, wmma.mma. Fragments are laid out as units/mma.h says; the ISA leaves that
// open.
#include <cstdio>
#include <cstring>

#include "exec/memory.h"
#include "runtime/counters.h"
#include "units/mma.h"

namespace emu {

namespace {

using ptx::Operand;
using ptx::Type;

constexpr Bank kBankScratch =
    static_cast<Bank>(3);  // computed addresses, while an instruction runs

struct Fragment {
    WmmaFrag shape;
    MemoryOp memory;       // of the matrix's first element
    bool columns = false;  // .col: a column lies in one piece
    Ref stride = kNoRef;   // elements; absent: rows or columns lie side by side
    int count = 0;
    Ref refs[8];
    bool wide = false;  // f64: 64-bit registers
};

// Calls move(reg, bit of the register, resolved addresses) for each piece of the fragment that lies
// in one piece.
template <class Move>
void each_piece(Warp& w, const Fragment& f, uint32_t active, Touch touch, Move move) {
    const uint32_t element = static_cast<uint32_t>(elem_bits(f.shape.type)) / 8;
    const uint32_t word = f.wide ? 8 : 4;
    const uint32_t piece = f.columns ? element : word;
    uint64_t start[kLanes], at[kLanes];
    lane_addresses(w, f.memory, start);
    MemoryOp op = f.memory;
    op.base = make_ref(kBankScratch, 0);
    op.wide = true;
    op.offset = 0;
    op.bytes = static_cast<uint8_t>(piece);
    uint32_t* const saved = w.bank[kBankScratch];
    w.bank[kBankScratch] = reinterpret_cast<uint32_t*>(at);
    for (int reg = 0; reg < f.count; ++reg) {
        for (uint32_t part = 0; part < word; part += piece) {
            for (int l = 0; l < kLanes; ++l) {
                const Cell cell = wmma_cell(f.shape, l, reg);
                const uint64_t row = static_cast<uint64_t>(cell.row);
                const uint64_t col = static_cast<uint64_t>(cell.col) + part / element;
                const uint64_t packed =
                    static_cast<uint64_t>(f.columns ? wmma_rows(f.shape) : wmma_cols(f.shape));
                const uint64_t stride = f.stride == kNoRef ? packed : w.u32(f.stride)[l];
                at[l] = start[l] + element * (f.columns ? col * stride + row : row * stride + col);
            }
            Resolved r;
            uint8_t values[kLanes][8];
            if (touch == Touch::store) {
                for (int l = 0; l < kLanes; ++l) {
                    const uint64_t v =
                        f.wide ? w.u64(f.refs[reg])[l] : w.u32(f.refs[reg])[l] >> (8 * part);
                    std::memcpy(values[0] + static_cast<size_t>(l) * piece, &v, piece);
                }
            }
            try {
                resolve(w, op, touch, active, piece, touch == Touch::store ? values : nullptr, r);
            } catch (...) {
                w.bank[kBankScratch] = saved;
                throw;
            }
            for_lanes(active, [&](int l) { move(reg, 8 * part, piece, l, r.host[l]); });
        }
    }
    w.bank[kBankScratch] = saved;
}

void load(Warp& w, const Instr& i, uint32_t active) {
    if (!w.converge(i, active, kAllLanes)) {
        return;
    }
    const auto& f = *static_cast<const Fragment*>(i.ext);
    uint64_t loaded[8][kLanes] = {};
    each_piece(w, f, active, Touch::load,
               [&](int reg, uint32_t bit, uint32_t bytes, int l, const uint8_t* from) {
                   uint64_t v = 0;
                   std::memcpy(&v, from, bytes);
                   loaded[reg][l] |= v << bit;
               });
    for_lanes(active, [&](int l) {
        for (int reg = 0; reg < f.count; ++reg) {
            if (f.wide) {
                w.u64(f.refs[reg])[l] = loaded[reg][l];
            } else {
                w.u32(f.refs[reg])[l] = static_cast<uint32_t>(loaded[reg][l]);
            }
        }
    });
}

void store(Warp& w, const Instr& i, uint32_t active) {
    if (!w.converge(i, active, kAllLanes)) {
        return;
    }
    const auto& f = *static_cast<const Fragment*>(i.ext);
    each_piece(w, f, active, Touch::store,
               [&](int reg, uint32_t bit, uint32_t bytes, int l, uint8_t* to) {
                   const uint64_t v = f.wide ? w.u64(f.refs[reg])[l] : w.u32(f.refs[reg])[l] >> bit;
                   std::memcpy(to, &v, bytes);
               });
}

struct Product {
    MmaSpec spec;
    MmaFn run = nullptr;
    int count[4];  // registers of a, b, c, d
    Ref refs[4][8];
    bool wide = false;
};

void product(Warp& w, const Instr& i, uint32_t active) {
    if (!w.converge(i, active, kAllLanes)) {
        return;
    }
    const auto& p = *static_cast<const Product*>(i.ext);
    uint32_t planes[4][16][kLanes];
    const uint32_t* in[3][16];
    uint32_t* out[16];
    for (int k = 0; k < 3; ++k) {
        for (int r = 0; r < p.count[k]; ++r) {
            if (!p.wide) {
                in[k][r] = w.u32(p.refs[k][r]);
                continue;
            }
            for (int l = 0; l < kLanes; ++l) {
                const uint64_t v = w.u64(p.refs[k][r])[l];
                planes[k][2 * r][l] = static_cast<uint32_t>(v);
                planes[k][2 * r + 1][l] = static_cast<uint32_t>(v >> 32);
            }
            in[k][2 * r] = planes[k][2 * r];
            in[k][2 * r + 1] = planes[k][2 * r + 1];
        }
    }
    for (int r = 0; r < 16; ++r) {
        out[r] = planes[3][r];
    }
    p.run(p.spec, in[0], in[1], in[2], out);
    for_lanes(active, [&](int l) {
        for (int r = 0; r < p.count[3]; ++r) {
            if (p.wide) {
                w.u64(p.refs[3][r])[l] =
                    static_cast<uint64_t>(out[2 * r + 1][l]) << 32 | out[2 * r][l];
            } else {
                w.u32(p.refs[3][r])[l] = out[r][l];
            }
        }
    });
    w.counters->tensor_flops += 2ull * static_cast<uint64_t>(p.spec.m) *
                                static_cast<uint64_t>(p.spec.n) * static_cast<uint64_t>(p.spec.k);
}

Elem element(std::string_view text, DecodeContext& c) {
    Elem e;
    if (!elem_from_text(std::string(text).c_str(), e) || elem_bits(e) < 8) {
        c.unknown(text);
    }
    return e;
}

void read_shape(const ptx::Statement& s, DecodeContext& c, int& m, int& n, int& k) {
    for (const std::string_view p : s.parts) {
        if (p[0] == 'm' && std::sscanf(std::string(p).c_str(), "m%dn%dk%d", &m, &n, &k) == 3) {
            return;
        }
    }
    c.fail("wmma without a shape");
}

int read_registers(const Operand& o, DecodeContext& c, bool wide, bool target, Ref* refs) {
    const Operand* items = o.kind == Operand::Kind::vector ? o.items.data() : &o;
    const int count = o.kind == Operand::Kind::vector ? static_cast<int>(o.items.size()) : 1;
    if (count > 8) {
        c.fail("too many registers");
    }
    const Type type = wide ? Type::f64 : Type::b32;
    for (int r = 0; r < count; ++r) {
        refs[r] = target ? c.target(items[r], type) : c.source(items[r], type);
    }
    return count;
}

// wmma.{load.a,load.b,load.c,store.d}.sync.aligned.layout.shape{.space}.type
Instr decode_fragment(const ptx::Statement& s, DecodeContext& c, bool is_load) {
    Fragment f;
    const std::string_view use = s.parts[2];
    f.shape.use = use == "a"   ? WmmaUse::a
                  : use == "b" ? WmmaUse::b
                  : use == "c" ? WmmaUse::c
                               : WmmaUse::d;
    read_shape(s, c, f.shape.m, f.shape.n, f.shape.k);
    f.shape.type = element(s.parts.back(), c);
    f.columns = s.has("col");
    for (const std::string_view p : s.parts) {
        if (p == "global" || p == "shared" || p == "shared::cta") {
            f.memory.space = p == "global" ? ptx::Space::global : ptx::Space::shared;
        }
    }
    const DecodeContext::Address address = c.address(c.operand(is_load ? 1 : 0), f.memory.space);
    f.memory.base = address.base;
    f.memory.wide = address.wide;
    f.memory.offset = address.offset;
    if (c.operands() > 2) {
        f.stride = c.source(c.operand(2), Type::b32);
    }
    f.wide = f.shape.type == Elem::f64;
    f.count = read_registers(c.operand(is_load ? 0 : 1), c, f.wide, is_load, f.refs);
    if (f.count != wmma_regs(f.shape)) {
        c.fail("wrong number of registers");
    }
    c.kind = is_load ? Class::load : Class::store;
    Instr i;
    i.run = is_load ? load : store;
    i.ext = c.own(f);
    return i;
}

// wmma.mma.sync.aligned.alayout.blayout.shape{.rnd}.d.c{.satfinite} of f16, or .d.a.b.c of the
// other types
Instr decode_product(const ptx::Statement& s, DecodeContext& c) {
    Product p;
    read_shape(s, c, p.spec.m, p.spec.n, p.spec.k);
    std::vector<Elem> types;
    bool past_shape = false;
    for (const std::string_view part : s.parts) {
        if (past_shape && part == "satfinite") {
            p.spec.satfinite = true;
        } else if (past_shape && part != "rn") {
            types.push_back(element(part, c));
        }
        past_shape = past_shape || (part[0] == 'm' && part.find('k') != part.npos);
    }
    if (types.size() == 2) {
        types = {types[0], Elem::f16, Elem::f16, types[1]};
    }
    if (types.size() != 4) {
        c.fail("unknown types of wmma.mma");
    }
    p.spec.d = types[0], p.spec.a = types[1], p.spec.b = types[2], p.spec.c = types[3];
    p.run = wmma_find(p.spec);
    if (!p.run) {
        c.fail("unknown shape or types of wmma.mma");
    }
    p.wide = p.spec.a == Elem::f64;
    constexpr size_t kOperand[4] = {1, 2, 3, 0};
    const WmmaUse uses[4] = {WmmaUse::a, WmmaUse::b, WmmaUse::c, WmmaUse::d};
    const Elem elements[4] = {p.spec.a, p.spec.b, p.spec.c, p.spec.d};
    for (int k = 0; k < 4; ++k) {
        p.count[k] = read_registers(c.operand(kOperand[k]), c, p.wide, k == 3, p.refs[k]);
        if (p.count[k] != wmma_regs({uses[k], elements[k], p.spec.m, p.spec.n, p.spec.k})) {
            c.fail("wrong number of registers");
        }
    }
    c.kind = Class::matrix;
    Instr i;
    i.run = product;
    i.ext = c.own(p);
    return i;
}

Instr decode_wmma(const ptx::Statement& s, DecodeContext& c) {
    if (s.parts.size() < 6) {
        c.fail("unknown form of wmma");
    }
    return s.parts[1] == "mma" ? decode_product(s, c) : decode_fragment(s, c, s.parts[1] == "load");
}

const RegisterFamily kFamily("wmma", decode_wmma);

}  // namespace

}  // namespace emu
