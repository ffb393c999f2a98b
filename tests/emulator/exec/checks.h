// SPDX-License-Identifier: BSD-3-Clause
// The machine's side of check/: what is kept per launch and per cluster, and the hooks that
// families call. Every hook is cheap when its check is off. observe.h has the hooks of plain memory
// accesses.
#pragma once
#include <memory>
#include <vector>

#include "check/allocations.h"
#include "check/init.h"
#include "check/races.h"
#include "exec/machine.h"

namespace emu {

struct LaunchChecks : check::SourceMap {
    explicit LaunchChecks(Launch& launch);
    ~LaunchChecks() override;
    check::Location locate(uint32_t pc) const override;

    const Program& program;
    check::LaunchInfo info;
    check::Allocations* allocations;  // nullptr: bounds are not checked
    uint64_t arguments;
    std::unique_ptr<check::GlobalShadow> shadow;
    struct RegisterUse {
        uint32_t reg;  // index into Function::registers
        bool write;
    };
    std::vector<std::vector<RegisterUse>>
        uses;  // by pc, of registers that some wgmma names; empty without wgmma

    // A read of shared memory that nobody wrote is kept until the kernel shows its cause: when a
    // later write proves to race with the read, that race is the better report.
    void unwritten(Fault fault);
    // What to report when this fault ends the launch.
    Fault explain(const Fault& fault);
    // Throws the kept fault, if any.
    void settle();

  private:
    std::mutex mutex_;
    std::unique_ptr<Fault> unwritten_;
};

struct ClusterChecks {
    std::unique_ptr<check::ClusterRaces> races;  // nullptr: off
    std::vector<check::InitMap> init;            // by rank; empty: off
    check::AllocationCache cache;
    std::vector<std::array<check::BarrierSync, kBarriers>> named;  // by rank
    check::BarrierSync whole;                                      // barrier.cluster
};

// exec::launch: begin after Launch is filled in; end before it goes, fault or not.
void checks_begin(Launch& launch);
void checks_end(Launch& launch);
// A cluster: begin once its CTAs and warps exist (sets Warp::agent); end when all its warps have
// exited without a fault, throws for asynchronous work that nobody waited for.
void checks_begin(Cluster& cluster);
void checks_end(Cluster& cluster);

inline LaunchChecks* checks_of(const Launch& launch) {
    return static_cast<LaunchChecks*>(launch.checks);
}
ClusterChecks* checks_of(Cluster& cluster);       // nullptr: all off
check::ClusterRaces* races_of(Cluster& cluster);  // nullptr: races are off
check::Site site_of(const Warp& warp, uint32_t pc, int lane);
const check::LaunchInfo& info_of(const Warp& warp);  // names and shapes for check/'s fault texts

// After a strong load or an atomic was performed: what it read may be an acquire. (Its release
// part, and the race check, are in observe_access before it.) Only for op.strong, and not for
// floating-point atomics.
struct MemoryOp;
void check_acquired(Warp& warp, const MemoryOp& op, bool atomic, ptx::Space space,
                    const uint64_t* address, uint32_t mask);

// Ranges that asynchronous units touch, for bounds and initialisation (races go through races_of).
// `warp` and `pc` are the issuer's. Shared: 32-bit shared addresses inside the window.
void check_global_range(Warp& warp, uint32_t pc, uint64_t address, uint64_t bytes, bool write,
                        int lane = -1);
void check_shared_read(Warp& warp, uint32_t pc, uint32_t address, uint64_t bytes);
void check_shared_written(Cluster& cluster, uint32_t address, uint64_t bytes);

}  // namespace emu
