// SPDX-License-Identifier: BSD-3-Clause
#include "gemm/launch.cuh"

namespace limelight::gemm {

template Status launch_flat<WeightFormat::kInt4>(const GemmParams& params, cudaStream_t stream);
template Status launch_gemv<WeightFormat::kInt4>(const GemmParams& params, cudaStream_t stream);

}  // namespace limelight::gemm
