// SPDX-License-Identifier: BSD-3-Clause
#include "host/select.h"

#include "host/device.h"

namespace limelight {

Status select_sm80_tiles(sm80::Tiles* tiles) {
    Device device;
    if (const Status status = current_device(&device); !status.ok()) {
        return status;
    }
    if (device.capability < 80) {
        return Status::error(Status::Code::kUnsupported,
                             "compute capability %d.%d: limelight's kernels need 8.0 or newer",
                             device.capability / 10, device.capability % 10);
    }
    const auto smem = static_cast<size_t>(device.smem_per_block);
    *tiles =
        smem >= sm80::smem_limit(sm80::Tiles::kLarge) ? sm80::Tiles::kLarge : sm80::Tiles::kSmall;
    return {};
}

}  // namespace limelight
