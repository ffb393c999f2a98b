// SPDX-License-Identifier: BSD-3-Clause
// wgmma.mma_async m64nNk(256 bits): a warpgroup's product on fp32 or int32 tiles and its
// accumulator fragments.
#pragma once

#include <cstdint>

#include "mma.h"
#include "smem_desc.h"

namespace emu {

struct WgmmaSpec {
    int n = 8;
    Elem a = Elem::f16, b = Elem::f16, d = Elem::f32;
    bool satfinite = false;
    int fp8_terms = 0;  // products that one step sums (fp8_sum.h); 0: fp32 sums

    int k() const { return 256 / elem_bits(a); }
    int d_regs() const { return d == Elem::f16 ? n / 4 : n / 2; }
    bool integer() const { return d == Elem::s32; }
};
bool wgmma_known(const WgmmaSpec& spec);

// A: 64 x k row-major; B: k x n row-major with columns permuted (TileLayout::permute_mn).
// d[warp][reg] are planes of 32 words; scale_d false: D = A*B. neg_a / neg_b multiply an operand by
// -1.
void wgmma_run(const WgmmaSpec& spec, const float* a, const float* b, uint32_t* const* const* d,
               bool scale_d, bool neg_a, bool neg_b);
void wgmma_run(const WgmmaSpec& spec, const int32_t* a, const int32_t* b, uint32_t* const* const* d,
               bool scale_d);
// A from registers: four planes per warp, as the A fragment of mma m16n8k(256 bits).
void wgmma_a_from_registers(const WgmmaSpec& spec, const uint32_t* const* a, float* tile_16xk);
void wgmma_a_from_registers(const WgmmaSpec& spec, const uint32_t* const* a, int32_t* tile_16xk);

// Row (of 64) and column of the accumulator element `i` (0, or 0..1 for f16) of register `reg`.
inline Cell wgmma_cell_d(Elem type, int warp, int lane, int reg, int i) {
    return type == Elem::f16
               ? Cell{16 * warp + lane / 4 + 8 * (reg & 1), 8 * (reg / 2) + 2 * (lane % 4) + i}
               : Cell{16 * warp + lane / 4 + 8 * ((reg >> 1) & 1),
                      8 * (reg / 4) + 2 * (lane % 4) + (reg & 1)};
}

}  // namespace emu
