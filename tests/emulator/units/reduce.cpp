// SPDX-License-Identifier: BSD-3-Clause
#include "reduce.h"

#include <bit>
#include <cstring>
#include <string_view>

#include "numeric.h"

namespace emu {
namespace {

template <class T>
T combine(ReduceOp op, T a, T b) {
    switch (op) {
        case ReduceOp::add:
            return static_cast<T>(a + b);
        case ReduceOp::min:
            return b < a ? b : a;
        case ReduceOp::max:
            return a < b ? b : a;
        default:
            return a;
    }
}
template <class U>
U combine_bits(ReduceOp op, U a, U b) {
    switch (op) {
        case ReduceOp::inc:
            return a >= b ? 0 : a + 1;
        case ReduceOp::dec:
            return a == 0 || a > b ? b : a - 1;
        case ReduceOp::bit_and:
            return a & b;
        case ReduceOp::bit_or:
            return a | b;
        case ReduceOp::bit_xor:
            return a ^ b;
        default:
            return combine<U>(op, a, b);
    }
}
uint16_t combine16(ReduceOp op, uint16_t a, uint16_t b, bool bf16) {
    switch (op) {
        case ReduceOp::add:
            return bf16 ? num::bf16_add(a, b) : num::f16_add(a, b);
        case ReduceOp::min:
            return bf16 ? num::bf16_min(a, b) : num::f16_min(a, b);
        case ReduceOp::max:
            return bf16 ? num::bf16_max(a, b) : num::f16_max(a, b);
        default:
            return a;
    }
}

template <class U, class F>
void atomically(void* at, F f) {
    U* word = static_cast<U*>(at);
    U seen = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(word, &seen, f(seen), true, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {
    }
}
template <class U>
U load(const void* p) {
    U v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

}  // namespace

int reduce_type_bytes(ReduceType type) {
    switch (type) {
        case ReduceType::f16:
        case ReduceType::bf16:
            return 2;
        case ReduceType::u64:
        case ReduceType::s64:
        case ReduceType::f64:
        case ReduceType::b64:
            return 8;
        default:
            return 4;
    }
}

bool reduce_op_from_text(const char* text, ReduceOp& out) {
    static constexpr std::string_view kNames[] = {"add", "min", "max", "inc",
                                                  "dec", "and", "or",  "xor"};
    for (int i = 0; i < 8; ++i) {
        if (kNames[i] == text) {
            out = static_cast<ReduceOp>(i);
            return true;
        }
    }
    return false;
}
bool reduce_type_from_text(const char* text, ReduceType& out) {
    static constexpr std::string_view kNames[] = {"u32",  "s32", "u64", "s64", "f16",
                                                  "bf16", "f32", "f64", "b32", "b64"};
    for (int i = 0; i < 10; ++i) {
        if (kNames[i] == text) {
            out = static_cast<ReduceType>(i);
            return true;
        }
    }
    return false;
}

void reduce_element(ReduceOp op, ReduceType type, void* at, const void* value) {
    switch (type) {
        case ReduceType::f16:
        case ReduceType::bf16: {
            const uint16_t v = load<uint16_t>(value);
            atomically<uint16_t>(
                at, [&](uint16_t a) { return combine16(op, a, v, type == ReduceType::bf16); });
            break;
        }
        case ReduceType::f32: {
            const float v = load<float>(value);
            atomically<uint32_t>(at, [&](uint32_t a) {
                return num::f32_bits(num::f32_canonical(combine<float>(op, num::bits_f32(a), v)));
            });
            break;
        }
        case ReduceType::f64: {
            const double v = load<double>(value);
            atomically<uint64_t>(at, [&](uint64_t a) {
                return std::bit_cast<uint64_t>(combine<double>(op, std::bit_cast<double>(a), v));
            });
            break;
        }
        case ReduceType::s32: {
            const uint32_t v = load<uint32_t>(value);
            atomically<uint32_t>(at, [&](uint32_t a) {
                return op == ReduceOp::add
                           ? a + v
                           : static_cast<uint32_t>(combine<int32_t>(op, static_cast<int32_t>(a),
                                                                    static_cast<int32_t>(v)));
            });
            break;
        }
        case ReduceType::s64: {
            const uint64_t v = load<uint64_t>(value);
            atomically<uint64_t>(at, [&](uint64_t a) {
                return op == ReduceOp::add
                           ? a + v
                           : static_cast<uint64_t>(combine<int64_t>(op, static_cast<int64_t>(a),
                                                                    static_cast<int64_t>(v)));
            });
            break;
        }
        case ReduceType::u32:
        case ReduceType::b32: {
            const uint32_t v = load<uint32_t>(value);
            atomically<uint32_t>(at, [&](uint32_t a) { return combine_bits<uint32_t>(op, a, v); });
            break;
        }
        case ReduceType::u64:
        case ReduceType::b64: {
            const uint64_t v = load<uint64_t>(value);
            atomically<uint64_t>(at, [&](uint64_t a) { return combine_bits<uint64_t>(op, a, v); });
            break;
        }
    }
}

}  // namespace emu
