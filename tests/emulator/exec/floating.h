// SPDX-License-Identifier: BSD-3-Clause
// Decoders of float forms whose base opcode integers share.
#pragma once
#include "exec/decode.h"

namespace emu {

Instr decode_float_add(const ptx::Statement&, DecodeContext&);
Instr decode_float_sub(const ptx::Statement&, DecodeContext&);
Instr decode_float_mul(const ptx::Statement&, DecodeContext&);
Instr decode_float_fma(const ptx::Statement&, DecodeContext&);
Instr decode_float_div(const ptx::Statement&, DecodeContext&);
Instr decode_float_abs(const ptx::Statement&, DecodeContext&);
Instr decode_float_neg(const ptx::Statement&, DecodeContext&);
Instr decode_float_min(const ptx::Statement&, DecodeContext&);
Instr decode_float_max(const ptx::Statement&, DecodeContext&);

// f16, f16x2, bf16, bf16x2 (exec/half.cpp); nullptr handler when the form is unknown.
enum class HalfOp : uint8_t { add, sub, mul, fma, abs, neg, min, max, ex2, tanh };
Instr decode_half(const ptx::Statement&, DecodeContext&, HalfOp op);
bool is_half(ptx::Type type);

}  // namespace emu
