// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda_runtime_api.h>

#include "attention/params.h"
#include "sm80/fwd_tiles.h"

namespace limelight::sm80 {

// Whether a call needs the kernels of Scores::kChange.
inline bool changes_scores(const AttentionParams& call) {
    return call.softcap > 0.0f || call.alibi_slopes != nullptr || call.bias != nullptr ||
           call.dropout_p > 0.0 || !(call.softmax_scale > 0.0f);
}

// Launches the kernel of one row of kFwdTiles; instantiated in fwd_hdim<N>.cu, once per set of
// tiles.
template <int kHeadDim, Tiles kTiles>
Status launch_fwd(FwdParams params, cudaStream_t stream);

// Launches the kernel that every backward call starts with; instantiated in bwd_prepare.cu.
template <Tiles kTiles>
Status launch_bwd_prepare(BwdParams params, cudaStream_t stream);

// Launches the kernels of one row of kBwdTiles; instantiated in bwd_hdim<N>.cu.
template <int kHeadDim, Tiles kTiles>
Status launch_bwd(BwdParams params, cudaStream_t stream);

// Whether the current device can load that kernel; launches nothing.
template <int kHeadDim, Tiles kTiles>
Status probe_fwd();

}  // namespace limelight::sm80
