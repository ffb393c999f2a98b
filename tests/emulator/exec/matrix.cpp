// SPDX-License-Identifier: BSD-3-Clause
// mma.sync, ldmatrix, stmatrix, movmatrix.
#include <cstring>

#include "exec/memory.h"
#include "runtime/counters.h"
#include "units/fp8_sum.h"
#include "units/mma.h"

namespace emu {

namespace {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

struct Mma {
    MmaSpec spec;
    MmaFn run = nullptr;
    int count[4];     // registers of a, b, c, d
    Ref refs[4][16];  // a, b, c, d
    bool wide[4];     // 64-bit registers
};

void mma(Warp& w, const Instr& i, uint32_t active) {
    if (!w.converge(i, active, kAllLanes)) {
        return;
    }
    const auto& m = *static_cast<const Mma*>(i.ext);
    const uint32_t* in[3][32];
    uint32_t* out[32];
    uint32_t narrow[3][16][kLanes], result[16][kLanes];
    bool through = active != kAllLanes;
    for (int k = 0; k < 3; ++k) {
        if (!m.wide[k]) {
            for (int r = 0; r < m.count[k]; ++r) {
                in[k][r] = w.u32(m.refs[k][r]);
            }
            continue;
        }
        for (int r = 0; r < m.count[k]; ++r) {  // two planes, low word first
            const uint64_t* plane = w.u64(m.refs[k][r]);
            for (int l = 0; l < kLanes; ++l) {
                narrow[k][2 * r][l] = static_cast<uint32_t>(plane[l]);
                narrow[k][2 * r + 1][l] = static_cast<uint32_t>(plane[l] >> 32);
            }
            in[k][2 * r] = narrow[k][2 * r], in[k][2 * r + 1] = narrow[k][2 * r + 1];
        }
    }
    through |= m.wide[3];
    const int planes = m.count[3] * (m.wide[3] ? 2 : 1);
    for (int r = 0; r < planes; ++r) {
        out[r] = through ? result[r] : w.u32(m.refs[3][r]);
    }
    MmaSpec spec = m.spec;
    if (w.launch->options.fp32_fp8_sums) {
        spec.fp8_terms = 0;
    }
    m.run(spec, in[0], in[1], in[2], out);
    if (through) {
        for_lanes(active, [&](int l) {
            for (int r = 0; r < m.count[3]; ++r) {
                if (m.wide[3]) {
                    w.u64(m.refs[3][r])[l] =
                        static_cast<uint64_t>(result[2 * r + 1][l]) << 32 | result[2 * r][l];
                } else {
                    w.u32(m.refs[3][r])[l] = result[r][l];
                }
            }
        });
    }
    w.counters->tensor_flops += 2ull * static_cast<uint64_t>(m.spec.m) *
                                static_cast<uint64_t>(m.spec.n) * static_cast<uint64_t>(m.spec.k);
}

Elem element(std::string_view text, DecodeContext& c) {
    Elem e;
    if (!elem_from_text(std::string(text).c_str(), e)) {
        c.unknown(text);
    }
    return e;
}

Instr decode_mma(const ptx::Statement& s, DecodeContext& c) {
    // mma.sync.aligned.shape.alayout.blayout{.satfinite}{.op}.d.a.b.c
    Mma m;
    const size_t n = s.parts.size();
    if (n < 8 || s.parts[1] != "sync") {
        c.fail("unknown form of mma");
    }
    bool shape = false;
    size_t layouts = 0;
    for (size_t k = 2; k + 4 < n; ++k) {
        const std::string_view p = s.parts[k];
        if (p[0] == 'm' && std::sscanf(std::string(p).c_str(), "m%dn%dk%d", &m.spec.m, &m.spec.n,
                                       &m.spec.k) == 3) {
            shape = true;
        } else if (p == "row" || p == "col") {
            if (p != (layouts == 0 ? "row" : "col")) {
                c.fail("only .row.col of mma is known");
            }
            ++layouts;
        } else if (p == "satfinite") {
            m.spec.satfinite = true;
        } else if (p != "aligned" && p != "kind::f8f6f4") {
            c.unknown(p);
        }
    }
    if (!shape) {
        c.fail("mma without a shape");
    }
    m.spec.d = element(s.parts[n - 4], c), m.spec.a = element(s.parts[n - 3], c);
    m.spec.b = element(s.parts[n - 2], c), m.spec.c = element(s.parts[n - 1], c);
    m.spec.fp8_terms = fp8_terms(c.arch, m.spec.a, m.spec.b);
    m.run = mma_find(m.spec);
    if (!m.run) {
        c.fail("unknown shape or types of mma");
    }
    const Elem types[4] = {m.spec.a, m.spec.b, m.spec.c, m.spec.d};
    const size_t operands[4] = {1, 2, 3, 0};
    for (int k = 0; k < 4; ++k) {
        const Operand& o = c.operand(operands[k]);
        m.wide[k] = types[k] == Elem::f64;
        const Type t = m.wide[k] ? Type::f64 : Type::b32;
        const Operand* items = o.kind == Operand::Kind::vector ? o.items.data() : &o;
        m.count[k] = o.kind == Operand::Kind::vector ? static_cast<int>(o.items.size()) : 1;
        if (m.count[k] > 16) {
            c.fail("too many registers");
        }
        for (int r = 0; r < m.count[k]; ++r) {
            m.refs[k][r] = k == 3 ? c.target(items[r], t) : c.source(items[r], t);
        }
    }
    const MmaRegs regs = mma_regs(m.spec);
    const int expected[4] = {regs.a, regs.b, regs.c, regs.d};
    for (int k = 0; k < 4; ++k) {
        if (m.count[k] * (m.wide[k] ? 2 : 1) != expected[k] && m.count[k] != expected[k]) {
            c.fail("wrong number of registers");
        }
    }
    Instr i;
    i.run = mma;
    i.ext = c.own(m);
    return i;
}

// ---- ldmatrix, stmatrix: 8x8 matrices of 16-bit elements; lane 8m + r gives the address of row r
// of matrix m ----

struct Matrices {
    MemoryOp memory;
    int count = 1;
    bool trans = false;
};

void ldmatrix(Warp& w, const Instr& i, uint32_t active) {
    if (!w.converge(i, active, kAllLanes)) {
        return;
    }
    const auto& m = *static_cast<const Matrices*>(i.ext);
    const uint32_t addressed = m.count == 4 ? kAllLanes : (1u << (8 * m.count)) - 1;
    Resolved r;
    resolve(w, m.memory, Touch::load, addressed, 16, nullptr, r);
    uint32_t planes[4][kLanes];
    for (int k = 0; k < m.count; ++k) {
        if (!m.trans) {
            for (int row = 0; row < 8; ++row) {
                std::memcpy(&planes[k][4 * row], r.host[8 * k + row], 16);
            }
        } else {
            uint16_t rows[8][8];
            for (int row = 0; row < 8; ++row) {
                std::memcpy(rows[row], r.host[8 * k + row], 16);
            }
            for (int l = 0; l < kLanes; ++l) {
                const int col = l / 4, row = 2 * (l % 4);
                planes[k][l] = static_cast<uint32_t>(rows[row][col]) |
                               static_cast<uint32_t>(rows[row + 1][col]) << 16;
            }
        }
    }
    for (int k = 0; k < m.count; ++k) {
        each(w.u32(m.memory.data[k]), active, [&](int l) { return planes[k][l]; });
    }
}

void stmatrix(Warp& w, const Instr& i, uint32_t active) {
    if (!w.converge(i, active, kAllLanes)) {
        return;
    }
    const auto& m = *static_cast<const Matrices*>(i.ext);
    const uint32_t addressed = m.count == 4 ? kAllLanes : (1u << (8 * m.count)) - 1;
    alignas(16) uint8_t values[kLanes][16] = {};
    for (int k = 0; k < m.count; ++k) {
        const uint32_t* d = w.u32(m.memory.data[k]);
        for (int l = 0; l < kLanes; ++l) {
            if (!m.trans) {
                std::memcpy(&values[8 * k + l / 4][4 * (l % 4)], &d[l], 4);
            } else {
                const auto low = static_cast<uint16_t>(d[l]),
                           high = static_cast<uint16_t>(d[l] >> 16);
                std::memcpy(&values[8 * k + 2 * (l % 4)][2 * (l / 4)], &low, 2);
                std::memcpy(&values[8 * k + 2 * (l % 4) + 1][2 * (l / 4)], &high, 2);
            }
        }
    }
    Resolved r;
    resolve(w, m.memory, Touch::store, addressed, 16, values, r);
    for_lanes(addressed, [&](int l) { std::memcpy(r.host[l], values[l], 16); });
}

Instr decode_matrices(const ptx::Statement& s, DecodeContext& c, bool load) {
    Matrices m;
    m.memory = decode_memory(s, c, c.operand(load ? 1 : 0),
                             {"sync", "aligned", "m8n8", "x1", "x2", "x4", "trans"});
    if (m.memory.space == Space::none) {
        m.memory.space = Space::none;
    }
    if (!s.has("m8n8") || last_type(s) != Type::b16) {
        c.fail("only .m8n8 matrices of .b16 are known");
    }
    m.count = s.has("x4") ? 4 : s.has("x2") ? 2 : 1;
    m.trans = s.has("trans");
    const Operand& o = c.operand(load ? 0 : 1);
    const Operand* items = o.kind == Operand::Kind::vector ? o.items.data() : &o;
    if ((o.kind == Operand::Kind::vector ? static_cast<int>(o.items.size()) : 1) != m.count) {
        c.fail("wrong number of registers");
    }
    for (int k = 0; k < m.count; ++k) {
        m.memory.data[k] = load ? c.target(items[k], Type::b32) : c.source(items[k], Type::b32);
    }
    m.memory.bytes = 16;
    Instr i;
    i.run = load ? ldmatrix : stmatrix;
    i.ext = c.own(m);
    return i;
}

Instr decode_ldmatrix(const ptx::Statement& s, DecodeContext& c) {
    return decode_matrices(s, c, true);
}
Instr decode_stmatrix(const ptx::Statement& s, DecodeContext& c) {
    return decode_matrices(s, c, false);
}

void movmatrix(Warp& w, const Instr& i, uint32_t active) {
    if (!w.converge(i, active, kAllLanes)) {
        return;
    }
    uint16_t rows[8][8];
    std::memcpy(rows, w.u32(i.r[1]), sizeof rows);
    each(w.u32(i.r[0]), active, [&](int l) {
        const int col = l / 4, row = 2 * (l % 4);
        return static_cast<uint32_t>(rows[row][col]) | static_cast<uint32_t>(rows[row + 1][col])
                                                           << 16;
    });
}

Instr decode_movmatrix(const ptx::Statement&, DecodeContext& c) {
    return pack(c, movmatrix, {Type::b32, Type::b32});
}

const RegisterFamily kFamilies[] = {{"mma", decode_mma},
                                    {"ldmatrix", decode_ldmatrix},
                                    {"stmatrix", decode_stmatrix},
                                    {"movmatrix", decode_movmatrix}};

}  // namespace

}  // namespace emu
