// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda_runtime_api.h>

#include "gemm/params.h"

namespace limelight::gemm {

// Launches the kernel for the call's m; instantiated in gemm_<format>.cu.
template <WeightFormat kFormat>
Status launch_flat(const GemmParams& params, cudaStream_t stream);

template <WeightFormat kFormat>
Status launch_gemv(const GemmParams& params, cudaStream_t stream);

// The flat kernel of compute capability 9.0 for 16-bit weights; instantiated in gemm_sm90.cu.
Status launch_flat_sm90(const GemmParams& params, cudaStream_t stream);

}  // namespace limelight::gemm
