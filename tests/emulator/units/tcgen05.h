// SPDX-License-Identifier: BSD-3-Clause
// tcgen05: tensor memory, the fragments of ld/st, instruction descriptors and the products of dense
// tcgen05.mma.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mma.h"
#include "smem_desc.h"

namespace emu {

// 128 lanes x 512 columns of 32 bits; an address is lane << 16 | column.
struct TensorMemory {
    static constexpr int kLanes = 128, kColumns = 512;
    std::vector<uint32_t> words = std::vector<uint32_t>(kLanes * kColumns);
    uint32_t& at(int lane, int column) {
        return words[static_cast<size_t>(lane * kColumns + column)];
    }
    uint32_t* row(int lane) { return &words[static_cast<size_t>(lane) * kColumns]; }
};

enum class TmemShape : uint8_t { m16x64b, m16x128b, m16x256b, m32x32b, m16x32bx2 };
// Registers per lane of shape.xN, before .pack::16b / .unpack::16b (which keep the count).
constexpr int tmem_regs(TmemShape shape, int num) {
    return shape == TmemShape::m16x128b ? 2 * num : shape == TmemShape::m16x256b ? 4 * num : num;
}
// Lane and column, relative to the address, of register `reg` of thread `lane`. split:
// immHalfSplitoff of .16x32bx2. With .pack::16b / .unpack::16b column c stands for the low halves
// of columns 2c and 2c + 1.
struct TmemCell {
    int lane, column;
};
constexpr TmemCell tmem_cell(TmemShape shape, int lane, int reg, int split) {
    switch (shape) {
        case TmemShape::m32x32b:
            return {lane, reg};
        case TmemShape::m16x64b:
            return {lane / 4 + 8 * (lane & 1), 2 * reg + ((lane >> 1) & 1)};
        case TmemShape::m16x128b:
            return {lane / 4 + 8 * (reg & 1), lane % 4 + 4 * (reg >> 1)};
        case TmemShape::m16x256b:
            return {lane / 4 + 8 * ((reg >> 1) & 1), 2 * (lane % 4) + (reg & 1) + 8 * (reg >> 2)};
        default:
            return {lane % 16, reg + (lane / 16) * split};
    }
}

enum class TcKind : uint8_t { f16, tf32, f8f6f4, i8 };

// The 32-bit instruction descriptor of the dense kinds.
struct TcInstr {
    Elem a = Elem::f16, b = Elem::f16, d = Elem::f32;
    int m = 128, n = 8, k = 16;
    bool neg_a = false, neg_b = false, mn_major_a = false, mn_major_b = false, saturate = false;
};
// nullptr, or why the descriptor is not valid for the kind and group size (1 or 2 CTAs).
const char* decode_tc_instr(uint32_t bits, TcKind kind, int ctas, TcInstr& out);

// Where row m and column n of the accumulator lie: which CTA of the group, lane, column relative to
// the address.
struct TcCell {
    int cta, lane, column;
};
inline TcCell tc_cell(const TcInstr& s, int ctas, int m, int n) {
    if (ctas == 1) {
        return s.m == 64 ? TcCell{0, m % 16 + 32 * (m / 16), n} : TcCell{0, m, n};
    }
    if (s.m == 128) {
        const int half = s.n / 2;
        return {m / 64, m % 64 + 64 * (n / half), n % half};
    }
    return {m / 128, m % 128, n};
}

struct TcOperands {
    const float* a = nullptr;      // m x k row-major
    const float* b = nullptr;      // k x n row-major
    TensorMemory* memory[2] = {};  // by CTA of the group
    int lane = 0, column = 0;      // address of the accumulator
    bool accumulate = true;        // enable-input-d
    int scale_shift = 0;           // scale-input-d: D is multiplied by 2^-scale_shift first
    uint32_t disabled[8] = {};     // disable-output-lane: bit per lane, four words per CTA
};
void tc_run(const TcInstr& spec, int ctas, const TcOperands& operands);
// kind::i8: the same on integers.
struct TcIntOperands {
    const int32_t* a = nullptr;
    const int32_t* b = nullptr;
    TensorMemory* memory[2] = {};
    int lane = 0, column = 0;
    bool accumulate = true;
    uint32_t disabled[8] = {};
};
void tc_run(const TcInstr& spec, int ctas, const TcIntOperands& operands);
// Operand A in tensor memory: row m of this CTA in lane m, elements packed along the columns.
void tc_a_from_tmem(const TcInstr& spec, TensorMemory& memory, int lane, int column, int rows,
                    float* tile);
void tc_a_from_tmem(const TcInstr& spec, TensorMemory& memory, int lane, int column, int rows,
                    int32_t* tile);

}  // namespace emu
