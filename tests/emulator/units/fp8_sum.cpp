// SPDX-License-Identifier: BSD-3-Clause
#include "fp8_sum.h"

#include <algorithm>
#include <cmath>

#include "numeric.h"
#include "tile.h"

namespace emu {
namespace {

using V8u = uint32_t __attribute__((vector_size(32)));

constexpr int kMaxTerms = 32, kMaxColumns = 256;
constexpr uint32_t kExponent = 0x7f800000u;
constexpr uint32_t kDropped = (1u << (23 - kFp8FractionBits)) - 1;
constexpr uint32_t kScaleFields = (254 + kFp8FractionBits) << 23;
constexpr float kTiny = 0x1p-100f;  // below every product that is not zero

// 2 to the exponent that x has in its format, 0 for 0.
float power(float x, float lowest) {
    return x == 0.0f ? 0.0f : std::max(num::bits_f32(num::f32_bits(x) & kExponent), lowest);
}
float lowest_power(Elem type) {
    return type == Elem::e4m3 ? 0x1p-6f : type == Elem::f32 ? 0x1p-126f : 0x1p-14f;
}

float cut(float x) {
    return num::bits_f32(num::f32_bits(x) & ~kDropped) + 0.0f;  // -0 becomes +0
}

// What a step makes of its sum.
float finish(float sum, Elem d) {
    return d == Elem::f16 ? num::f16_to_f32(num::f32_to_f16(sum)) : cut(sum);
}

// With an infinity or NaN among them the order does not matter.
float special_sum(const float* a, const float* b, int ldb, float c, int terms) {
    for (int p = 0; p < terms; ++p) {
        c += a[p] * b[p * ldb];
    }
    return num::f32_canonical(c);
}

}  // namespace

void fp8_product(Elem type_a, Elem type_b, Elem d, int terms, const float* a, int lda,
                 const float* b, int ldb, float* c, int ldc, int m, int n, int k) {
    alignas(64) float powers_b[kMaxTerms][kMaxColumns];
    bool special_b[kMaxColumns];
    const float lowest_a = lowest_power(type_a), lowest_b = lowest_power(type_b);
    const float lowest_c = lowest_power(d);
    for (int first = 0; first < k; first += terms) {
        std::fill_n(special_b, n, false);
        for (int p = 0; p < terms; ++p) {
            for (int j = 0; j < n; ++j) {
                const float x = b[(first + p) * ldb + j];
                powers_b[p][j] = power(x, lowest_b);
                special_b[j] |= !std::isfinite(x);
            }
        }
        for (int i = 0; i < m; ++i) {
            const float* row = a + i * lda + first;
            float powers_a[kMaxTerms];
            bool special_a = false;
            for (int p = 0; p < terms; ++p) {
                powers_a[p] = power(row[p], lowest_a);
                special_a |= !std::isfinite(row[p]);
            }
            for (int j = 0; j < n; j += 8) {
                float* sums = c + i * ldc + j;
                const float* columns = b + first * ldb + j;
                alignas(32) float before[8], largest[8], result[8];
                std::copy_n(sums, 8, before);
                for (int l = 0; l < 8; ++l) {
                    largest[l] = power(before[l], lowest_c);
                }
                V8f top = load_v<V8f>(largest);
                for (int p = 0; p < terms; ++p) {
                    const V8f x = powers_a[p] * load_v<V8f>(&powers_b[p][j]);
                    top = x > top ? x : top;
                }
                // 2^13 / top, by its exponent field: 127 + 127 + 13 - that of top.
                const V8u fields = kScaleFields - reinterpret_cast<V8u>(top);
                const V8f scale = reinterpret_cast<V8f>(fields);
                V8i sum = __builtin_convertvector(load_v<V8f>(before) * scale, V8i);
                for (int p = 0; p < terms; ++p) {
                    const V8f product = row[p] * load_v<V8f>(columns + p * ldb);
                    sum += __builtin_convertvector(product * scale, V8i);
                }
                const V8f unit = top * 0x1p-13f;
                store_v(result, __builtin_convertvector(sum, V8f) * unit);
                store_v(largest, top);
                for (int l = 0; l < 8; ++l) {
                    if (special_a || special_b[j + l] || !std::isfinite(before[l])) {
                        result[l] = special_sum(row, columns + l, ldb, before[l], terms);
                    } else {
                        result[l] = finish(largest[l] < kTiny ? before[l] : result[l], d);
                    }
                }
                std::copy_n(result, 8, sums);
            }
        }
    }
}

}  // namespace emu
