// SPDX-License-Identifier: BSD-3-Clause
#include "sm80/launch_bwd.cuh"

namespace limelight::sm80 {

template Status launch_bwd<256, kBuildTiles>(BwdParams params, cudaStream_t stream);

}  // namespace limelight::sm80
