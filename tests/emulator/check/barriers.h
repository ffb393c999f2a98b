// SPDX-License-Identifier: BSD-3-Clause
// Misuse of barriers: the rules the ISA leaves undefined, stated as faults (cudaErrorLaunchFailure
// unless noted).
#pragma once
#include <cstdint>
#include <string>

#include "check/report.h"

namespace emu::check {

// bar.{sync,arrive,red} and barrier.*; counts are in threads.
namespace bar {
// Throws when id >= 16, count is no multiple of 32, is 0 or exceeds the threads of the CTA
// (barrier.cta.* alike).
void check_operands(const LaunchInfo& launch, const Site& site, uint32_t id, uint32_t count);
// This arrival names another count than those that still wait at the barrier.
Fault count_mismatch(const LaunchInfo& launch, const Site& site, uint32_t id, uint32_t count,
                     uint32_t expected, uint32_t arrived);
// More threads arrive than the barrier expects in this generation.
Fault too_many(const LaunchInfo& launch, const Site& site, uint32_t id, uint32_t arrived,
               uint32_t expected);
// The warp arrives again before the generation of its earlier arrival is complete.
Fault arrived_twice(const LaunchInfo& launch, const Site& site, uint32_t id);
// The CTA ended while arrivals at a barrier were never completed (bar.arrive without a partner).
Fault unfinished(const LaunchInfo& launch, const Site& first, uint32_t id, uint32_t arrived,
                 uint32_t expected);
}  // namespace bar

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
