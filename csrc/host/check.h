// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "attention/params.h"

namespace limelight {

// Limits that every call keeps, whatever the kernel: extents, heads, pointers that must not be
// null.
Status check_attention(const AttentionParams& params);

// Limits of the kernels of csrc/sm80: features they lack, alignment of cp.async.
Status check_sm80_forward(const AttentionParams& params);

// Limits of the kernels of csrc/sm90: the same features, and tensors that tensor maps express.
Status check_sm90_forward(const AttentionParams& params);

// Limits of a backward call.
Status check_backward(const AttentionBackwardParams& params);
Status check_sm80_backward(const AttentionBackwardParams& params);

}  // namespace limelight
