// SPDX-License-Identifier: BSD-3-Clause
#include "sm90/launch_fp8.cuh"

namespace limelight::sm90 {

template Status launch_fwd_fp8<256, 256>(FwdParams params, const WorkPlan& plan,
                                         cudaStream_t stream);

}  // namespace limelight::sm90
