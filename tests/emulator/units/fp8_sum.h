// SPDX-License-Identifier: BSD-3-Clause
// How the tensor cores of Ada and Hopper sum products of 8-bit floats: tests/emulator/README.md,
// "Sums of 8-bit floats", names the sources.
#pragma once

#include "mma.h"

namespace emu {

constexpr int kFp8FractionBits = 13;

// Products that one step sums on `arch`, or 0 where sums are those of tile_product.
constexpr int fp8_terms(int arch, Elem a, Elem b) {
    const auto narrow = [](Elem e) { return e == Elem::e4m3 || e == Elem::e5m2; };
    if (!narrow(a) || !narrow(b)) {
        return 0;
    }
    return arch == 89 ? 16 : arch == 90 ? 32 : 0;
}

// C[m][n] += A[m][k] * B[k][n], row-major with leading dimensions; n a multiple of 8, n <= 256, k a
// multiple of `terms` <= 32. A step takes `terms` products and C. With 2^e the largest exponent
// among them (of a product: the sum of its factors', subnormal factors keeping the format's lowest)
// each is cut toward zero to a multiple of 2^(e - 13); the sum of those is exact, and what remains
// of it is 13 fraction bits, cut toward zero, for `d` f32, or the nearest f16.
void fp8_product(Elem type_a, Elem type_b, Elem d, int terms, const float* a, int lda,
                 const float* b, int ldb, float* c, int ldc, int m, int n, int k);

}  // namespace emu
