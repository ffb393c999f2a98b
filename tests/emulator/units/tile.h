// SPDX-License-Identifier: BSD-3-Clause
// Small dense products on fp32 or int32 tiles: the arithmetic behind mma, wgmma and tcgen05.
#pragma once

#include <cstdint>
#include <cstring>

#include "mma.h"

namespace emu {

using V8f = float __attribute__((vector_size(32)));
using V8i = int32_t __attribute__((vector_size(32)));
using V8h = uint16_t __attribute__((vector_size(16)));

// `count` packed elements at `src` to fp32 (integers to int32 with unpack_ints); sub-byte integers
// are packed, e2m1, e2m3 and e3m2 take a byte each with e2m1 in bits 2..5.
void unpack_floats(Elem type, const void* src, float* dst, int count);
void unpack_ints(Elem type, const void* src, int32_t* dst, int count);

// C[m][n] += A[m][k] * B[k][n], row-major with leading dimensions; n a multiple of 8. Sums run over
// k in order, each product added with one fp32 rounding.
void tile_product(const float* a, int lda, const float* b, int ldb, float* c, int ldc, int m, int n,
                  int k);
void tile_product(const int32_t* a, int lda, const int32_t* b, int ldb, int32_t* c, int ldc, int m,
                  int n, int k);

template <class V, class T>
inline V load_v(const T* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
template <class V, class T>
inline void store_v(T* p, const V& v) {
    std::memcpy(p, &v, sizeof v);
}

}  // namespace emu
