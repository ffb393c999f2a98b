// SPDX-License-Identifier: BSD-3-Clause
#include "sm90/launch.cuh"

namespace limelight::sm90 {

template Status launch_fwd<96, 96>(FwdParams params, const WorkPlan& plan, cudaStream_t stream);

}  // namespace limelight::sm90
