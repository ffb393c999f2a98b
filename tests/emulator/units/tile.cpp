// SPDX-License-Identifier: BSD-3-Clause
#include "tile.h"

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "numeric.h"

namespace emu {
namespace {

template <class T, class Decode, class Out>
void unpack_as(const void* src, Out* dst, int count, Decode decode) {
    const unsigned char* bytes = static_cast<const unsigned char*>(src);
    for (int i = 0; i < count; ++i) {
        T word;
        std::memcpy(&word, bytes + i * sizeof(T), sizeof(T));
        dst[i] = decode(word);
    }
}

// Branch-free, so that the loop over a row vectorises: the code's bits as a float, scaled by 2^120.
inline float e4m3_lane(uint8_t v) {
    const uint32_t magnitude = static_cast<uint32_t>(v & 0x7f) << 20;
    const uint32_t scaled = num::f32_bits(num::bits_f32(magnitude) * num::bits_f32(0x7b800000u));
    const uint32_t bits = (v & 0x7f) == 0x7f ? num::kNanF32 : scaled;
    return num::bits_f32(bits | static_cast<uint32_t>(v & 0x80) << 24);
}

void unpack_f16(const void* src, float* dst, int count) {
    int i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8) {
        const __m128i halves = _mm_loadu_si128(
            reinterpret_cast<const __m128i*>(static_cast<const char*>(src) + 2 * i));
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(halves));
    }
#endif
    unpack_as<uint16_t>(static_cast<const char*>(src) + 2 * i, dst + i, count - i, num::f16_to_f32);
}

template <class V, class T, int Rows>
void block(const T* a, int lda, const T* b, int ldb, T* c, int ldc, int k) {
    V acc[Rows];
    for (int r = 0; r < Rows; ++r) {
        acc[r] = load_v<V>(c + r * ldc);
    }
    for (int p = 0; p < k; ++p) {
        const V row = load_v<V>(b + p * ldb);
        for (int r = 0; r < Rows; ++r) {
            acc[r] = a[r * lda + p] * row + acc[r];
        }
    }
    for (int r = 0; r < Rows; ++r) {
        store_v(c + r * ldc, acc[r]);
    }
}

template <class V16, class V8, class T>
void product(const T* a, int lda, const T* b, int ldb, T* c, int ldc, int m, int n, int k) {
    for (int i = 0; i < m; i += 8) {
        const int rows = m - i < 8 ? m - i : 8;
        int j = 0;
        if (rows == 8) {
            for (; j + 16 <= n; j += 16) {
                block<V16, T, 8>(a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc, k);
            }
            for (; j < n; j += 8) {
                block<V8, T, 8>(a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc, k);
            }
            continue;
        }
        for (; j < n; j += 8) {
            for (int r = 0; r < rows; ++r) {
                block<V8, T, 1>(a + (i + r) * lda, lda, b + j, ldb, c + (i + r) * ldc + j, ldc, k);
            }
        }
    }
}

}  // namespace

using V16f = float __attribute__((vector_size(64)));
using V16i = int32_t __attribute__((vector_size(64)));

void tile_product(const float* a, int lda, const float* b, int ldb, float* c, int ldc, int m, int n,
                  int k) {
    product<V16f, V8f>(a, lda, b, ldb, c, ldc, m, n, k);
}
void tile_product(const int32_t* a, int lda, const int32_t* b, int ldb, int32_t* c, int ldc, int m,
                  int n, int k) {
    product<V16i, V8i>(a, lda, b, ldb, c, ldc, m, n, k);
}

void unpack_floats(Elem type, const void* src, float* dst, int count) {
    switch (type) {
        case Elem::f16:
            unpack_f16(src, dst, count);
            break;
        case Elem::bf16:
            unpack_as<uint16_t>(src, dst, count, num::bf16_to_f32);
            break;
        case Elem::tf32:
            unpack_as<uint32_t>(src, dst, count, num::tf32_operand);
            break;
        case Elem::f32:
            std::memcpy(dst, src, 4 * static_cast<size_t>(count));
            break;
        case Elem::e4m3:
            unpack_as<uint8_t>(src, dst, count, e4m3_lane);
            break;
        case Elem::e5m2:
            unpack_as<uint8_t>(src, dst, count, [](uint8_t v) {
                return num::f16_to_f32(static_cast<uint16_t>(v << 8));
            });
            break;
        case Elem::e3m2:
            unpack_as<uint8_t>(src, dst, count, num::e3m2_to_f32);
            break;
        case Elem::e2m3:
            unpack_as<uint8_t>(src, dst, count, num::e2m3_to_f32);
            break;
        case Elem::e2m1:
            unpack_as<uint8_t>(src, dst, count, [](uint8_t v) {
                return num::e2m1_to_f32(static_cast<uint8_t>(v >> 2));
            });
            break;
        default:
            break;
    }
}

void unpack_ints(Elem type, const void* src, int32_t* dst, int count) {
    const uint8_t* bytes = static_cast<const uint8_t*>(src);
    switch (type) {
        case Elem::s8:
            unpack_as<int8_t>(src, dst, count, [](int8_t v) { return static_cast<int32_t>(v); });
            break;
        case Elem::u8:
            unpack_as<uint8_t>(src, dst, count, [](uint8_t v) { return static_cast<int32_t>(v); });
            break;
        case Elem::s32:
            std::memcpy(dst, src, 4 * static_cast<size_t>(count));
            break;
        case Elem::s4:
        case Elem::u4:
            for (int i = 0; i < count; ++i) {
                const int32_t v = (bytes[i / 2] >> (4 * (i & 1))) & 15;
                dst[i] = type == Elem::s4 && v > 7 ? v - 16 : v;
            }
            break;
        case Elem::b1:
            for (int i = 0; i < count; ++i) {
                dst[i] = (bytes[i / 8] >> (i & 7)) & 1;
            }
            break;
        default:
            break;
    }
}

}  // namespace emu
