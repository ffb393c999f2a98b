// SPDX-License-Identifier: BSD-3-Clause
// Ends of lanes, register budgets, saved frames, and what checks hear about synchronisation.
#pragma once
#include "exec/decode.h"

namespace emu {

void leave(Warp& warp, uint32_t lanes);  // exit, or ret of the kernel
void set_max_registers(Warp& warp, uint32_t count, bool increase);
// A function that is already active for these lanes (recursion) has its registers and frame saved
// on entry.
void save_frame(Warp& warp, uint32_t function, uint32_t lanes);
void restore_frame(Warp& warp, uint32_t lanes);
void complete_barrier(Cta& cta, uint32_t id);  // every expected warp has arrived
void check_cluster_barrier(Cluster& cluster);  // after an arrival or an exit
Instr decode_cluster_barrier(const ptx::Statement&, DecodeContext&);
void observe_fence(Warp& warp, uint32_t scope);

}  // namespace emu
