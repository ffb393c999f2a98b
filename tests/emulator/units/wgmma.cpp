// SPDX-License-Identifier: BSD-3-Clause
#include "wgmma.h"

#include <algorithm>
#include <cstring>

#include "fp8_sum.h"
#include "numeric.h"
#include "tile.h"

namespace emu {
namespace {

// A row of the tile holds, per 8 columns, the four even columns (one plane) and the four odd ones
// (the next).
template <class T>
void load_d(const WgmmaSpec& s, uint32_t* const* d, T* tile) {
    for (int block = 0; block < s.n / 8; ++block) {
        for (int half = 0; half < 2; ++half) {
            for (int g = 0; g < 8; ++g) {
                T* row = tile + (8 * half + g) * s.n + 8 * block;
                std::memcpy(row, d[4 * block + 2 * half] + 4 * g, 16);
                std::memcpy(row + 4, d[4 * block + 2 * half + 1] + 4 * g, 16);
            }
        }
    }
}
void load_d_f16(const WgmmaSpec& s, uint32_t* const* d, float* tile) {
    for (int reg = 0; reg < s.n / 4; ++reg) {
        for (int lane = 0; lane < 32; ++lane) {
            float* row = tile + (lane / 4 + 8 * (reg & 1)) * s.n + 8 * (reg / 2);
            row[lane % 4] = num::f16_to_f32(static_cast<uint16_t>(d[reg][lane]));
            row[4 + lane % 4] = num::f16_to_f32(static_cast<uint16_t>(d[reg][lane] >> 16));
        }
    }
}
template <class T>
void store_d(const WgmmaSpec& s, const T* tile, uint32_t* const* d) {
    for (int block = 0; block < s.n / 8; ++block) {
        for (int half = 0; half < 2; ++half) {
            for (int g = 0; g < 8; ++g) {
                const T* row = tile + (8 * half + g) * s.n + 8 * block;
                std::memcpy(d[4 * block + 2 * half] + 4 * g, row, 16);
                std::memcpy(d[4 * block + 2 * half + 1] + 4 * g, row + 4, 16);
            }
        }
    }
}
void store_d_f16(const WgmmaSpec& s, const float* tile, uint32_t* const* d) {
    for (int reg = 0; reg < s.n / 4; ++reg) {
        for (int lane = 0; lane < 32; ++lane) {
            const float* row = tile + (lane / 4 + 8 * (reg & 1)) * s.n + 8 * (reg / 2);
            d[reg][lane] = num::f32_to_f16(row[lane % 4]) |
                           static_cast<uint32_t>(num::f32_to_f16(row[4 + lane % 4])) << 16;
        }
    }
}

template <class T>
void unpack_a(const WgmmaSpec& s, const uint32_t* const* a, T* tile) {
    const int per_word = 32 / elem_bits(s.a), span = 4 * per_word;
    T line[8 * 16];
    for (int reg = 0; reg < 4; ++reg) {
        if constexpr (std::is_same_v<T, float>) {
            unpack_floats(s.a, a[reg], line, 8 * span);
        } else {
            unpack_ints(s.a, a[reg], line, 8 * span);
        }
        for (int g = 0; g < 8; ++g) {
            std::copy_n(line + g * span, span,
                        tile + (8 * (reg & 1) + g) * s.k() + (reg >> 1) * span);
        }
    }
}

}  // namespace

bool wgmma_known(const WgmmaSpec& s) {
    if (s.n % 8 != 0 || s.n < 8 || s.n > 256) {
        return false;
    }
    const auto fp8 = [](Elem e) { return e == Elem::e4m3 || e == Elem::e5m2; };
    const auto int8 = [](Elem e) { return e == Elem::s8 || e == Elem::u8; };
    if (int8(s.a) && int8(s.b)) {
        return s.d == Elem::s32 && (s.n <= 32 || s.n % 16 == 0);
    }
    if (fp8(s.a) && fp8(s.b)) {
        return s.d == Elem::f32 || s.d == Elem::f16;
    }
    if (s.a != s.b) {
        return false;
    }
    return s.a == Elem::f16 ? s.d == Elem::f32 || s.d == Elem::f16
                            : (s.a == Elem::bf16 || s.a == Elem::tf32) && s.d == Elem::f32;
}

void wgmma_run(const WgmmaSpec& s, const float* a, const float* b, uint32_t* const* const* d,
               bool scale_d, bool neg_a, bool neg_b) {
    alignas(64) float tile[16 * 256];
    alignas(64) float negated[16 * 32];
    const int k = s.k();
    for (int warp = 0; warp < 4; ++warp) {
        if (!scale_d) {
            std::fill_n(tile, 16 * s.n, 0.0f);
        } else if (s.d == Elem::f16) {
            load_d_f16(s, d[warp], tile);
        } else {
            load_d(s, d[warp], tile);
        }
        const float* rows = a + 16 * warp * k;
        if (neg_a != neg_b) {
            std::transform(rows, rows + 16 * k, negated, [](float x) { return -x; });
            rows = negated;
        }
        if (s.fp8_terms > 0) {
            fp8_product(s.a, s.b, s.d, s.fp8_terms, rows, k, b, s.n, tile, s.n, 16, s.n, k);
        } else {
            tile_product(rows, k, b, s.n, tile, s.n, 16, s.n, k);
        }
        if (s.d == Elem::f16) {
            store_d_f16(s, tile, d[warp]);
        } else {
            store_d(s, tile, d[warp]);
        }
    }
}

void wgmma_run(const WgmmaSpec& s, const int32_t* a, const int32_t* b, uint32_t* const* const* d,
               bool scale_d) {
    alignas(64) int32_t tile[16 * 256], before[16 * 256];
    const int k = s.k(), count = 16 * s.n;
    for (int warp = 0; warp < 4; ++warp) {
        std::fill_n(tile, count, 0);
        std::fill_n(before, count, 0);
        if (scale_d) {
            load_d(s, d[warp], before);
        }
        tile_product(a + 16 * warp * k, k, b, s.n, tile, s.n, 16, s.n, k);
        for (int i = 0; i < count; ++i) {
            const int64_t sum = static_cast<int64_t>(tile[i]) + before[i];
            tile[i] = static_cast<int32_t>(
                s.satfinite ? std::clamp<int64_t>(sum, INT32_MIN, INT32_MAX) : sum);
        }
        store_d(s, tile, d[warp]);
    }
}

void wgmma_a_from_registers(const WgmmaSpec& s, const uint32_t* const* a, float* tile) {
    unpack_a(s, a, tile);
}
void wgmma_a_from_registers(const WgmmaSpec& s, const uint32_t* const* a, int32_t* tile) {
    unpack_a(s, a, tile);
}

}  // namespace emu
