// SPDX-License-Identifier: BSD-3-Clause
#include "gemm/launch.cuh"

namespace limelight::gemm {

template Status launch_flat<WeightFormat::kFloat8E4M3>(const GemmParams& params,
                                                       cudaStream_t stream);
template Status launch_gemv<WeightFormat::kFloat8E4M3>(const GemmParams& params,
                                                       cudaStream_t stream);

}  // namespace limelight::gemm
