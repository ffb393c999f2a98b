// SPDX-License-Identifier: BSD-3-Clause
// Decoders of asynchronous instructions whose base opcode another family registers: that family's
// decoder calls these. mbarrier, wgmma, tcgen05, tensormap and clusterlaunchcontrol register
// themselves.
#pragma once
#include "check/races.h"
#include "exec/decode.h"

namespace emu {

// cp.async.bulk.*, cp.reduce.async.bulk.*, cp.async.bulk.{commit,wait}_group,
// cp.async.mbarrier.arrive*: called for every "cp" that is not cp.async.{ca,cg},
// cp.async.{commit_group,wait_group,wait_all}.
Instr decode_cp_bulk(const ptx::Statement&, DecodeContext&);
// fence.proxy.*, fence.mbarrier_init.*: called for every "fence" with one of these as its second
// part.
Instr decode_fence_proxy(const ptx::Statement&, DecodeContext&);
// st.async.*, red.async.*: called when the second part is "async".
Instr decode_st_async(const ptx::Statement&, DecodeContext&);
Instr decode_red_async(const ptx::Statement&, DecodeContext&);

// Called by cp.async.mbarrier.arrive: every cp.async that `lane` of `warp` has issued so far is
// complete (all of them are made so by `finish`, which the cp.async family provides).
struct CpAsyncHooks {
    // True when no cp.async issued by the lane before `mark` is pending.
    bool (*finished)(Warp& warp, int lane, uint64_t mark) = nullptr;
    uint64_t (*mark)(Warp& warp, int lane) = nullptr;  // number of cp.async the lane has issued
    void (*finish)(Warp& warp, int lane, uint64_t mark) = nullptr;  // completes them now
    // Where the race detector sees them; null when it is off.
    check::Channel* (*channel)(Warp& warp) = nullptr;
};
CpAsyncHooks&
cp_async_hooks();  // defined in bulk_async.cpp, filled by the cp.async family at start-up

}  // namespace emu
