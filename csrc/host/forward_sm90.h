// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "attention/params.h"
#include "host/device.h"

namespace limelight {

// Launches the kernel of csrc/sm90 for a call that check_sm90_forward passes.
Status launch_sm90_forward(const AttentionParams& call, const Device& device, cudaStream_t stream);

// Bytes of split_workspace that it uses for a call of these extents and options.
size_t sm90_forward_workspace(const AttentionParams& call, const Device& device);

// The rows of the family for tables of kernels.
std::vector<KernelInfo> describe_sm90_forward();

}  // namespace limelight
