// SPDX-License-Identifier: BSD-3-Clause
// What the asynchronous families share: lane addresses, mbarriers in shared memory, checks of an
// operation in flight.
#pragma once
#include <string>

#include "exec/checks.h"
#include "exec/lanes.h"
#include "units/mbarrier.h"

namespace emu {

// A decoded address operand: base register, its width, constant offset.
struct AddressRef {
    Ref base = kNoRef;
    bool wide = true;
    int64_t offset = 0;
    bool present() const { return base != kNoRef; }
    uint64_t at(Warp& w, int lane) const {
        const uint64_t b = wide ? w.u64(base)[lane] : w.u32(base)[lane];
        return b + static_cast<uint64_t>(offset);
    }
};
AddressRef decode_address(DecodeContext& ctx, const ptx::Operand& operand, ptx::Space space);

// 32-bit shared address of a lane's shared or generic address; faults when the address is not in
// shared memory.
uint32_t shared_address(Warp& w, uint64_t address, int lane);
inline uint32_t rank_of(uint32_t shared) {
    return shared >> kRankShift;
}
// The same place in the window of the CTA of `rank`.
inline uint32_t with_rank(uint32_t shared, uint32_t rank) {
    return (shared & kSharedOffsetMask) | rank << kRankShift;
}

// Host address of global memory, checked.
uint8_t* global_pointer(Warp& w, uint64_t address, uint64_t bytes, bool write, int lane);
// Host address of shared memory of any CTA of the cluster, checked for bounds.
uint8_t* shared_pointer(Warp& w, uint32_t address, uint64_t bytes, int lane);

// What is known of an mbarrier beyond its 64 bits.
struct BarrierState {
    uint64_t generation = 0;  // phases completed since init
    uint64_t in_flight = 0;   // bytes of copies that were issued in this phase and have not landed
    check::MbarrierSync sync;
    bool opened = false;  // sync.channel has an agent
};
BarrierState& barrier_state(Cluster& cluster, uint32_t address);

enum class BarrierOp : uint8_t {
    init,
    invalidate,
    arrive,
    arrive_drop,
    expect_tx,
    complete_tx,
    raise_pending
};
// Performs the operation for a lane of the running instruction; faults on misuse. tx: bytes of
// arrive.expect_tx.
MbarrierResult barrier_apply(Warp& w, uint32_t address, int lane, BarrierOp op, uint32_t count,
                             uint32_t tx = 0, bool release = true);
// A copy that will complete `bytes` on the barrier is issued; returns the generation it belongs to.
uint64_t barrier_copy_issued(Cluster& cluster, uint32_t address, uint64_t bytes);
// An operation in flight, issued at `pc` while the barrier was in phase `issued`, signals the
// barrier.
void barrier_bytes_landed(Warp& issuer, uint32_t pc, uint32_t address, uint32_t bytes,
                          uint64_t issued);
void barrier_arrival_landed(Warp& issuer, uint32_t pc, uint32_t address, uint32_t count);
uint64_t barrier_word(Warp& w, uint32_t address, int lane);

// A fault found when an operation completes: its position is that of the issuing instruction.
[[noreturn]] void fail_at(Warp& issuer, uint32_t pc, int error, const std::string& text,
                          int lane = -1);

}  // namespace emu
