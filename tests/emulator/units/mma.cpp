// SPDX-License-Identifier: BSD-3-Clause
#include "mma.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>
#include <utility>

#include "fp8_sum.h"
#include "numeric.h"
#include "tile.h"

namespace emu {
namespace {

constexpr bool is_float_operand(Elem e) {
    return e == Elem::f16 || e == Elem::bf16 || e == Elem::tf32 || e == Elem::e4m3 ||
           e == Elem::e5m2 || e == Elem::e3m2 || e == Elem::e2m3 || e == Elem::e2m1;
}
constexpr bool is_int_operand(Elem e) {
    return e == Elem::s8 || e == Elem::u8 || e == Elem::s4 || e == Elem::u4;
}
constexpr bool is_narrow_float(Elem e) {
    return is_float_operand(e) && elem_bits(e) == 8;
}

void unpack(Elem type, const void* src, float* dst, int count) {
    unpack_floats(type, src, dst, count);
}
void unpack(Elem type, const void* src, int32_t* dst, int count) {
    unpack_ints(type, src, dst, count);
}

// In every mma.sync form a plane of A is 8 rows x (4 words) row-major, and a plane of B is 8
// columns x (4 words).
template <class T>
void load_a(const MmaSpec& s, const uint32_t* const* a, T* tile) {
    const int per_word = 32 / elem_bits(s.a), span = 4 * per_word, row_blocks = s.m / 8;
    const int regs = s.m * s.k / 32 / per_word;
    T line[8 * 128];
    for (int r = 0; r < regs; ++r) {
        unpack(s.a, a[r], line, 8 * span);
        for (int g = 0; g < 8; ++g) {
            std::memcpy(tile + (8 * (r % row_blocks) + g) * s.k + (r / row_blocks) * span,
                        line + g * span, static_cast<size_t>(span) * sizeof(T));
        }
    }
}
template <class T>
void load_b(const MmaSpec& s, const uint32_t* const* b, T* tile) {
    const int per_word = 32 / elem_bits(s.b), span = 4 * per_word, regs = s.k / span;
    T line[8 * 128];
    for (int r = 0; r < regs; ++r) {
        unpack(s.b, b[r], line, 8 * span);
        for (int g = 0; g < 8; ++g) {
            for (int j = 0; j < span; ++j) {
                tile[(r * span + j) * 8 + g] = line[g * span + j];
            }
        }
    }
}

void load_c(Elem type, int m, const uint32_t* const* c, float* tile) {
    if (type == Elem::f16) {
        for (int r = 0; r < m / 8; ++r) {
            unpack_floats(Elem::f16, c[r], tile + 64 * r, 64);
        }
        return;
    }
    for (int r = 0; r < m / 8; ++r) {
        for (int lane = 0; lane < 32; ++lane) {
            tile[64 * r + 2 * lane] = num::bits_f32(c[2 * r][lane]);
            tile[64 * r + 2 * lane + 1] = num::bits_f32(c[2 * r + 1][lane]);
        }
    }
}
void store_d(Elem type, int m, const float* tile, uint32_t* const* d) {
    for (int r = 0; r < m / 8; ++r) {
        for (int lane = 0; lane < 32; ++lane) {
            const float lo = tile[64 * r + 2 * lane], hi = tile[64 * r + 2 * lane + 1];
            if (type == Elem::f16) {
                d[r][lane] = num::f32_to_f16(lo) | static_cast<uint32_t>(num::f32_to_f16(hi)) << 16;
            } else {
                d[2 * r][lane] = num::f32_bits(num::f32_canonical(lo));
                d[2 * r + 1][lane] = num::f32_bits(num::f32_canonical(hi));
            }
        }
    }
}

void run_float(const MmaSpec& s, const uint32_t* const* a, const uint32_t* const* b,
               const uint32_t* const* c, uint32_t* const* d) {
    alignas(64) float ta[16 * 64], tb[64 * 8], tc[16 * 8];
    load_a(s, a, ta);
    load_b(s, b, tb);
    load_c(s.c, s.m, c, tc);
    if (s.fp8_terms > 0) {
        fp8_product(s.a, s.b, s.d, std::min(s.fp8_terms, s.k), ta, s.k, tb, 8, tc, 8, s.m, 8, s.k);
    } else {
        tile_product(ta, s.k, tb, 8, tc, 8, s.m, 8, s.k);
    }
    store_d(s.d, s.m, tc, d);
}

void interleave(const V8h (&in)[8], V8h (&out)[8]) {
    for (int g = 0; g < 4; ++g) {
        out[2 * g] = __builtin_shufflevector(in[g], in[g + 4], 0, 8, 1, 9, 2, 10, 3, 11);
        out[2 * g + 1] = __builtin_shufflevector(in[g], in[g + 4], 4, 12, 5, 13, 6, 14, 7, 15);
    }
}

// m16n8k8 and m16n8k16 with f16 or bf16: accumulator columns are kept in the order 0 2 4 6 1 3 5 7,
// so that a row of C is four words of one plane and four of the next.
template <bool Bf16, int K>
void run_16bit(const MmaSpec&, const uint32_t* const* a, const uint32_t* const* b,
               const uint32_t* const* c, uint32_t* const* d) {
    alignas(64) float ta[16][K];
    alignas(64) float tb[K][8];
    constexpr Elem kType = Bf16 ? Elem::bf16 : Elem::f16;
    for (int r = 0; r < K / 4; ++r) {
        alignas(64) float line[64];
        unpack_floats(kType, a[r], line, 64);
        for (int g = 0; g < 8; ++g) {
            store_v(&ta[8 * (r & 1) + g][8 * (r >> 1)], load_v<V8f>(line + 8 * g));
        }
    }
    for (int r = 0; r < K / 8; ++r) {
        V8h x[8], y[8];
        for (int g = 0; g < 8; ++g) {
            constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
            x[g] = load_v<V8h>(b[r] + 4 * kOrder[g]);
        }
        // Each pass rotates the six (row, column) index bits by one; three passes transpose.
        interleave(x, y);
        interleave(y, x);
        interleave(x, y);
        alignas(64) uint16_t columns[64];
        for (int g = 0; g < 8; ++g) {
            store_v(columns + 8 * g, y[g]);
        }
        unpack_floats(kType, columns, &tb[8 * r][0], 64);
    }
    for (int half = 0; half < 2; ++half) {
        V8f acc[8];
        for (int g = 0; g < 8; ++g) {
            std::memcpy(&acc[g], c[2 * half] + 4 * g, 16);
            std::memcpy(reinterpret_cast<char*>(&acc[g]) + 16, c[2 * half + 1] + 4 * g, 16);
        }
        for (int p = 0; p < K; ++p) {
            const V8f row = load_v<V8f>(tb[p]);
            for (int g = 0; g < 8; ++g) {
                acc[g] = ta[8 * half + g][p] * row + acc[g];
            }
        }
        for (int g = 0; g < 8; ++g) {
            std::memcpy(d[2 * half] + 4 * g, &acc[g], 16);
            std::memcpy(d[2 * half + 1] + 4 * g, reinterpret_cast<const char*>(&acc[g]) + 16, 16);
        }
    }
}

void clamp_or_wrap(const MmaSpec& s, const int32_t* product, const uint32_t* c, uint32_t* out,
                   int count) {
    for (int i = 0; i < count; ++i) {
        const int64_t sum = static_cast<int64_t>(product[i]) + static_cast<int32_t>(c[i]);
        out[i] = static_cast<uint32_t>(s.satfinite ? std::clamp<int64_t>(sum, INT32_MIN, INT32_MAX)
                                                   : sum);
    }
}

void run_int(const MmaSpec& s, const uint32_t* const* a, const uint32_t* const* b,
             const uint32_t* const* c, uint32_t* const* d) {
    alignas(64) int32_t ta[16 * 64], tb[64 * 8], tc[16 * 8] = {};
    load_a(s, a, ta);
    load_b(s, b, tb);
    tile_product(ta, s.k, tb, 8, tc, 8, s.m, 8, s.k);
    for (int r = 0; r < s.m / 8; ++r) {
        for (int h = 0; h < 2; ++h) {
            int32_t column[32];
            for (int lane = 0; lane < 32; ++lane) {
                column[lane] = tc[64 * r + 2 * lane + h];
            }
            clamp_or_wrap(s, column, c[2 * r + h], d[2 * r + h], 32);
        }
    }
}

double f64_at(const uint32_t* const* planes, int reg, int lane) {
    return std::bit_cast<double>(planes[2 * reg][lane] |
                                 static_cast<uint64_t>(planes[2 * reg + 1][lane]) << 32);
}
void run_f64(const MmaSpec& s, const uint32_t* const* a, const uint32_t* const* b,
             const uint32_t* const* c, uint32_t* const* d) {
    double out[4][32];
    const int row_blocks = s.m / 8;
    for (int i = 0; i < s.m / 4; ++i) {
        for (int lane = 0; lane < 32; ++lane) {
            const Cell at = mma_cell_c(s, Elem::f64, lane, i, 0);
            double sum = f64_at(c, i, lane);
            for (int k = 0; k < s.k; ++k) {
                const int reg = (k / 4) * row_blocks + at.row / 8;
                sum = std::fma(f64_at(a, reg, (at.row % 8) * 4 + k % 4),
                               f64_at(b, k / 4, at.col * 4 + k % 4), sum);
            }
            out[i][lane] = sum;
        }
    }
    for (int i = 0; i < s.m / 4; ++i) {
        for (int lane = 0; lane < 32; ++lane) {
            const uint64_t u = std::bit_cast<uint64_t>(out[i][lane]);
            d[2 * i][lane] = static_cast<uint32_t>(u);
            d[2 * i + 1][lane] = static_cast<uint32_t>(u >> 32);
        }
    }
}

// ---- wmma: planes hold the row-major matrix, so a tile is their concatenation.

template <class T>
void load_rows(Elem type, const uint32_t* const* planes, int elements, T* tile) {
    const int per_plane = 32 * 32 / elem_bits(type);
    for (int r = 0; r * per_plane < elements; ++r) {
        unpack(type, planes[r], tile + r * per_plane,
               std::min(per_plane, elements - r * per_plane));
    }
}

void run_wmma_float(const MmaSpec& s, const uint32_t* const* a, const uint32_t* const* b,
                    const uint32_t* const* c, uint32_t* const* d) {
    alignas(64) float ta[512], tb[512], tc[256];
    load_rows(s.a, a, s.m * s.k, ta);
    load_rows(s.b, b, s.k * s.n, tb);
    load_rows(s.c, c, s.m * s.n, tc);
    tile_product(ta, s.k, tb, s.n, tc, s.n, s.m, s.n, s.k);
    for (int i = 0; i < s.m * s.n; ++i) {
        if (s.d == Elem::f16) {
            const int word = i / 2, shift = 16 * (i & 1);
            uint32_t& out = d[word / 32][word % 32];
            out = (out & ~(0xffffu << shift)) | static_cast<uint32_t>(num::f32_to_f16(tc[i]))
                                                    << shift;
        } else {
            d[i / 32][i % 32] = num::f32_bits(num::f32_canonical(tc[i]));
        }
    }
}
void run_wmma_int(const MmaSpec& s, const uint32_t* const* a, const uint32_t* const* b,
                  const uint32_t* const* c, uint32_t* const* d) {
    alignas(64) int32_t ta[512], tb[512], tc[256] = {};
    load_rows(s.a, a, s.m * s.k, ta);
    load_rows(s.b, b, s.k * s.n, tb);
    tile_product(ta, s.k, tb, s.n, tc, s.n, s.m, s.n, s.k);
    for (int r = 0; r < s.m * s.n / 32; ++r) {
        clamp_or_wrap(s, tc + 32 * r, c[r], d[r], 32);
    }
}
void run_wmma_f64(const MmaSpec& s, const uint32_t* const* a, const uint32_t* const* b,
                  const uint32_t* const* c, uint32_t* const* d) {
    double out[64];
    for (int i = 0; i < 64; ++i) {
        out[i] = f64_at(c, i / 32, i % 32);
        for (int k = 0; k < s.k; ++k) {
            out[i] = std::fma(f64_at(a, 0, (i / 8) * 4 + k), f64_at(b, 0, k * 8 + i % 8), out[i]);
        }
    }
    for (int i = 0; i < 64; ++i) {
        const uint64_t u = std::bit_cast<uint64_t>(out[i]);
        d[2 * (i / 32)][i % 32] = static_cast<uint32_t>(u);
        d[2 * (i / 32) + 1][i % 32] = static_cast<uint32_t>(u >> 32);
    }
}

}  // namespace

bool elem_from_text(const char* text, Elem& out) {
    static constexpr std::pair<std::string_view, Elem> kNames[] = {
        {"f16", Elem::f16},   {"bf16", Elem::bf16}, {"tf32", Elem::tf32}, {"f32", Elem::f32},
        {"f64", Elem::f64},   {"e4m3", Elem::e4m3}, {"e5m2", Elem::e5m2}, {"e3m2", Elem::e3m2},
        {"e2m3", Elem::e2m3}, {"e2m1", Elem::e2m1}, {"s8", Elem::s8},     {"u8", Elem::u8},
        {"s4", Elem::s4},     {"u4", Elem::u4},     {"b1", Elem::b1},     {"s32", Elem::s32}};
    for (const auto& [name, elem] : kNames) {
        if (name == text) {
            out = elem;
            return true;
        }
    }
    return false;
}

MmaFn mma_find(const MmaSpec& s) {
    if (s.a == Elem::f64) {
        const bool shape = s.n == 8 && ((s.m == 8 && s.k == 4) ||
                                        (s.m == 16 && (s.k == 4 || s.k == 8 || s.k == 16)));
        return shape && s.b == Elem::f64 && s.c == Elem::f64 && s.d == Elem::f64 ? run_f64
                                                                                 : nullptr;
    }
    if (is_int_operand(s.a) && is_int_operand(s.b)) {
        const int wide = elem_bits(s.a) == 8 ? 16 : 32;
        const bool shape =
            s.n == 8 && elem_bits(s.a) == elem_bits(s.b) &&
            ((s.m == 8 && s.k == wide) || (s.m == 16 && (s.k == wide || s.k == 2 * wide)));
        return shape && s.c == Elem::s32 && s.d == Elem::s32 ? run_int : nullptr;
    }
    if (!is_float_operand(s.a) || !is_float_operand(s.b) || s.m != 16 || s.n != 8) {
        return nullptr;
    }
    const bool acc_f32 = s.c == Elem::f32 && s.d == Elem::f32,
               acc_f16 = s.c == Elem::f16 && s.d == Elem::f16;
    if (is_narrow_float(s.a) && is_narrow_float(s.b)) {
        return (s.k == 32 || s.k == 16) && (acc_f32 || acc_f16) ? run_float : nullptr;
    }
    if (s.a != s.b) {
        return nullptr;
    }
    if (s.a == Elem::tf32) {
        return (s.k == 4 || s.k == 8) && acc_f32 ? run_float : nullptr;
    }
    if (s.k != 8 && s.k != 16) {
        return nullptr;
    }
    if (acc_f32) {
        const bool bf16 = s.a == Elem::bf16;
        return s.k == 8 ? (bf16 ? run_16bit<true, 8> : run_16bit<false, 8>)
                        : (bf16 ? run_16bit<true, 16> : run_16bit<false, 16>);
    }
    return acc_f16 && s.a == Elem::f16 ? run_float : nullptr;
}

MmaRegs mma_regs(const MmaSpec& s) {
    const auto count = [](int elements, Elem type) { return elements * elem_bits(type) / 32 / 32; };
    return {count(s.m * s.k, s.a), count(s.k * s.n, s.b), count(s.m * s.n, s.c),
            count(s.m * s.n, s.d)};
}

Cell mma_cell_a(const MmaSpec& s, int lane, int reg, int i) {
    const int row_blocks = s.m / 8, per_word = s.a == Elem::f64 ? 1 : 32 / elem_bits(s.a);
    return {lane / 4 + 8 * (reg % row_blocks),
            (reg / row_blocks) * 4 * per_word + (lane % 4) * per_word + i};
}
Cell mma_cell_b(const MmaSpec& s, int lane, int reg, int i) {
    const int per_word = s.b == Elem::f64 ? 1 : 32 / elem_bits(s.b);
    return {reg * 4 * per_word + (lane % 4) * per_word + i, lane / 4};
}
Cell mma_cell_c(const MmaSpec&, Elem type, int lane, int reg, int i) {
    return type == Elem::f16 ? Cell{lane / 4 + 8 * reg, 2 * (lane % 4) + i}
                             : Cell{lane / 4 + 8 * (reg / 2), 2 * (lane % 4) + (reg & 1)};
}

int wmma_rows(const WmmaFrag& f) {
    return f.use == WmmaUse::b ? f.k : f.m;
}
int wmma_cols(const WmmaFrag& f) {
    return f.use == WmmaUse::a ? f.k : f.n;
}
int wmma_regs(const WmmaFrag& f) {
    if (f.type == Elem::f16 && (f.use == WmmaUse::a || f.use == WmmaUse::b)) {
        return 8;
    }
    const int words = wmma_rows(f) * wmma_cols(f) * elem_bits(f.type) / 32;
    return words / (f.type == Elem::f64 ? 64 : 32);
}
Cell wmma_cell(const WmmaFrag& f, int lane, int reg) {
    const int elements = wmma_rows(f) * wmma_cols(f);
    const int first =
        (f.type == Elem::f64 ? reg * 32 + lane : (reg * 32 + lane) * (32 / elem_bits(f.type))) %
        elements;
    return {first / wmma_cols(f), first % wmma_cols(f)};
}

MmaFn wmma_find(const MmaSpec& s) {
    const bool big = (s.m == 16 && s.n == 16) || (s.m == 32 && s.n == 8) || (s.m == 8 && s.n == 32);
    if (s.a != s.b) {
        return nullptr;
    }
    if (s.a == Elem::f64) {
        return s.m == 8 && s.n == 8 && s.k == 4 ? run_wmma_f64 : nullptr;
    }
    if (is_int_operand(s.a)) {
        const bool shape =
            elem_bits(s.a) == 8 ? big && s.k == 16 : s.m == 8 && s.n == 8 && s.k == 32;
        return shape ? run_wmma_int : nullptr;
    }
    const bool shape = s.a == Elem::tf32 ? s.m == 16 && s.n == 16 && s.k == 8 : big && s.k == 16;
    const bool c_ok = s.c == Elem::f32 || s.c == Elem::f16,
               d_ok = s.d == Elem::f32 || s.d == Elem::f16;
    return shape && c_ok && d_ok && (s.a == Elem::f16 || s.a == Elem::bf16 || s.a == Elem::tf32)
               ? run_wmma_float
               : nullptr;
}

}  // namespace emu
