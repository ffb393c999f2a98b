// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "sm90/fwd_fp8.cuh"
#include "sm90/launch.cuh"

namespace limelight::sm90 {

template <int kHeadDim, int kHeadDimV>
Status launch_fwd_fp8(FwdParams params, const WorkPlan& plan, cudaStream_t stream) {
    using Change = Fp8Config<kHeadDim, kHeadDimV, Scores::kChange>;
    using Plain = Fp8Config<kHeadDim, kHeadDimV, Scores::kPlain>;
    return changes_scores(params)
               ? launch_kernel<Change>(sm90_attention_fwd_fp8<Change>, params, plan, stream)
               : launch_kernel<Plain>(sm90_attention_fwd_fp8<Plain>, params, plan, stream);
}

}  // namespace limelight::sm90
