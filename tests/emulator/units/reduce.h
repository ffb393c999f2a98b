// SPDX-License-Identifier: BSD-3-Clause
// Element-wise reductions into memory: cp.reduce.async.bulk, red.async.
#pragma once

#include <cstdint>

namespace emu {

enum class ReduceOp : uint8_t { add, min, max, inc, dec, bit_and, bit_or, bit_xor };
enum class ReduceType : uint8_t { u32, s32, u64, s64, f16, bf16, f32, f64, b32, b64 };

int reduce_type_bytes(ReduceType type);
bool reduce_op_from_text(const char* text, ReduceOp& out);
bool reduce_type_from_text(const char* text, ReduceType& out);

// *at = op(*at, *value), atomic among host threads. f32 additions keep subnormals.
void reduce_element(ReduceOp op, ReduceType type, void* at, const void* value);

}  // namespace emu
