// SPDX-License-Identifier: BSD-3-Clause
#include "sm80/launch.cuh"

namespace limelight::sm80 {

template Status launch_fwd<64, kBuildTiles>(FwdParams params, cudaStream_t stream);
template Status probe_fwd<64, kBuildTiles>();

}  // namespace limelight::sm80
