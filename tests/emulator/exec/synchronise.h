// SPDX-License-Identifier: BSD-3-Clause
// Ends of lanes, register budgets, saved frames, and what checks hear about synchronisation.
#pragma once
#include "exec/decode.h"

namespace emu {

void leave(Warp& warp, uint32_t lanes);  // exit, or ret of the kernel
void set_max_registers(Warp& warp, uint32_t count, bool increase);
// Functions have one place for their registers and frames. A recursive program therefore saves the
// caller's at each call, before arguments are copied, and moves on to fresh local memory.
Return enter_call(Warp& warp, uint32_t back, uint32_t lanes,
                  std::vector<std::pair<uint32_t, uint32_t>> results);
void leave_call(Warp& warp, const Return& call, uint32_t lanes);
void complete_barrier(Cta& cta, uint32_t id);  // every expected warp has arrived
void check_cluster_barrier(Cluster& cluster);  // after an arrival or an exit
Instr decode_cluster_barrier(const ptx::Statement&, DecodeContext&);
void observe_fence(Warp& warp, uint32_t scope);

}  // namespace emu
