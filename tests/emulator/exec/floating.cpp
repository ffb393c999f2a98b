// SPDX-License-Identifier: BSD-3-Clause
// fp32, fp64 and f32x2 arithmetic; rounding and NaN as the ISA states (NaN results are canonical).
#include "exec/floating.h"

#include <xmmintrin.h>
#include <cmath>
#include <limits>

#include "exec/lanes.h"
#include "units/approx.h"
#include "units/numeric.h"

namespace emu {

using num::Round;
using ptx::Type;

namespace {

constexpr float kNan32 = std::bit_cast<float>(0x7fffffffu);
const double kNan64 = std::bit_cast<double>(0x7fffffffffffffffull);

inline float flush(float x) {
    const auto u = std::bit_cast<uint32_t>(x);
    return std::bit_cast<float>((u & 0x7f800000u) == 0 ? u & 0x80000000u : u);
}
inline float canonical(float x) {
    return x != x ? kNan32 : x;
}
inline double canonical(double x) {
    return x != x ? std::bit_cast<double>(0x7fffffffffffffffull) : x;
}
inline float saturate(float x) {
    return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
}

template <bool kFtz, bool kSat>
inline float finish(float x) {
    if constexpr (kFtz) {
        x = flush(x);
    }
    if constexpr (kSat) {
        return saturate(x);
    } else {
        return canonical(x);
    }
}
template <bool kFtz>
inline float input(float x) {
    if constexpr (kFtz) {
        return flush(x);
    }
    return x;
}

template <bool kFtz, bool kSat>
struct AddF {
    float operator()(float a, float b) const {
        return finish<kFtz, kSat>(input<kFtz>(a) + input<kFtz>(b));
    }
};
template <bool kFtz, bool kSat>
struct SubF {
    float operator()(float a, float b) const {
        return finish<kFtz, kSat>(input<kFtz>(a) - input<kFtz>(b));
    }
};
template <bool kFtz, bool kSat>
struct MulF {
    float operator()(float a, float b) const {
        return finish<kFtz, kSat>(input<kFtz>(a) * input<kFtz>(b));
    }
};
template <bool kFtz, bool kSat>
struct FmaF {
    float operator()(float a, float b, float c) const {
        return finish<kFtz, kSat>(std::fma(input<kFtz>(a), input<kFtz>(b), input<kFtz>(c)));
    }
};
template <bool kFtz, bool kSat>
struct DivF {
    float operator()(float a, float b) const {
        return finish<kFtz, kSat>(input<kFtz>(a) / input<kFtz>(b));
    }
};
struct AddD {
    double operator()(double a, double b) const { return canonical(a + b); }
};
struct SubD {
    double operator()(double a, double b) const { return canonical(a - b); }
};
struct MulD {
    double operator()(double a, double b) const { return canonical(a * b); }
};
struct DivD {
    double operator()(double a, double b) const { return canonical(a / b); }
};
struct FmaD {
    double operator()(double a, double b, double c) const { return canonical(std::fma(a, b, c)); }
};

struct Modifiers {
    bool ftz = false, sat = false;
    Round round = Round::rn;
};

Modifiers modifiers(const ptx::Statement& s, DecodeContext& c,
                    std::initializer_list<std::string_view> more = {}) {
    Modifiers m;
    for (size_t k = 1; k + 1 < s.parts.size(); ++k) {
        const std::string_view p = s.parts[k];
        if (p == "ftz") {
            m.ftz = true;
        } else if (p == "sat") {
            m.sat = true;
        } else if (p == "rz") {
            m.round = Round::rz;
        } else if (p == "rm") {
            m.round = Round::rm;
        } else if (p == "rp") {
            m.round = Round::rp;
        } else if (p != "rn") {
            bool known = false;
            for (std::string_view x : more) {
                known |= p == x;
            }
            if (!known) {
                c.unknown(p);
            }
        }
    }
    return m;
}

uint32_t packed(const Modifiers& m) {
    return static_cast<uint32_t>(m.round) | (m.ftz ? 8u : 0u) | (m.sat ? 16u : 0u);
}

// The host's rounding mode, set around operations on volatile values.
class HostRounding {
  public:
    explicit HostRounding(Round r) : saved_(_mm_getcsr()) {
        const unsigned mode = r == Round::rz ? 3 : r == Round::rm ? 1 : r == Round::rp ? 2 : 0;
        _mm_setcsr((saved_ & ~0x6000u) | mode << 13);
    }
    ~HostRounding() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
};

// Directed rounding, one lane after another. small: round | ftz << 3 | sat << 4.
template <class F>
void directed32(Warp& w, const Instr& i, uint32_t active, F f) {
    const auto round = static_cast<Round>(i.small & 7);
    const bool ftz = i.small & 8, sat = i.small & 16;
    HostRounding scope(round);
    each_active(w.u32(i.r[0]), active, [&](int l) {
        volatile float in[4] = {};
        for (int k = 1; k < 4; ++k) {
            if (i.r[k] != kNoRef) {
                const float x = std::bit_cast<float>(w.u32(i.r[k])[l]);
                in[k] = ftz ? flush(x) : x;
            }
        }
        volatile float result = f(in);  // volatile keeps the operation between the changes of mode
        float v = result;
        v = ftz ? flush(v) : v;
        return std::bit_cast<uint32_t>(sat ? saturate(v) : canonical(v));
    });
}

using Inputs = volatile float[4];

void add_directed(Warp& w, const Instr& i, uint32_t active) {
    directed32(w, i, active, [](Inputs& in) { return in[1] + in[2]; });
}
void sub_directed(Warp& w, const Instr& i, uint32_t active) {
    directed32(w, i, active, [](Inputs& in) { return in[1] - in[2]; });
}
void mul_directed(Warp& w, const Instr& i, uint32_t active) {
    directed32(w, i, active, [](Inputs& in) { return in[1] * in[2]; });
}
void fma_directed(Warp& w, const Instr& i, uint32_t active) {
    directed32(w, i, active, [](Inputs& in) { return std::fma(in[1], in[2], in[3]); });
}
void div_directed(Warp& w, const Instr& i, uint32_t active) {
    directed32(w, i, active, [](Inputs& in) { return in[1] / in[2]; });
}
void rcp_directed(Warp& w, const Instr& i, uint32_t active) {
    directed32(w, i, active, [](Inputs& in) { return 1.0f / in[1]; });
}
void sqrt_directed(Warp& w, const Instr& i, uint32_t active) {
    directed32(w, i, active, [](Inputs& in) { return std::sqrt(in[1]); });
}

enum class Op64 : uint32_t { add, sub, mul, fma, div, rcp, sqrt };

template <Op64 kOp>
void directed64(Warp& w, const Instr& i, uint32_t active) {
    const auto round = static_cast<Round>(i.small & 7);
    double* d = w.f64(i.r[0]);
    const double* a = w.f64(i.r[1]);
    const double* b = i.r[2] == kNoRef ? a : w.f64(i.r[2]);
    const double* c = i.r[3] == kNoRef ? a : w.f64(i.r[3]);
    HostRounding scope(round);
    for_lanes(active, [&](int l) {
        volatile double x = a[l], y = b[l],
                        z = c[l];  // keeps the operation between the changes of mode
        volatile double r = kOp == Op64::add   ? x + y
                            : kOp == Op64::sub ? x - y
                            : kOp == Op64::mul ? x * y
                            : kOp == Op64::fma ? std::fma(x, y, z)
                            : kOp == Op64::div ? x / y
                            : kOp == Op64::rcp ? 1.0 / x
                                               : std::sqrt(x);
        d[l] = canonical(r);
    });
}

template <template <bool, bool> class Op>
Handler choose2(const Modifiers& m) {
    return m.ftz ? (m.sat ? map2<float, float, float, Op<true, true>>
                          : map2<float, float, float, Op<true, false>>)
                 : (m.sat ? map2<float, float, float, Op<false, true>>
                          : map2<float, float, float, Op<false, false>>);
}

// Two floats in a 64-bit register.
template <bool kFtz, class Op>
void pairs(Warp& w, const Instr& i, uint32_t active) {
    auto* d = w.at<uint32_t>(i.r[0]);
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = w.u32(i.r[2]);
    const uint32_t* c = i.r[3] == kNoRef ? b : w.u32(i.r[3]);
    for_lanes(active, [&](int l) {
        for (int k = 2 * l; k < 2 * l + 2; ++k) {
            const float x = input<kFtz>(std::bit_cast<float>(a[k])),
                        y = input<kFtz>(std::bit_cast<float>(b[k])),
                        z = input<kFtz>(std::bit_cast<float>(c[k]));
            d[k] = std::bit_cast<uint32_t>(finish<kFtz, false>(Op()(x, y, z)));
        }
    });
}
struct Add3 {
    float operator()(float a, float b, float) const { return a + b; }
};
struct Sub3 {
    float operator()(float a, float b, float) const { return a - b; }
};
struct Mul3 {
    float operator()(float a, float b, float) const { return a * b; }
};
struct Fma3 {
    float operator()(float a, float b, float c) const { return std::fma(a, b, c); }
};

template <class Op3>
Instr decode_pairs(DecodeContext& c, const Modifiers& m, bool three) {
    if (m.round != Round::rn) {
        c.fail("only .rn of f32x2 is known");
    }
    const Type t = Type::b64;
    Handler run = m.ftz ? pairs<true, Op3> : pairs<false, Op3>;
    return three ? pack(c, run, {t, t, t, t}) : pack(c, run, {t, t, t});
}

// add.f32.f16 and the like: a 16-bit, the others f32. small: round | sat << 4 | bf16 << 5
template <Op64 kOp>
void mixed(Warp& w, const Instr& i, uint32_t active) {
    const auto round = static_cast<Round>(i.small & 7);
    const bool sat = i.small & 16, bf16 = i.small & 32;
    auto half = [&](int r, int l) {
        const auto h = static_cast<uint16_t>(w.u32(i.r[r])[l]);
        return bf16 ? num::bf16_to_f32(h) : num::f16_to_f32(h);
    };
    each_active(w.u32(i.r[0]), active, [&](int l) {
        const float last = std::bit_cast<float>(w.u32(i.r[kOp == Op64::fma ? 3 : 2])[l]);
        float v;
        if constexpr (kOp == Op64::fma) {
            v = num::f32_fma(half(1, l), half(2, l), last, round);
        } else {
            v = num::f32_add(half(1, l), kOp == Op64::sub ? -last : last, round);
        }
        return std::bit_cast<uint32_t>(sat ? saturate(v) : canonical(v));
    });
}

template <Op64 kOp>
Instr decode_mixed(const ptx::Statement& s, DecodeContext& c) {
    const Modifiers m = modifiers(s, c, {"f32"});
    const Type h = last_type(s);
    Instr i = kOp == Op64::fma ? pack(c, mixed<kOp>, {Type::f32, h, h, Type::f32})
                               : pack(c, mixed<kOp>, {Type::f32, h, Type::f32});
    i.small = packed(m) | (h == Type::bf16 ? 32u : 0u);
    return i;
}

bool is_mixed(const ptx::Statement& s) {
    return s.has("f32") && is_half(last_type(s));
}

template <class D2, template <bool, bool> class F2, Op64 kOp, class Op3>
Instr decode_two(const ptx::Statement& s, DecodeContext& c, HalfOp half, Handler directed) {
    const Type t = last_type(s);
    if constexpr (kOp == Op64::add || kOp == Op64::sub) {
        if (is_mixed(s)) {
            return decode_mixed<kOp>(s, c);
        }
    }
    if (is_half(t)) {
        return decode_half(s, c, half);
    }
    const Modifiers m = modifiers(s, c);
    if (t == Type::f32x2) {
        return decode_pairs<Op3>(c, m, false);
    }
    if (t == Type::f64) {
        Instr i = pack(c, m.round == Round::rn ? map2<double, double, double, D2> : directed64<kOp>,
                       {t, t, t});
        i.small = packed(m);
        return i;
    }
    Instr i = pack(c, m.round == Round::rn ? choose2<F2>(m) : directed, {t, t, t});
    i.small = packed(m);
    return i;
}

// ---- one operand ----

enum class Unary : uint32_t { rcp, rsqrt, sqrt, sin, cos, lg2, ex2, tanh };

template <Unary kOp, bool kFtz>
void approx(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t* a = w.u32(i.r[1]);
    auto in = [&](int l) { return input<kFtz>(std::bit_cast<float>(a[l])); };
    auto out = [](float v) { return std::bit_cast<uint32_t>(finish<kFtz, false>(v)); };
    if constexpr (kOp == Unary::ex2) {
        each(w.u32(i.r[0]), active, [&](int l) { return out(num::ex2_approx(in(l))); });
    } else {
        each_active(w.u32(i.r[0]), active, [&](int l) {
            const float x = in(l);
            switch (kOp) {
                case Unary::rcp:
                    return out(num::rcp_approx(x));
                case Unary::rsqrt:
                    return out(num::rsqrt_approx(x));
                case Unary::sqrt:
                    return out(num::sqrt_approx(x));
                case Unary::sin:
                    return out(num::sin_approx(x));
                case Unary::cos:
                    return out(num::cos_approx(x));
                case Unary::lg2:
                    return out(num::lg2_approx(x));
                default:
                    return out(num::tanh_approx(x));
            }
        });
    }
}

template <bool kFtz>
struct SqrtF {
    float operator()(float a) const { return finish<kFtz, false>(std::sqrt(input<kFtz>(a))); }
};
template <bool kFtz>
struct RcpF {
    float operator()(float a) const { return finish<kFtz, false>(1.0f / input<kFtz>(a)); }
};
struct SqrtD {
    double operator()(double a) const { return canonical(std::sqrt(a)); }
};
struct RcpD {
    double operator()(double a) const { return canonical(1.0 / a); }
};
// Only the upper 32 bits of the result are specified; the lower are zero.
double upper(double x) {
    return std::bit_cast<double>(std::bit_cast<uint64_t>(x) & 0xffffffff00000000ull);
}
double flush64(double x) {
    const auto u = std::bit_cast<uint64_t>(x);
    return (u & 0x7ff0000000000000ull) == 0 ? std::bit_cast<double>(u & 0x8000000000000000ull) : x;
}
struct RcpApproxD {
    double operator()(double a) const { return upper(canonical(flush64(1.0 / flush64(a)))); }
};
struct RsqrtApproxD {
    double operator()(double a) const { return upper(canonical(1.0 / std::sqrt(flush64(a)))); }
};
struct RsqrtD {
    double operator()(double a) const { return canonical(1.0 / std::sqrt(a)); }
};

template <Unary kOp>
Instr decode_unary(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    if constexpr (kOp == Unary::ex2 || kOp == Unary::tanh) {
        if (is_half(t)) {
            return decode_half(s, c, kOp == Unary::ex2 ? HalfOp::ex2 : HalfOp::tanh);
        }
    }
    const bool is_approx = s.has("approx");
    const Modifiers m = modifiers(s, c, {"approx"});
    Handler run = nullptr;
    if (t == Type::f32 && is_approx) {
        run = m.ftz ? approx<kOp, true> : approx<kOp, false>;
    } else if (t == Type::f32 && (kOp == Unary::rcp || kOp == Unary::sqrt)) {
        if (m.round != Round::rn) {
            run = kOp == Unary::rcp ? rcp_directed : sqrt_directed;
        } else if (kOp == Unary::rcp) {
            run = m.ftz ? map1<float, float, RcpF<true>> : map1<float, float, RcpF<false>>;
        } else {
            run = m.ftz ? map1<float, float, SqrtF<true>> : map1<float, float, SqrtF<false>>;
        }
    } else if (t == Type::f64) {
        if (is_approx) {
            run = kOp == Unary::rcp ? map1<double, double, RcpApproxD>
                  : kOp == Unary::rsqrt
                      ? (m.ftz ? map1<double, double, RsqrtApproxD> : map1<double, double, RsqrtD>)
                      : nullptr;
        } else if (kOp == Unary::rcp || kOp == Unary::sqrt) {
            run = m.round != Round::rn
                      ? (kOp == Unary::rcp ? directed64<Op64::rcp> : directed64<Op64::sqrt>)
                  : kOp == Unary::rcp ? map1<double, double, RcpD>
                                      : map1<double, double, SqrtD>;
        }
    }
    if (!run) {
        c.fail("unknown form of " + std::string(s.parts[0]));
    }
    Instr i = pack(c, run, {t, t});
    i.small = packed(m);
    return i;
}

template <bool kFull, bool kFtz>
struct DivApprox {
    float operator()(float a, float b) const {
        return finish<kFtz, false>(kFull ? input<kFtz>(a) / input<kFtz>(b)
                                         : num::div_approx(input<kFtz>(a), input<kFtz>(b)));
    }
};

// abs and neg keep NaN payloads but for .ftz.
template <bool kFtz>
struct AbsF {
    float operator()(float a) const {
        return input<kFtz>(std::bit_cast<float>(std::bit_cast<uint32_t>(a) & 0x7fffffffu));
    }
};
template <bool kFtz>
struct NegF {
    float operator()(float a) const {
        return input<kFtz>(std::bit_cast<float>(std::bit_cast<uint32_t>(a) ^ 0x80000000u));
    }
};
struct AbsD {
    double operator()(double a) const { return std::fabs(a); }
};
struct NegD {
    double operator()(double a) const { return -a; }
};

// ---- min, max: -0 < +0; a number beats NaN unless .NaN ----

template <bool kMax, class T>
inline T extreme(T a, T b, bool nan_wins) {
    using B = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
    const B both = kMax ? std::bit_cast<B>(a) & std::bit_cast<B>(b)
                        : std::bit_cast<B>(a) | std::bit_cast<B>(b);
    T r = (kMax ? a > b : a < b) ? a : b;
    r = a == b ? std::bit_cast<T>(both) : r;
    const T nan = canonical(std::numeric_limits<T>::quiet_NaN());
    r = b != b ? (nan_wins ? nan : a) : r;
    r = a != a ? (nan_wins ? nan : b) : r;
    return canonical(r);
}

template <bool kMax, bool kFtz, bool kNan>
struct ExtremeF {
    float operator()(float a, float b) const {
        return extreme<kMax>(input<kFtz>(a), input<kFtz>(b), kNan);
    }
};
template <bool kMax, bool kFtz, bool kNan>
struct ExtremeXor {
    float operator()(float a, float b) const {
        a = input<kFtz>(a), b = input<kFtz>(b);
        const uint32_t sign =
            (std::bit_cast<uint32_t>(a) ^ std::bit_cast<uint32_t>(b)) & 0x80000000u;
        const float r = extreme<kMax>(std::fabs(a), std::fabs(b), kNan);
        return r != r ? r : std::bit_cast<float>(std::bit_cast<uint32_t>(r) | sign);
    }
};
template <bool kMax, bool kFtz, bool kNan>
struct Extreme3 {
    float operator()(float a, float b, float c) const {
        return extreme<kMax>(extreme<kMax>(input<kFtz>(a), input<kFtz>(b), kNan), input<kFtz>(c),
                             kNan);
    }
};
template <bool kMax>
struct ExtremeD {
    double operator()(double a, double b) const { return extreme<kMax>(a, b, false); }
};

template <template <bool, bool, bool> class Op, bool kMax>
Handler choose_extreme2(bool ftz, bool nan) {
    return ftz ? (nan ? map2<float, float, float, Op<kMax, true, true>>
                      : map2<float, float, float, Op<kMax, true, false>>)
               : (nan ? map2<float, float, float, Op<kMax, false, true>>
                      : map2<float, float, float, Op<kMax, false, false>>);
}

template <bool kMax>
Instr decode_extreme(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    if (is_half(t)) {
        return decode_half(s, c, kMax ? HalfOp::max : HalfOp::min);
    }
    if (t == Type::f64) {
        modifiers(s, c);
        return pack(c, map2<double, double, double, ExtremeD<kMax>>, {t, t, t});
    }
    const Modifiers m = modifiers(s, c, {"NaN", "xorsign", "abs"});
    const bool nan = s.has("NaN");
    if (c.operands() == 4) {
        if (s.has("xorsign")) {
            c.unknown("xorsign");
        }
        Handler run = m.ftz
                          ? (nan ? map3<float, float, float, float, Extreme3<kMax, true, true>>
                                 : map3<float, float, float, float, Extreme3<kMax, true, false>>)
                          : (nan ? map3<float, float, float, float, Extreme3<kMax, false, true>>
                                 : map3<float, float, float, float, Extreme3<kMax, false, false>>);
        return pack(c, run, {t, t, t, t});
    }
    return pack(c,
                s.has("xorsign") ? choose_extreme2<ExtremeXor, kMax>(m.ftz, nan)
                                 : choose_extreme2<ExtremeF, kMax>(m.ftz, nan),
                {t, t, t});
}

struct CopySign {
    template <class T>
    T operator()(T a, T b) const {  // the sign of a, the magnitude of b
        constexpr T kSign = T{1} << (8 * sizeof(T) - 1);
        return (a & kSign) | (b & ~kSign);
    }
};

Instr decode_copysign(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    return pack(c,
                t == Type::f64 ? map2<uint64_t, uint64_t, uint64_t, CopySign>
                               : map2<uint32_t, uint32_t, uint32_t, CopySign>,
                {t, t, t});
}

// small: 0 finite, 1 infinite, 2 number, 3 notanumber, 4 normal, 5 subnormal
template <class T>
void testp(Warp& w, const Instr& i, uint32_t active) {
    const T* a = w.at<T>(i.r[1]);
    const uint32_t bits = ballot([&](int l) {
        switch (i.small) {
            case 0:
                return std::isfinite(a[l]);
            case 1:
                return std::isinf(a[l]);
            case 2:
                return !std::isnan(a[l]);
            case 3:
                return std::isnan(a[l]);
            case 4:
                return std::isnormal(a[l]) || a[l] == 0;
            default:
                return std::fpclassify(a[l]) == FP_SUBNORMAL;
        }
    });
    w.set_pred(i.p[0], bits, active);
}

Instr decode_testp(const ptx::Statement& s, DecodeContext& c) {
    constexpr std::string_view kNames[] = {"finite",     "infinite", "number",
                                           "notanumber", "normal",   "subnormal"};
    const Type t = last_type(s);
    Instr i;
    i.run = t == Type::f64 ? testp<double> : testp<float>;
    i.p[0] = c.predicate_target(c.operand(0));
    i.r[1] = c.source(c.operand(1), t);
    for (uint32_t k = 0; k < 6; ++k) {
        if (s.has(kNames[k])) {
            i.small = k;
        }
    }
    return i;
}

const RegisterFamily kFamilies[] = {
    {"rcp", decode_unary<Unary::rcp>},   {"rsqrt", decode_unary<Unary::rsqrt>},
    {"sqrt", decode_unary<Unary::sqrt>}, {"sin", decode_unary<Unary::sin>},
    {"cos", decode_unary<Unary::cos>},   {"lg2", decode_unary<Unary::lg2>},
    {"ex2", decode_unary<Unary::ex2>},   {"tanh", decode_unary<Unary::tanh>},
    {"copysign", decode_copysign},       {"testp", decode_testp},
};

}  // namespace

Instr decode_float_add(const ptx::Statement& s, DecodeContext& c) {
    return decode_two<AddD, AddF, Op64::add, Add3>(s, c, HalfOp::add, add_directed);
}
Instr decode_float_sub(const ptx::Statement& s, DecodeContext& c) {
    return decode_two<SubD, SubF, Op64::sub, Sub3>(s, c, HalfOp::sub, sub_directed);
}
Instr decode_float_mul(const ptx::Statement& s, DecodeContext& c) {
    return decode_two<MulD, MulF, Op64::mul, Mul3>(s, c, HalfOp::mul, mul_directed);
}

Instr decode_float_fma(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    if (is_mixed(s)) {
        return decode_mixed<Op64::fma>(s, c);
    }
    if (is_half(t)) {
        return decode_half(s, c, HalfOp::fma);
    }
    const Modifiers m = modifiers(s, c);
    if (t == Type::f32x2) {
        return decode_pairs<Fma3>(c, m, true);
    }
    Handler run;
    if (t == Type::f64) {
        run = m.round == Round::rn ? map3<double, double, double, double, FmaD>
                                   : directed64<Op64::fma>;
    } else if (m.round != Round::rn) {
        run = fma_directed;
    } else {
        run = m.ftz ? (m.sat ? map3<float, float, float, float, FmaF<true, true>>
                             : map3<float, float, float, float, FmaF<true, false>>)
                    : (m.sat ? map3<float, float, float, float, FmaF<false, true>>
                             : map3<float, float, float, float, FmaF<false, false>>);
    }
    Instr i = pack(c, run, {t, t, t, t});
    i.small = packed(m);
    return i;
}

Instr decode_float_div(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    const bool full = s.has("full"), is_approx = s.has("approx");
    const Modifiers m = modifiers(s, c, {"full", "approx"});
    Handler run;
    if (t == Type::f64) {
        run = m.round == Round::rn ? map2<double, double, double, DivD> : directed64<Op64::div>;
    } else if (full) {
        run = m.ftz ? map2<float, float, float, DivApprox<true, true>>
                    : map2<float, float, float, DivApprox<true, false>>;
    } else if (is_approx) {
        run = m.ftz ? scalar2<float, float, float, DivApprox<false, true>>
                    : scalar2<float, float, float, DivApprox<false, false>>;
    } else {
        run = m.round == Round::rn ? choose2<DivF>(m) : div_directed;
    }
    Instr i = pack(c, run, {t, t, t});
    i.small = packed(m);
    return i;
}

Instr decode_float_abs(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    if (is_half(t)) {
        return decode_half(s, c, HalfOp::abs);
    }
    const Modifiers m = modifiers(s, c);
    return pack(c,
                t == Type::f64 ? map1<double, double, AbsD>
                : m.ftz        ? map1<float, float, AbsF<true>>
                               : map1<float, float, AbsF<false>>,
                {t, t});
}

Instr decode_float_neg(const ptx::Statement& s, DecodeContext& c) {
    const Type t = last_type(s);
    if (is_half(t)) {
        return decode_half(s, c, HalfOp::neg);
    }
    const Modifiers m = modifiers(s, c);
    return pack(c,
                t == Type::f64 ? map1<double, double, NegD>
                : m.ftz        ? map1<float, float, NegF<true>>
                               : map1<float, float, NegF<false>>,
                {t, t});
}

Instr decode_float_min(const ptx::Statement& s, DecodeContext& c) {
    return decode_extreme<false>(s, c);
}

Instr decode_float_max(const ptx::Statement& s, DecodeContext& c) {
    return decode_extreme<true>(s, c);
}

}  // namespace emu
