// SPDX-License-Identifier: BSD-3-Clause
#include "sm80/launch.cuh"

namespace limelight::sm80 {

template Status launch_fwd<192, kBuildTiles>(FwdParams params, cudaStream_t stream);

}  // namespace limelight::sm80
