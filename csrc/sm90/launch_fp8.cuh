// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "sm90/fwd_fp8.cuh"
#include "sm90/launch.cuh"

namespace limelight::sm90 {

template <int kHeadDim, int kHeadDimV>
Status launch_fwd_fp8(FwdParams params, int sm_count, cudaStream_t stream) {
    using Change = Fp8Config<kHeadDim, kHeadDimV, Scores::kChange>;
    using Plain = Fp8Config<kHeadDim, kHeadDimV, Scores::kPlain>;
    return changes_scores(params)
               ? launch_kernel<Change>(sm90_attention_fwd_fp8<Change>, params, sm_count, stream)
               : launch_kernel<Plain>(sm90_attention_fwd_fp8<Plain>, params, sm_count, stream);
}

}  // namespace limelight::sm90
