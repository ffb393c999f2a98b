// SPDX-License-Identifier: BSD-3-Clause
// Addresses of a warp instruction, resolved to host memory.
#pragma once
#include "exec/lanes.h"
#include "exec/observe.h"

namespace emu {

// ld/st/atom/red modifiers up to the type: space, semantics, scope, vector width, type.
MemoryOp decode_memory(const ptx::Statement& s, DecodeContext& c, const ptx::Operand& address,
                       std::initializer_list<std::string_view> more = {});

// Addresses of the lanes, in the instruction's own space.
inline void lane_addresses(Warp& w, const MemoryOp& m, uint64_t* out) {
    if (m.wide) {
        const uint64_t* base = w.u64(m.base);
        for (int l = 0; l < kLanes; ++l) {
            out[l] = base[l] + static_cast<uint64_t>(m.offset);
        }
    } else {
        const uint32_t* base = w.u32(m.base);
        for (int l = 0; l < kLanes; ++l) {
            out[l] = base[l] + static_cast<uint32_t>(m.offset);
        }
    }
}

struct Resolved {
    uint8_t* host[kLanes];  // valid for the active lanes
    uint64_t address[kLanes];
};

// Host pointers of the active lanes after all checks; `values` as in observe_access.
void resolve(Warp& w, const MemoryOp& m, Touch touch, uint32_t active, uint32_t bytes,
             const void* values, Resolved& r);

// The same for addresses that r already holds.
void resolve_addresses(Warp& w, const MemoryOp& m, Touch touch, uint32_t active, uint32_t bytes,
                       const void* values, Resolved& r);

// After a strong access was performed: what it read may be an acquire.
void acquired(Warp& w, const MemoryOp& m, bool atomic, uint32_t active, const Resolved& r);

// The host address behind one generic address.
uint8_t* resolve_generic(Warp& w, uint64_t address, uint64_t bytes, int lane);

}  // namespace emu
