// SPDX-License-Identifier: BSD-3-Clause
// The one place where instructions meet the checks (check/) and the costly counters
// (runtime/counters.h).
#pragma once
#include "exec/machine.h"

namespace emu {

enum class Touch : uint8_t { load, store, atomic };

// What an instruction does to memory; part of the decoded instruction.
struct MemoryOp {
    ptx::Space space = ptx::Space::none;  // none: generic
    ptx::Type type = ptx::Type::b32;
    uint8_t bytes = 4;  // of one element
    uint8_t count = 1;  // elements
    uint8_t register_bytes = 4;
    bool sign = false;    // loads sign-extend to the register
    bool strong = false;  // volatile, relaxed, acquire, release, atomics
    bool acquire = false, release = false;
    bool vector_wide = false;
    uint8_t scope = 0;  // 0 none or cta, 1 cluster, 2 gpu, 3 sys
    bool read_only = false;
    Ref data[8] = {kNoRef, kNoRef, kNoRef, kNoRef, kNoRef, kNoRef, kNoRef, kNoRef};
    Ref base = kNoRef;
    bool wide = true;  // base is uint64_t[32]
    int64_t offset = 0;
};

// A warp instruction touches bytes = op.bytes * op.count at address[lane] of the lanes in mask, all
// of one space (global: host addresses; shared: 32-bit shared addresses). values: what a store
// writes, lane after lane. Called before the access when warp.checks or warp.counting; throws
// Fault.
void observe_access(Warp& warp, const MemoryOp& op, Touch touch, ptx::Space space,
                    const uint64_t* address, uint32_t mask, uint32_t bytes, const void* values);
// A .sync or .aligned instruction is executed by `active` although `needed` must take part.
void observe_divergent(Warp& warp, uint32_t active, uint32_t needed);
// Before an instruction while a wgmma is in flight: does it touch a register that the wgmma still
// uses?
void observe_registers(Warp& warp);
void observe_barrier_arrive(Warp& warp, uint32_t id, uint32_t count, bool sync, int lane);
void observe_barrier_complete(Cta& cta, uint32_t id);
void observe_barrier_wait(Warp& warp, uint32_t id);  // the warp goes on behind bar
void observe_cluster_arrive(Warp& warp, bool release);
void observe_cluster_complete(Cluster& cluster);
void observe_cluster_wait(Warp& warp);
void observe_warp_sync(Warp& warp);  // lanes pass a bar.warp.sync

}  // namespace emu
