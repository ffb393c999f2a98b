// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "limelight/status.h"

namespace limelight {

struct Device {
    int index;
    int capability;  // 10 * major + minor
    int sm_count;
    int smem_per_block;  // bytes a thread block may opt into
    int smem_per_multiprocessor;
};

// Facts about the current device, asked once per device.
Status current_device(Device* device);

}  // namespace limelight
