// SPDX-License-Identifier: BSD-3-Clause
// f16, f16x2, bf16, bf16x2 arithmetic on top of units/numeric.h.
#include "exec/floating.h"
#include "exec/lanes.h"
#include "units/approx.h"
#include "units/numeric.h"

namespace emu {

using ptx::Type;

bool is_half(Type t) {
    return t == Type::f16 || t == Type::f16x2 || t == Type::bf16 || t == Type::bf16x2;
}

namespace {

enum Flag : uint32_t { kFtz = 1, kSat = 2, kRelu = 4, kNan = 8, kXorSign = 16, kOob = 32 };

template <bool kBf>
float widen(uint16_t h) {
    return kBf ? num::bf16_to_f32(h) : num::f16_to_f32(h);
}
template <bool kBf>
bool is_nan(uint16_t h) {
    return kBf ? (h & 0x7fff) > 0x7f80 : (h & 0x7fff) > 0x7c00;
}

template <bool kBf, HalfOp kOp>
uint16_t apply(uint16_t a, uint16_t b, uint16_t c, uint32_t flags) {
    if (!kBf && (flags & kFtz)) {
        a = num::f16_ftz(a), b = num::f16_ftz(b), c = num::f16_ftz(c);
    }
    uint16_t r = 0;
    switch (kOp) {
        case HalfOp::add:
            r = kBf ? num::bf16_add(a, b) : num::f16_add(a, b);
            break;
        case HalfOp::sub:
            r = kBf ? num::bf16_sub(a, b) : num::f16_sub(a, b);
            break;
        case HalfOp::mul:
            r = kBf ? num::bf16_mul(a, b) : num::f16_mul(a, b);
            break;
        case HalfOp::fma:
            // .oob: the operand that marks "out of bounds" (the canonical NaN 0xffff) makes the
            // result +0.
            if ((flags & kOob) && (a == 0xffff || b == 0xffff)) {
                return 0;
            }
            r = kBf ? num::bf16_fma(a, b, c) : num::f16_fma(a, b, c);
            break;
        case HalfOp::abs:
            r = a & 0x7fff;
            break;
        case HalfOp::neg:
            r = a ^ 0x8000;
            break;
        case HalfOp::min:
        case HalfOp::max: {
            uint16_t sign = 0;
            if (flags & kXorSign) {
                sign = (a ^ b) & 0x8000;
                a &= 0x7fff, b &= 0x7fff;
            }
            const bool nan = flags & kNan;
            r = kOp == HalfOp::min ? (kBf ? num::bf16_min(a, b, nan) : num::f16_min(a, b, nan))
                                   : (kBf ? num::bf16_max(a, b, nan) : num::f16_max(a, b, nan));
            r |= is_nan<kBf>(r) ? 0 : sign;
            break;
        }
        case HalfOp::ex2:
            r = kBf ? num::ex2_approx_bf16(a) : num::ex2_approx_f16(a);
            break;
        case HalfOp::tanh:
            r = kBf ? num::tanh_approx_bf16(a) : num::tanh_approx_f16(a);
            break;
    }
    if (!kBf && (flags & kFtz)) {
        r = num::f16_ftz(r);
    }
    if (flags & kSat) {
        const float v = widen<kBf>(r);
        r = v > 0.0f ? (v < 1.0f ? r : static_cast<uint16_t>(kBf ? 0x3f80 : 0x3c00)) : 0;
    }
    if ((flags & kRelu) && (r & 0x8000) && !is_nan<kBf>(r)) {
        r = 0;
    }
    return r;
}

template <bool kBf, bool kTwo, HalfOp kOp>
void run_half(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t* a = w.u32(i.r[1]);
    const uint32_t* b = i.r[2] == kNoRef ? a : w.u32(i.r[2]);
    const uint32_t* c = i.r[3] == kNoRef ? a : w.u32(i.r[3]);
    const uint32_t flags = i.small;
    each_active(w.u32(i.r[0]), active, [&](int l) {
        const uint32_t low =
            apply<kBf, kOp>(static_cast<uint16_t>(a[l]), static_cast<uint16_t>(b[l]),
                            static_cast<uint16_t>(c[l]), flags);
        if constexpr (!kTwo) {
            return low;
        } else {
            const uint32_t high = apply<kBf, kOp>(static_cast<uint16_t>(a[l] >> 16),
                                                  static_cast<uint16_t>(b[l] >> 16),
                                                  static_cast<uint16_t>(c[l] >> 16), flags);
            return low | high << 16;
        }
    });
}

template <HalfOp kOp>
Handler choose(Type t) {
    switch (t) {
        case Type::f16:
            return run_half<false, false, kOp>;
        case Type::f16x2:
            return run_half<false, true, kOp>;
        case Type::bf16:
            return run_half<true, false, kOp>;
        default:
            return run_half<true, true, kOp>;
    }
}

}  // namespace

Instr decode_half(const ptx::Statement& s, DecodeContext& c, HalfOp op) {
    const Type t = last_type(s);
    uint32_t flags = 0;
    for (size_t k = 1; k + 1 < s.parts.size(); ++k) {
        const std::string_view p = s.parts[k];
        if (p == "ftz") {
            flags |= kFtz;
        } else if (p == "sat") {
            flags |= kSat;
        } else if (p == "relu") {
            flags |= kRelu;
        } else if (p == "NaN") {
            flags |= kNan;
        } else if (p == "xorsign") {
            flags |= kXorSign;
        } else if (p == "oob") {
            flags |= kOob;
        } else if (p != "rn" && p != "abs" && p != "approx") {
            c.unknown(p);
        }
    }
    Handler run = nullptr;
    switch (op) {
        case HalfOp::add:
            run = choose<HalfOp::add>(t);
            break;
        case HalfOp::sub:
            run = choose<HalfOp::sub>(t);
            break;
        case HalfOp::mul:
            run = choose<HalfOp::mul>(t);
            break;
        case HalfOp::fma:
            run = choose<HalfOp::fma>(t);
            break;
        case HalfOp::abs:
            run = choose<HalfOp::abs>(t);
            break;
        case HalfOp::neg:
            run = choose<HalfOp::neg>(t);
            break;
        case HalfOp::min:
            run = choose<HalfOp::min>(t);
            break;
        case HalfOp::max:
            run = choose<HalfOp::max>(t);
            break;
        case HalfOp::ex2:
            run = choose<HalfOp::ex2>(t);
            break;
        case HalfOp::tanh:
            run = choose<HalfOp::tanh>(t);
            break;
    }
    Instr i;
    switch (op) {
        case HalfOp::fma:
            i = pack(c, run, {t, t, t, t});
            break;
        case HalfOp::abs:
        case HalfOp::neg:
        case HalfOp::ex2:
        case HalfOp::tanh:
            i = pack(c, run, {t, t});
            break;
        default:
            i = pack(c, run, {t, t, t});
            break;
    }
    i.small = flags;
    return i;
}

}  // namespace emu
