// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda_runtime_api.h>

#include "decode/params.h"

namespace limelight::decode {

// Writes call.schedule; instantiated in schedule.cu.
Status launch_schedule(const DecodeCall& call, cudaStream_t stream);

// Instantiated in combine.cu.
Status launch_combine(const CombineCall& call, cudaStream_t stream);

}  // namespace limelight::decode
