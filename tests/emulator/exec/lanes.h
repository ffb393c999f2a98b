// SPDX-License-Identifier: BSD-3-Clause
// Element-wise instructions: a pure function applied to 32 lanes, written so that the compiler
// vectorises it.
#pragma once
#include <bit>
#include <cstdint>
#include <type_traits>

#include "exec/decode.h"

namespace emu {

// How a value lies in a register plane: 64-bit types in uint64_t, all others zero-extended in
// uint32_t.
template <class T>
using Plane = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

template <class T>
inline T get(const Plane<T>* p, int lane) {
    if constexpr (std::is_same_v<T, float>) {
        return std::bit_cast<float>(p[lane]);
    } else if constexpr (std::is_same_v<T, double>) {
        return std::bit_cast<double>(p[lane]);
    } else {
        return static_cast<T>(p[lane]);
    }
}

template <class T>
inline Plane<T> put(T value) {
    if constexpr (std::is_same_v<T, float>) {
        return std::bit_cast<uint32_t>(value);
    } else if constexpr (std::is_same_v<T, double>) {
        return std::bit_cast<uint64_t>(value);
    } else {
        return static_cast<Plane<T>>(static_cast<std::make_unsigned_t<T>>(value));
    }
}

// d[lane] = f(lane) for the active lanes; f must be harmless for the others.
template <class P, class F>
inline void each(P* d, uint32_t active, F f) {
    if (active == kAllLanes) [[likely]] {
#pragma GCC ivdep
        for (int l = 0; l < kLanes; ++l) {
            d[l] = f(l);
        }
    } else {
#pragma GCC ivdep
        for (int l = 0; l < kLanes; ++l) {
            const P v = f(l);
            d[l] = active >> l & 1 ? v : d[l];
        }
    }
}

// d[lane] = f(lane) for the active lanes alone: for functions that may trap or are slow.
template <class P, class F>
inline void each_active(P* d, uint32_t active, F f) {
    for (uint32_t m = active; m; m &= m - 1) {
        const int l = std::countr_zero(m);
        d[l] = f(l);
    }
}

template <class F>
inline void for_lanes(uint32_t active, F f) {
    for (uint32_t m = active; m; m &= m - 1) {
        f(std::countr_zero(m));
    }
}

// The predicate of 32 lanes.
template <class F>
inline uint32_t ballot(F f) {
    uint32_t bits = 0;
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) {
        bits |= static_cast<uint32_t>(f(l)) << l;
    }
    return bits;
}

template <class R, class A, class Op>
void map1(Warp& w, const Instr& i, uint32_t active) {
    const Plane<A>* a = w.at<Plane<A>>(i.r[1]);
    each(w.at<Plane<R>>(i.r[0]), active, [&](int l) { return put<R>(Op()(get<A>(a, l))); });
}

template <class R, class A, class B, class Op>
void map2(Warp& w, const Instr& i, uint32_t active) {
    const Plane<A>* a = w.at<Plane<A>>(i.r[1]);
    const Plane<B>* b = w.at<Plane<B>>(i.r[2]);
    each(w.at<Plane<R>>(i.r[0]), active,
         [&](int l) { return put<R>(Op()(get<A>(a, l), get<B>(b, l))); });
}

template <class R, class A, class B, class C, class Op>
void map3(Warp& w, const Instr& i, uint32_t active) {
    const Plane<A>* a = w.at<Plane<A>>(i.r[1]);
    const Plane<B>* b = w.at<Plane<B>>(i.r[2]);
    const Plane<C>* c = w.at<Plane<C>>(i.r[3]);
    each(w.at<Plane<R>>(i.r[0]), active,
         [&](int l) { return put<R>(Op()(get<A>(a, l), get<B>(b, l), get<C>(c, l))); });
}

// As above, lane by lane over the active lanes only.
template <class R, class A, class Op>
void scalar1(Warp& w, const Instr& i, uint32_t active) {
    const Plane<A>* a = w.at<Plane<A>>(i.r[1]);
    each_active(w.at<Plane<R>>(i.r[0]), active, [&](int l) { return put<R>(Op()(get<A>(a, l))); });
}

template <class R, class A, class B, class Op>
void scalar2(Warp& w, const Instr& i, uint32_t active) {
    const Plane<A>* a = w.at<Plane<A>>(i.r[1]);
    const Plane<B>* b = w.at<Plane<B>>(i.r[2]);
    each_active(w.at<Plane<R>>(i.r[0]), active,
                [&](int l) { return put<R>(Op()(get<A>(a, l), get<B>(b, l))); });
}

template <class R, class A, class B, class C, class Op>
void scalar3(Warp& w, const Instr& i, uint32_t active) {
    const Plane<A>* a = w.at<Plane<A>>(i.r[1]);
    const Plane<B>* b = w.at<Plane<B>>(i.r[2]);
    const Plane<C>* c = w.at<Plane<C>>(i.r[3]);
    each_active(w.at<Plane<R>>(i.r[0]), active,
                [&](int l) { return put<R>(Op()(get<A>(a, l), get<B>(b, l), get<C>(c, l))); });
}

// Decoding helpers.
inline ptx::Type last_type(const ptx::Statement& s) {
    return ptx::type_named(s.parts.back());
}

// d, a, b, ... of one type each.
inline Instr pack(DecodeContext& c, Handler run, std::initializer_list<ptx::Type> types) {
    Instr i;
    i.run = run;
    size_t n = 0;
    for (ptx::Type t : types) {
        i.r[n] = n == 0 ? c.target(c.operand(n), t) : c.source(c.operand(n), t);
        ++n;
    }
    if (c.operands() > n) {
        c.fail("too many operands");
    }
    return i;
}

}  // namespace emu
