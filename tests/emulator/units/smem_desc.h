// SPDX-License-Identifier: BSD-3-Clause
// Swizzles of shared memory and the matrix descriptors of wgmma and tcgen05.
#pragma once

#include <cstdint>

#include "mma.h"

namespace emu {

// A swizzle permutes `atom`-byte pieces of a `span`-byte row by the row's number in the pattern:
// with 16-byte atoms address bits [4, 4+b) are XORed with bits [7, 7+b), b = log2(span / 16). span
// 0: no swizzle.
struct Swizzle {
    uint16_t span = 0, atom = 16;
    bool flip_8b = false;  // also swap the 8-byte halves of each 16 bytes in odd rows
};

// base: number of the 128-byte row in which the pattern starts, modulo 8 (the descriptor's base
// offset).
inline uint32_t swizzle_address(uint32_t address, const Swizzle& s, uint32_t base = 0) {
    if (s.span == 0) {
        return address;
    }
    const uint32_t row = (address >> 7) - base;
    const uint32_t pieces = s.span / s.atom;
    uint32_t out = address ^ ((row & (pieces - 1)) * s.atom);
    if (s.flip_8b && (row & 1)) {
        out ^= 8;
    }
    return out;
}

struct SmemDesc {
    uint32_t start = 0;    // byte offset in the CTA's shared window, 18 bits
    uint32_t leading = 0;  // bytes
    uint32_t stride = 0;   // bytes
    uint32_t base = 0;     // base offset, 0..7
    Swizzle swizzle;
    bool valid =
        true;  // the layout type (and, for tcgen05, the version and offset mode) is one we know
};

SmemDesc decode_wgmma_descriptor(uint64_t bits);
SmemDesc decode_tcgen05_descriptor(uint64_t bits);

// Byte address of element (mn, k) of an operand; mn_major: consecutive mn are adjacent (the
// transposed forms). Layouts in 16-byte units: K-major rows of 8 (mn) x span, groups of 8 rows
// `stride` apart; without swizzle the two 16-byte columns lie `leading` apart. MN-major: span bytes
// along mn x 8 (k); next span `leading`, next 8 k `stride` apart; without swizzle next 16 bytes
// along mn `stride`, next 8 k `leading` apart.
uint32_t operand_address(const SmemDesc& desc, bool mn_major, int elem_bytes, int mn, int k);

// Where the operand's elements go in an fp32 (or int32) tile: element (mn, k) at mn * mn_step + k *
// k_step. The mma kernels keep accumulator columns of each group of 8 in the order 0 2 4 6 1 3 5 7:
// permute_mn places mn so.
struct TileLayout {
    int mn_step, k_step;
    bool permute_mn = false;
};
// Reads the whole operand of `mn` x `k` elements. `shared` is the CTA's window of `bytes` bytes.
// False when an element lies outside, with its address in *bad.
bool load_operand(const SmemDesc& desc, bool mn_major, Elem type, int mn, int k,
                  const uint8_t* shared, uint32_t bytes, const TileLayout& layout, float* tile,
                  uint32_t* bad);
bool load_operand(const SmemDesc& desc, bool mn_major, Elem type, int mn, int k,
                  const uint8_t* shared, uint32_t bytes, const TileLayout& layout, int32_t* tile,
                  uint32_t* bad);
// Calls visit(address, 16) for each 16-byte piece that the operand reads: for race and
// initialisation checks.
template <class Visit>
void visit_operand(const SmemDesc& desc, bool mn_major, int elem_bytes, int mn, int k,
                   Visit visit) {
    const int per_piece = 16 / elem_bytes;
    if (mn_major) {
        for (int j = 0; j < k; ++j) {
            for (int i = 0; i < mn; i += per_piece) {
                visit(operand_address(desc, true, elem_bytes, i, j), 16u);
            }
        }
    } else {
        for (int i = 0; i < mn; ++i) {
            for (int j = 0; j < k; j += per_piece) {
                visit(operand_address(desc, false, elem_bytes, i, j), 16u);
            }
        }
    }
}

}  // namespace emu
