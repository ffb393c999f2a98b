// SPDX-License-Identifier: BSD-3-Clause
// What the two files of tcgen05 share.
#pragma once
#include "exec/async_support.h"
#include "exec/tcgen05_state.h"

namespace emu {

Instr decode_tcgen05_mma(const ptx::Statement& s, DecodeContext& ctx);
CtaTensorMemory& tensor_memory_of(Cta& cta);
// Faults unless lanes x columns at `address` lie inside tensor memory and the columns are
// allocated.
void tmem_need(Warp& w, Cta& cta, uint32_t address, int lanes, int columns, const char* what);
void tc_submit(Warp& w, CtaTensorMemory& t, const std::shared_ptr<TcOp>& op, int lane);
check::Channel& tc_channel(check::ClusterRaces& races, TcPipeline& pipeline);

}  // namespace emu
