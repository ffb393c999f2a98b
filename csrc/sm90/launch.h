// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda_runtime_api.h>

#include "attention/params.h"
#include "sm90/fwd_fp8_tiles.h"
#include "sm90/plan.h"

namespace limelight::sm90 {

// Launches the kernel of one row of kFwdTiles; instantiated in fwd_hdim<N>.cu.
template <int kHeadDim, int kHeadDimV>
Status launch_fwd(FwdParams params, const WorkPlan& plan, cudaStream_t stream);

// The same of kFp8Tiles, in fwd_fp8_hdim<N>.cu.
template <int kHeadDim, int kHeadDimV>
Status launch_fwd_fp8(FwdParams params, const WorkPlan& plan, cudaStream_t stream);

}  // namespace limelight::sm90
