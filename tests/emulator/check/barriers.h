// SPDX-License-Identifier: BSD-3-Clause
// Misuse of barriers: the rules the ISA leaves undefined, stated as faults (cudaErrorLaunchFailure
// unless noted).
#pragma once
#include <cstdint>
#include <string>

#include "check/report.h"

namespace emu::check {

// bar.{sync,arrive,red} id, count of one CTA. Keeps what is expected of the current generation of
// each barrier.
class NamedBarriers {
  public:
    static constexpr uint32_t kBarriers = 16;
    // count: threads (0 = all of the CTA, as when the operand is absent). Throws when id >= 16,
    // when count is no multiple of 32 or beyond the CTA, when it differs from the count of arrivals
    // still waiting, when the warp has already arrived in this generation. Returns true when this
    // arrival completes the generation.
    bool arrive(const LaunchInfo& launch, const Site& site, uint32_t id, uint32_t count, bool sync);
    uint32_t arrived(uint32_t id) const { return barriers_[id].arrived; }
    uint32_t expected(uint32_t id) const { return barriers_[id].expected; }
    // At the end of the CTA: a barrier with arrivals that nobody completed (bar.arrive without
    // partner).
    void at_exit(const LaunchInfo& launch, uint64_t cta) const;

  private:
    struct State {
        uint32_t expected = 0, arrived = 0;  // threads
        uint64_t arrived_warps = 0;          // bit per warp
        Site first;
    };
    State barriers_[kBarriers];
};

constexpr int64_t kMaxTxCount =
    (1 << 20) - 1;  // range of the tx-count: -kMaxTxCount .. kMaxTxCount
constexpr uint32_t kMaxArrivals =
    (1 << 20) - 1;  // range of the expected arrival count: 1 .. kMaxArrivals

namespace mbarrier {
// where: "mbarrier at shared+0x40 (block (0,0,0))".
std::string name(const LaunchInfo& launch, uint64_t cta, uint64_t offset);
Fault bad_init_count(const LaunchInfo& launch, const Site& site, const std::string& where,
                     uint64_t count);
Fault not_initialised(const LaunchInfo& launch, const Site& site, const std::string& where);
Fault init_of_live(const LaunchInfo& launch, const Site& site, const std::string& where);
Fault too_many_arrivals(const LaunchInfo& launch, const Site& site, const std::string& where,
                        uint64_t count, uint64_t pending, uint64_t expected);
Fault tx_count_range(const LaunchInfo& launch, const Site& site, const std::string& where,
                     int64_t tx_count);
// Bytes arrive at a phase that did not expect them: the expect_tx of an earlier phase was too small
// (or missing).
Fault unexpected_bytes(const LaunchInfo& launch, const Site& site, const std::string& where,
                       int64_t bytes, int64_t tx_count);
Fault misaligned(const LaunchInfo& launch, const Site& site, const std::string& where);
// A waiter of phase `waited` still waits when `now` phases have ended: it can no longer see its
// phase end.
Fault phase_overrun(const LaunchInfo& launch, const Site& site, const std::string& where,
                    uint64_t waited, uint64_t now);
}  // namespace mbarrier

// .aligned (or .sync with a mask that names other lanes) executed by `active` although `needed`
// must.
Fault divergent_aligned(const LaunchInfo& launch, const Site& site, uint32_t active,
                        uint32_t needed);
// Async work nobody waited for when the warp, CTA or cluster ended.
Fault unfinished_async(const LaunchInfo& launch, const Site& site, const std::string& what);

}  // namespace emu::check
