// SPDX-License-Identifier: BSD-3-Clause
#include "tcgen05.h"

#include <algorithm>
#include <cmath>

#include "numeric.h"
#include "tile.h"

namespace emu {
namespace {

bool lane_disabled(const uint32_t* disabled, int cta, int lane) {
    return disabled[4 * cta + lane / 32] >> (lane % 32) & 1;
}

template <class T, class Operands, class Read, class Write>
void run(const TcInstr& s, int ctas, const Operands& o, const T* a, Read read, Write write) {
    std::vector<T> row(static_cast<size_t>(s.n) + 8);
    for (int m = 0; m < s.m; ++m) {
        const TcCell first = tc_cell(s, ctas, m, 0);
        for (int n = 0; n < s.n; ++n) {
            const TcCell at = tc_cell(s, ctas, m, n);
            row[static_cast<size_t>(n)] =
                o.accumulate ? read(o.memory[at.cta]->at(o.lane + at.lane, o.column + at.column))
                             : T(0);
        }
        tile_product(a + m * s.k, s.k, o.b, s.n, row.data(), s.n, 1, s.n, s.k);
        if (lane_disabled(o.disabled, first.cta, o.lane + first.lane)) {
            continue;
        }
        for (int n = 0; n < s.n; ++n) {
            const TcCell at = tc_cell(s, ctas, m, n);
            if (!lane_disabled(o.disabled, at.cta, o.lane + at.lane)) {
                write(o.memory[at.cta]->at(o.lane + at.lane, o.column + at.column),
                      row[static_cast<size_t>(n)]);
            }
        }
    }
}

template <class T>
void read_a(const TcInstr& s, TensorMemory& memory, int lane, int column, int rows, T* tile) {
    for (int m = 0; m < rows; ++m) {
        const int at = lane + (rows == 64 && s.m == 64 ? m % 16 + 32 * (m / 16) : m);
        const uint32_t* words = memory.row(at) + column;
        if constexpr (std::is_same_v<T, float>) {
            unpack_floats(s.a, words, tile + m * s.k, s.k);
        } else {
            unpack_ints(s.a, words, tile + m * s.k, s.k);
        }
    }
}

}  // namespace

const char* decode_tc_instr(uint32_t bits, TcKind kind, int ctas, TcInstr& out) {
    const uint32_t c = (bits >> 4) & 3, a = (bits >> 7) & 7, b = (bits >> 10) & 7;
    if (bits >> 2 & 1) {
        return "sparse tcgen05.mma is not emulated";
    }
    const auto pick = [&](uint32_t code, Elem& e) {
        switch (kind) {
            case TcKind::f16:
                e = code == 0 ? Elem::f16 : Elem::bf16;
                return code < 2;
            case TcKind::tf32:
                e = Elem::tf32;
                return code == 2;
            case TcKind::i8:
                e = code == 0 ? Elem::u8 : Elem::s8;
                return code < 2;
            default:
                e = code == 0 ? Elem::e4m3 : Elem::e5m2;
                return code < 2;
        }
    };
    if (!pick(a, out.a) || !pick(b, out.b)) {
        return kind == TcKind::f8f6f4
                   ? "operand format: only e4m3 and e5m2 are emulated for kind::f8f6f4"
                   : "operand format does not belong to the kind";
    }
    if (kind == TcKind::f16 && a != b) {
        return "kind::f16 needs operands of one format";
    }
    out.d = c == 0 ? Elem::f16 : c == 1 ? Elem::f32 : Elem::s32;
    const bool f16_out = out.d == Elem::f16 &&
                         (kind == TcKind::f8f6f4 || (kind == TcKind::f16 && out.a == Elem::f16));
    if (kind == TcKind::i8 ? out.d != Elem::s32 : !(out.d == Elem::f32 || f16_out)) {
        return "accumulator format does not belong to the kind";
    }
    out.saturate = bits >> 3 & 1;
    out.neg_a = bits >> 13 & 1;
    out.neg_b = bits >> 14 & 1;
    out.mn_major_a = bits >> 15 & 1;
    out.mn_major_b = bits >> 16 & 1;
    out.n = static_cast<int>((bits >> 17) & 63) * 8;
    out.m = static_cast<int>((bits >> 24) & 31) * 16;
    out.k = 256 / elem_bits(out.a);
    const bool m_ok = ctas == 1 ? out.m == 64 || out.m == 128 : out.m == 128 || out.m == 256;
    const int step = ctas == 1 && out.m == 64 ? 8 : ctas == 1 ? 16 : out.m == 128 ? 16 : 32;
    if (!m_ok) {
        return ctas == 1 ? "M is 64 or 128 for cta_group::1" : "M is 128 or 256 for cta_group::2";
    }
    if (out.n < step || out.n > 256 || out.n % step != 0) {
        return "N is outside the multiples allowed for this M and cta_group";
    }
    return nullptr;
}

void tc_run(const TcInstr& s, int ctas, const TcOperands& o) {
    std::vector<float> negated;
    const float* a = o.a;
    if (s.neg_a != s.neg_b) {
        negated.assign(a, a + s.m * s.k);
        std::transform(negated.begin(), negated.end(), negated.begin(), [](float x) { return -x; });
        a = negated.data();
    }
    const float scale = std::ldexp(1.0f, -o.scale_shift);
    const bool any_disabled =
        std::any_of(o.disabled, o.disabled + 8, [](uint32_t w) { return w != 0; });
    const bool rows_whole =
        !(ctas == 2 && s.m == 128) && s.d == Elem::f32 && o.scale_shift == 0 && !any_disabled;
    if (rows_whole) {
        // Sixteen or more consecutive rows lie in consecutive lanes: the product runs in tensor
        // memory itself.
        const int group = ctas == 1 && s.m == 64 ? 16 : 128;
        for (int m = 0; m < s.m; m += group) {
            const TcCell at = tc_cell(s, ctas, m, 0);
            TensorMemory& memory = *o.memory[at.cta];
            for (int r = 0; !o.accumulate && r < group; ++r) {
                std::fill_n(&memory.at(o.lane + at.lane + r, o.column), s.n, 0u);
            }
            float* c = reinterpret_cast<float*>(&memory.at(o.lane + at.lane, o.column));
            tile_product(a + m * s.k, s.k, o.b, s.n, c, TensorMemory::kColumns, group, s.n, s.k);
        }
        return;
    }
    if (s.d == Elem::f16) {
        run<float>(
            s, ctas, o, a,
            [&](uint32_t w) { return scale * num::f16_to_f32(static_cast<uint16_t>(w)); },
            [](uint32_t& w, float v) { w = num::f32_to_f16(v); });
    } else {
        run<float>(
            s, ctas, o, a, [&](uint32_t w) { return scale * num::bits_f32(w); },
            [](uint32_t& w, float v) { w = num::f32_bits(v); });
    }
}

void tc_run(const TcInstr& s, int ctas, const TcIntOperands& o) {
    TcIntOperands fresh = o;
    fresh.accumulate = false;
    run<int32_t>(
        s, ctas, fresh, o.a, [](uint32_t) { return 0; },
        [&](uint32_t& w, int32_t v) {
            const int64_t sum =
                static_cast<int64_t>(v) + (o.accumulate ? static_cast<int32_t>(w) : 0);
            w = static_cast<uint32_t>(s.saturate ? std::clamp<int64_t>(sum, INT32_MIN, INT32_MAX)
                                                 : sum);
        });
}

void tc_a_from_tmem(const TcInstr& s, TensorMemory& memory, int lane, int column, int rows,
                    float* tile) {
    read_a(s, memory, lane, column, rows, tile);
}
void tc_a_from_tmem(const TcInstr& s, TensorMemory& memory, int lane, int column, int rows,
                    int32_t* tile) {
    read_a(s, memory, lane, column, rows, tile);
}

}  // namespace emu
