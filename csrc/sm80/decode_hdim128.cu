// SPDX-License-Identifier: BSD-3-Clause
#include "sm80/launch_decode.cuh"

namespace limelight::sm80 {

template Status launch_decode<128, kBuildTiles>(const DecodeCall& call, cudaStream_t stream);

}  // namespace limelight::sm80
