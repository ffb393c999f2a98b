// SPDX-License-Identifier: BSD-3-Clause
// mma.sync and wmma: fragment maps and execution on register planes.
#pragma once

#include <cstdint>

namespace emu {

enum class Elem : uint8_t {
    f16,
    bf16,
    tf32,
    f32,
    f64,
    e4m3,
    e5m2,
    e3m2,
    e2m3,
    e2m1,
    s8,
    u8,
    s4,
    u4,
    b1,
    s32
};
constexpr int elem_bits(Elem e) {
    switch (e) {
        case Elem::f16:
        case Elem::bf16:
            return 16;
        case Elem::tf32:
        case Elem::f32:
        case Elem::s32:
            return 32;
        case Elem::f64:
            return 64;
        case Elem::s4:
        case Elem::u4:
            return 4;
        case Elem::b1:
            return 1;
        default:
            return 8;  // e3m2, e2m3 and e2m1 sit in 8-bit containers
    }
}
// Register name of an operand type: false if `text` (no dot) is not one.
bool elem_from_text(const char* text, Elem& out);

struct MmaSpec {
    int m, n, k;
    Elem a, b, c, d;
    bool satfinite = false;  // integer accumulators clamp instead of wrapping
    int fp8_terms = 0;       // products that one step sums (fp8_sum.h); 0: fp32 sums
};

// A register plane is 32 words, one a lane. a, b, c, d are arrays of planes in the operand order of
// the instruction; d may be the same planes as c. 64-bit operands (f64) take two planes each, low
// word first.
using MmaFn = void (*)(const MmaSpec&, const uint32_t* const* a, const uint32_t* const* b,
                       const uint32_t* const* c, uint32_t* const* d);
// mma.sync.aligned with .row.col layouts; nullptr: no such form is known.
MmaFn mma_find(const MmaSpec& spec);
// 32-bit registers per lane of each operand.
struct MmaRegs {
    int a, b, c, d;
};
MmaRegs mma_regs(const MmaSpec& spec);

// Where element `i` of register `reg` of `lane` lies in its matrix.
struct Cell {
    int row, col;
};
Cell mma_cell_a(const MmaSpec& spec, int lane, int reg, int i);
Cell mma_cell_b(const MmaSpec& spec, int lane, int reg, int i);  // row = k, col = n
Cell mma_cell_c(const MmaSpec& spec, Elem type, int lane, int reg, int i);

// wmma fragments. The ISA leaves their map open, so this is this emulator's own: the row-major
// matrix cut into 32-bit words (two words for f64), word w in lane w % 32, register w / 32,
// registers past the matrix repeating it.
enum class WmmaUse : uint8_t { a, b, c, d };
struct WmmaFrag {
    WmmaUse use;
    Elem type;
    int m, n, k;
};
int wmma_rows(const WmmaFrag& frag);
int wmma_cols(const WmmaFrag& frag);
int wmma_regs(const WmmaFrag& frag);  // 32-bit registers per lane as the instruction lists them
                                      // (f64: two a register)
// Element index (row, col) of the first element of the word; a word holds 32 / bits consecutive
// columns.
Cell wmma_cell(const WmmaFrag& frag, int lane, int reg);
// wmma.mma: planes as above. nullptr: unknown shape or types.
MmaFn wmma_find(const MmaSpec& spec);

}  // namespace emu
