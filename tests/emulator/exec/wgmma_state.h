// SPDX-License-Identifier: BSD-3-Clause
// What a warp knows of its wgmma operations; kept in its slot kSlotWgmma.
#pragma once
#include <cstdint>
#include <deque>

#include "check/registers.h"

namespace emu {

struct WarpWgmma {
    uint64_t issued = 0;             // operations of the warpgroup that this warp has issued
    uint64_t batch = 0;              // group being filled
    std::deque<uint64_t> groups;     // committed and not waited for: `issued` at each commit
    check::InFlightRegisters loads;  // destinations of tcgen05.ld, until tcgen05.wait::ld
    uint64_t load_batch = 0;
    check::InFlightRegisters in_flight;  // by index into Function::registers
};

}  // namespace emu
