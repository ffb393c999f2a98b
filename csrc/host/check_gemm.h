// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "limelight/gemm.h"

namespace limelight {

// Rows that weight and bias have.
inline int64_t weight_rows(const FlatGemmParams& p) {
    return p.activation == Activation::kSwiGLU ? 2 * int64_t{p.n} : int64_t{p.n};
}

// Limits of extents, kernel and splits, which need no pointers.
Status check_flat_gemm_extents(const FlatGemmParams& params);

// Everything that can be known before the launch.
Status check_flat_gemm(const FlatGemmParams& params);

}  // namespace limelight
