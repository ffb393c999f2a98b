// SPDX-License-Identifier: BSD-3-Clause
// Number formats against exhaustive enumeration, mma against its fragment maps.
#include "units/numeric.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "units/approx.h"
#include "units/fp8_sum.h"
#include "units/mma.h"

using namespace emu;
using namespace emu::num;

namespace {

// The nearest code by search over every code of the format: an independent statement of rounding.
uint32_t nearest(double x, const Format& fmt, Round round) {
    uint32_t best = 0;
    double gap = INFINITY;
    for (uint32_t code = 0; code <= fmt.max_finite; ++code) {
        const double v = decode(code, fmt), d = std::fabs(std::fabs(x) - v);
        if (round == Round::rz && v > std::fabs(x)) {
            continue;
        }
        if (d < gap || (d == gap && (round == Round::rna || !(code & 1)))) {
            gap = d;
            best = code;
        }
    }
    return best | (std::signbit(x) ? fmt.sign : 0);
}

void formats(std::mt19937& rng) {
    std::uniform_real_distribution<float> exponent(-12.0f, 9.0f), fraction(1.0f, 2.0f);
    for (const Format* fmt : {&kE4m3, &kE5m2, &kE3m2, &kE2m3, &kE2m1, &kF16}) {
        for (int i = 0; i < (fmt == &kF16 ? 300 : 4000); ++i) {
            float x = std::ldexp(
                fraction(rng),
                static_cast<int>(exponent(rng) * (fmt == &kE5m2 || fmt == &kF16 ? 1.5f : 1.0f)));
            if (i % 3 == 0) {  // exact ties and exact values
                const uint32_t code = rng() % fmt->max_finite;
                x = 0.5f * (decode(code, *fmt) + decode(code + (i % 2), *fmt));
            }
            x = i & 1 ? -x : x;
            if (std::fabs(x) > decode(fmt->max_finite, *fmt)) {
                CHECK_EQ(encode(x, *fmt, Round::rn, true) & ~fmt->sign, fmt->max_finite);
                continue;
            }
            for (const Round round : {Round::rn, Round::rz, Round::rna}) {
                CHECK_EQ(encode(x, *fmt, round, true), nearest(x, *fmt, round));
            }
        }
    }
    for (uint32_t code = 0; code < 0x10000; ++code) {
        const uint16_t h = static_cast<uint16_t>(code);
        CHECK_EQ(f32_bits(f16_to_f32(h)) & 0x7fffffffu,
                 (h & 0x7fff) > 0x7c00 ? f32_bits(f16_to_f32(h)) & 0x7fffffffu
                                       : f32_bits(decode(h, kF16)) & 0x7fffffffu);
        const bool nan = (h & 0x7fff) > 0x7c00;
        CHECK_EQ(f32_to_f16(f16_to_f32(h)), nan ? kNanF16 : h);
        CHECK_EQ(f32_to_bf16(bf16_to_f32(h)), (h & 0x7fff) > 0x7f80 ? kNanBf16 : h);
    }
    for (int i = 0; i < 2000000; ++i) {
        const float x = bits_f32(static_cast<uint32_t>(rng()));
        CHECK_EQ(f32_to_f16(x), f32_to_f16(x, Round::rn));
        CHECK_EQ(f32_to_bf16(x), f32_to_bf16(x, Round::rn));
    }
    CHECK_EQ(f32_to_e4m3(1e9f), 0x7eu);
    CHECK_EQ(f32_to_e4m3(NAN), 0x7fu);
    CHECK_EQ(f32_to_e4m3(-1e9f), 0xfeu);
    CHECK_EQ(f32_to_e5m2(-INFINITY), 0xfbu);
    CHECK_EQ(f32_to_e4m3(-3.0f, true), 0u);
    CHECK_EQ(f32_to_f16(65520.0f), 0x7c00u);
    CHECK_EQ(f32_to_f16(65519.0f), 0x7bffu);
    CHECK_EQ(f32_to_f16(1e9f, Round::rz), 0x7bffu);
    CHECK_EQ(f32_to_f16(1e9f, Round::rn, true), 0x7bffu);
    CHECK_EQ(f32_to_tf32(bits_f32(0x3f801000u), Round::rna), 0x3f802000u);
    CHECK_EQ(f32_to_tf32(bits_f32(0x3f801000u), Round::rn), 0x3f800000u);
    CHECK_EQ(f32_to_tf32(bits_f32(0x3f803000u), Round::rn), 0x3f804000u);
    CHECK_EQ(f32_to_ue8m0(1.5f, Round::rp, true), 128u);
    CHECK_EQ(f32_to_ue8m0(1.5f, Round::rz, true), 127u);
    CHECK_EQ(f32_to_ue8m0(1.0f, Round::rp, true), 127u);
    CHECK_EQ(f32_bits(ue8m0_to_f32(0)), 0x00400000u);
}

void arithmetic(std::mt19937& rng) {
    for (int i = 0; i < 1000000; ++i) {
        const uint16_t a = static_cast<uint16_t>(rng()), b = static_cast<uint16_t>(rng()),
                       c = static_cast<uint16_t>(rng());
        if (((a | b | c) & 0x7c00) == 0x7c00) {
            continue;
        }
        // long double holds 64 bits: exact unless the exponents are more than 40 apart, where it is
        // far from a tie.
        const long double exact =
            static_cast<long double>(f16_to_f32(a)) * f16_to_f32(b) + f16_to_f32(c);
        const double d = static_cast<double>(exact);
        const double sticky = d == exact ? d : std::nextafter(d, exact > d ? INFINITY : -INFINITY);
        const double pick = d == exact || (std::bit_cast<uint64_t>(d) & 1) ? d : sticky;
        CHECK_EQ(f16_fma(a, b, c), f32_to_f16(to_odd(pick)));
        const float x = bits_f32(static_cast<uint32_t>(rng()) & 0xbfffffffu),
                    y = bits_f32(static_cast<uint32_t>(rng()) & 0xbfffffffu);
        const float down = f32_add(x, y, Round::rm), up = f32_add(x, y, Round::rp), rn = x + y;
        if (x == x && y == y) {
            CHECK_TRUE(down <= rn && rn <= up);
            CHECK_EQ(f32_bits(f32_add(x, y, Round::rz)), f32_bits(rn == 0            ? rn
                                                                  : std::signbit(rn) ? up
                                                                                     : down));
            CHECK_TRUE(down == up || std::nextafter(down, INFINITY) == up);
        }
    }
    CHECK_EQ(f16_max(0x8000, 0x0000), 0x0000u);
    CHECK_EQ(f16_min(0x8000, 0x0000), 0x8000u);
    CHECK_EQ(f16_max(0x7e00, 0xbc00), 0xbc00u);
    CHECK_EQ(f16_max(0x7e00, 0xbc00, true), 0x7fffu);
}

void approximations() {
    double worst = 0;
    for (uint32_t u = 0; u < 0x43000000u; u += 997) {
        for (const float x : {bits_f32(u), bits_f32(u | 0x80000000u)}) {
            const double exact = std::exp2(static_cast<double>(x));
            if (exact > 0x1p-126 && exact < 0x1p128) {
                worst = std::max(worst, std::fabs(ex2_approx(x) - exact) / exact);
            }
        }
    }
    CHECK_TRUE(worst < 0x1p-22);
    std::printf("ex2 worst relative error 2^%.2f\n", std::log2(worst));
    for (int n = -149; n < 128; ++n) {
        CHECK_EQ(f32_bits(ex2_approx(static_cast<float>(n))),
                 f32_bits(static_cast<float>(std::ldexp(1.0, n))));
    }
    CHECK_EQ(f32_bits(ex2_approx(-INFINITY)), 0u);
    CHECK_EQ(f32_bits(ex2_approx(INFINITY)), 0x7f800000u);
    CHECK_EQ(f32_bits(ex2_approx(-0.0f)), 0x3f800000u);
    CHECK_EQ(f32_bits(ex2_approx_ftz(-127.0f)), 0u);
}

// Integer-valued operands make every sum exact, so the order of additions does not matter.
void mma(std::mt19937& rng, const MmaSpec& s) {
    const MmaFn fn = mma_find(s);
    CHECK_TRUE(fn != nullptr);
    uint32_t planes[4][8][32];
    std::memset(planes, 0, sizeof planes);
    const MmaRegs regs = mma_regs(s);
    std::vector<double> a(static_cast<size_t>(s.m * s.k)), b(static_cast<size_t>(s.k * s.n)),
        c(static_cast<size_t>(s.m * s.n));
    const auto put = [&](Elem type, uint32_t* plane, int lane, int i, double v) {
        const int bits = elem_bits(type);
        uint32_t code = 0;
        const float f = static_cast<float>(v);
        switch (type) {
            case Elem::f16:
                code = f32_to_f16(f);
                break;
            case Elem::bf16:
                code = f32_to_bf16(f);
                break;
            case Elem::tf32:
                code = f32_bits(f) | 0x1fff;
                break;
            case Elem::f32:
                code = f32_bits(f);
                break;
            case Elem::e4m3:
                code = f32_to_e4m3(f);
                break;
            case Elem::e5m2:
                code = f32_to_e5m2(f);
                break;
            default:
                code = static_cast<uint32_t>(static_cast<int>(v));
                break;
        }
        const uint32_t mask = bits == 32 ? ~0u : (1u << bits) - 1;
        plane[lane] |= (code & mask) << (bits * i);
    };
    const bool is_unsigned = s.a == Elem::u8 || s.a == Elem::u4;
    const auto draw = [&] {
        return static_cast<double>(static_cast<int>(rng() % 5) - (is_unsigned ? 0 : 2));
    };
    const auto fill = [&](int operand, int count, Elem type, std::vector<double>& m, int cols,
                          auto cell) {
        for (int r = 0; r < count; ++r) {
            for (int lane = 0; lane < 32; ++lane) {
                for (int i = 0; i < 32 / elem_bits(type); ++i) {
                    const Cell at = cell(lane, r, i);
                    const double v = draw();
                    m[static_cast<size_t>(at.row * cols + at.col)] = v;
                    put(type, planes[operand][r], lane, i, v);
                }
            }
        }
    };
    fill(0, regs.a, s.a, a, s.k, [&](int l, int r, int i) { return mma_cell_a(s, l, r, i); });
    fill(1, regs.b, s.b, b, s.n, [&](int l, int r, int i) { return mma_cell_b(s, l, r, i); });
    fill(2, regs.c, s.c, c, s.n, [&](int l, int r, int i) { return mma_cell_c(s, s.c, l, r, i); });
    const uint32_t *pa[8], *pb[8], *pc[8];
    uint32_t* pd[8];
    for (int i = 0; i < 8; ++i) {
        pa[i] = planes[0][i];
        pb[i] = planes[1][i];
        pc[i] = planes[2][i];
        pd[i] = planes[2][i];  // in place, as nvcc emits it
    }
    fn(s, pa, pb, pc, pd);
    for (int r = 0; r < regs.d; ++r) {
        for (int lane = 0; lane < 32; ++lane) {
            for (int i = 0; i < 32 / elem_bits(s.d); ++i) {
                const Cell at = mma_cell_c(s, s.d, lane, r, i);
                double want = c[static_cast<size_t>(at.row * s.n + at.col)];
                for (int k = 0; k < s.k; ++k) {
                    want += a[static_cast<size_t>(at.row * s.k + k)] *
                            b[static_cast<size_t>(k * s.n + at.col)];
                }
                const uint32_t word = planes[2][r][lane];
                const double got =
                    s.d == Elem::f16   ? f16_to_f32(static_cast<uint16_t>(word >> (16 * i)))
                    : s.d == Elem::s32 ? static_cast<double>(static_cast<int32_t>(word))
                                       : static_cast<double>(bits_f32(word));
                CHECK_EQ(got, want);
            }
        }
    }
}

// One element of C after C += A B, one row of `a` and the column of `b` beside it.
float fp8_sum(std::vector<std::pair<float, float>> factors, float c, int terms = 32,
              Elem type = Elem::e4m3, Elem d = Elem::f32) {
    float a[32] = {}, b[32][8] = {}, sums[8] = {0, c};
    for (size_t i = 0; i < factors.size(); ++i) {
        a[i] = factors[i].first;
        b[i][1] = factors[i].second;
    }
    fp8_product(type, type, d, terms, a, 32, b[0], 8, sums, 8, 1, 8, 32);
    if (std::isfinite(sums[1])) {
        CHECK_EQ(sums[0], 0.0f);  // the columns beside it
    }
    return sums[1];
}

void fp8_sums() {
    using Factors = std::vector<std::pair<float, float>>;
    // The accumulator has 13 fraction bits, cut toward zero.
    CHECK_EQ(fp8_sum({}, 1.0f + 0x1p-13f), 1.0f + 0x1p-13f);
    CHECK_EQ(fp8_sum({}, 1.0f + 0x1.8p-13f), 1.0f + 0x1p-13f);
    CHECK_EQ(fp8_sum({}, -1.0f - 0x1.8p-13f), -1.0f - 0x1p-13f);
    CHECK_EQ(fp8_sum({}, 0x1.0008p-120f), 0x1.0008p-120f);
    CHECK_EQ(fp8_sum({}, 0x1.0007p-120f), 0x1p-120f);
    // A product below 2^-13 of the largest term is lost, of either sign, however many there are.
    CHECK_EQ(fp8_sum({{0x1p-6f, 0x1p-7f}}, 1.0f), 1.0f + 0x1p-13f);
    CHECK_EQ(fp8_sum({{0x1p-7f, 0x1p-7f}}, 1.0f), 1.0f);
    CHECK_EQ(fp8_sum({{-0x1p-7f, 0x1p-7f}}, 1.0f), 1.0f);
    CHECK_EQ(fp8_sum(Factors(32, {0x1p-7f, 0x1p-7f}), 1.0f), 1.0f);
    CHECK_EQ(fp8_sum(Factors(32, {0x1p-7f, 0x1p-7f}), 0.0f), 0x1p-9f);
    // 448 * 448 is 1.53125 * 2^17, its exponent that of its factors, 16: units of 8.
    CHECK_EQ(fp8_sum({{448, 448}, {3.5f, 2}}, 0.0f), 200704.0f);
    CHECK_EQ(fp8_sum({{448, 448}, {4, 2}, {-448, 448}}, 0.0f), 8.0f);
    // 1.5 * 1.5 counts as exponent 0 though it is above 2: 2^-13 beside it survives the sum.
    CHECK_EQ(fp8_sum({{1.5f, 1.5f}, {-1.25f, 1}, {0x1p-6f, 0x1p-7f}}, 0.0f), 1.0f + 0x1p-13f);
    // 2^-9 counts as exponent -6: 2^-9 * 1 drags units of 2^-19, not 2^-22.
    CHECK_EQ(fp8_sum({{0x1p-9f, 1}}, 0x1.ffp-20f), 0x1p-9f);
    CHECK_EQ(fp8_sum({{0x1p-9f, 1}}, 0x1p-19f), 0x1p-9f + 0x1p-19f);
    // The sum itself is cut to 13 fraction bits: 1 + (1 + 2^-13) has a unit of 2^-12.
    CHECK_EQ(fp8_sum({{1, 1}}, 1.0f + 0x1p-13f), 2.0f);
    // Sixteen products make 2^-10 before 1 comes; thirty-two at once drop them.
    Factors late(16, {0x1p-7f, 0x1p-7f});
    late.push_back({1, 1});
    CHECK_EQ(fp8_sum(late, 0.0f, 16), 1.0f + 0x1p-10f);
    CHECK_EQ(fp8_sum(late, 0.0f, 32), 1.0f);
    // f16 accumulators: the same alignment, the nearest f16 of the sum (8193 lies between).
    CHECK_EQ(fp8_sum({{64, 128}, {1.125f, 1}}, 0.0f, 32, Elem::e4m3, Elem::f16), 8192.0f);
    CHECK_EQ(fp8_sum({{64, 128}, {5, 1}}, 0.0f, 32, Elem::e4m3, Elem::f16), 8200.0f);
    // e5m2 reaches lower, and infinities and NaN come out as they do in fp32.
    CHECK_EQ(fp8_sum({{0x1p-14f, 1}}, 0x1p-27f, 32, Elem::e5m2), 0x1p-14f + 0x1p-27f);
    CHECK_EQ(fp8_sum({{INFINITY, 2}, {1, 1}}, 0.0f, 32, Elem::e5m2), INFINITY);
    CHECK_TRUE(std::isnan(fp8_sum({{INFINITY, 1}, {-INFINITY, 1}}, 0.0f, 32, Elem::e5m2)));
    CHECK_TRUE(std::isnan(fp8_sum({{NAN, 0}}, 0.0f)));
    CHECK_EQ(fp8_terms(89, Elem::e4m3, Elem::e5m2), 16);
    CHECK_EQ(fp8_terms(90, Elem::e5m2, Elem::e4m3), 32);
    CHECK_EQ(fp8_terms(100, Elem::e4m3, Elem::e4m3), 0);
    CHECK_EQ(fp8_terms(90, Elem::f16, Elem::f16), 0);
}

}  // namespace

int main() {
    std::mt19937 rng(1);
    formats(rng);
    arithmetic(rng);
    approximations();
    fp8_sums();
    using enum Elem;
    for (int k : {8, 16}) {
        mma(rng, {16, 8, k, f16, f16, f32, f32});
        mma(rng, {16, 8, k, bf16, bf16, f32, f32});
        mma(rng, {16, 8, k, f16, f16, f16, f16});
        mma(rng, {16, 8, k / 2, tf32, tf32, f32, f32});
        mma(rng, {16, 8, 2 * k, s8, s8, s32, s32});
        mma(rng, {16, 8, 2 * k, u8, u8, s32, s32});
        mma(rng, {16, 8, 4 * k, s4, s4, s32, s32});
    }
    for (Elem x : {e4m3, e5m2}) {
        for (Elem y : {e4m3, e5m2}) {
            mma(rng, {16, 8, 32, x, y, f32, f32});
            mma(rng, {16, 8, 32, x, y, f16, f16});
        }
    }
    mma(rng, {8, 8, 16, s8, s8, s32, s32});
    return test::finish("numeric_test");
}
