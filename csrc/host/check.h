// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "attention/params.h"
#include "limelight/decode.h"

namespace limelight {

// Limits of extents, heads and options that every call keeps, whatever the kernel.
Status check_extents(const AttentionParams& params);

// Those, and pointers that must not be null.
Status check_attention(const AttentionParams& params);

// Limits of the kernels of csrc/sm80: features they lack, alignment of cp.async.
Status check_sm80_forward(const AttentionParams& params);

// Limits of the kernels of csrc/sm90: the same features, and tensors that tensor maps express.
Status check_sm90_forward(const AttentionParams& params);

// Those of its FP8 kernels, for calls whose dtype is kFloat8E4M3.
Status check_sm90_fp8_forward(const AttentionParams& params);

// Limits of a backward call.
Status check_backward(const AttentionBackwardParams& params);
Status check_sm80_backward(const AttentionBackwardParams& params);

// What the decode kernels need of extents and options, and then of the tensors too.
Status check_decode_options(const DecodeParams& params);
Status check_decode(const DecodeParams& params);

}  // namespace limelight
