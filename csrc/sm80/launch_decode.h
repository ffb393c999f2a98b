// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda_runtime_api.h>

#include "decode/params.h"
#include "sm80/decode_tiles.h"

namespace limelight::sm80 {

// Launches the kernel of one row of kDecodeTiles, call.plan.tile_rows rows; instantiated in
// decode_hdim<N>.cu, once per set of tiles.
template <int kHeadDim, Tiles kTiles>
Status launch_decode(const DecodeCall& call, cudaStream_t stream);

// Launches the kernel of one row of kMlaTiles, likewise; in decode_mla.cu.
template <Tiles kTiles>
Status launch_decode_mla(const DecodeCall& call, cudaStream_t stream);

}  // namespace limelight::sm80
