// SPDX-License-Identifier: BSD-3-Clause
#include "check/barriers.h"

#include <cstdio>

namespace emu::check {
namespace {

Fault launch_failure(const std::string& text, const LaunchInfo& launch, const Site& site,
                     const std::string& details = {}) {
    return fault_at(fault::kLaunchFailure, text, launch, site, details);
}

std::string of_threads(uint32_t arrived, uint32_t expected) {
    return std::to_string(arrived) + " of " + std::to_string(expected) + " threads";
}

std::string barrier_name(uint32_t id) {
    return "barrier " + std::to_string(id);
}

}  // namespace

namespace bar {

void check_operands(const LaunchInfo& launch, const Site& site, uint32_t id, uint32_t count) {
    if (id >= 16) {
        throw launch_failure(
            "wrong barrier: " + barrier_name(id) + " does not exist, a block has 0-15", launch,
            site);
    }
    const uint32_t most = launch.warps() * 32;
    if (count == 0 || count % 32 != 0 || count > most) {
        throw launch_failure("wrong count at " + barrier_name(id) + ": " + std::to_string(count) +
                                 " threads; it must be a multiple of 32 up to the block's " +
                                 std::to_string(most),
                             launch, site);
    }
}

Fault count_mismatch(const LaunchInfo& launch, const Site& site, uint32_t id, uint32_t count,
                     uint32_t expected, uint32_t arrived) {
    return launch_failure("wrong count at " + barrier_name(id) + ": this warp expects " +
                              std::to_string(count) + " threads, those that wait expect " +
                              std::to_string(expected) + " (" + of_threads(arrived, expected) +
                              " arrived)",
                          launch, site);
}

Fault too_many(const LaunchInfo& launch, const Site& site, uint32_t id, uint32_t arrived,
               uint32_t expected) {
    return launch_failure("wrong count at " + barrier_name(id) + ": " +
                              of_threads(arrived, expected) + " arrived, more than it expects",
                          launch, site);
}

Fault arrived_twice(const LaunchInfo& launch, const Site& site, uint32_t id) {
    return launch_failure(
        "the warp arrives twice at " + barrier_name(id) + " before the barrier completes", launch,
        site);
}

Fault unfinished(const LaunchInfo& launch, const Site& first, uint32_t id, uint32_t arrived,
                 uint32_t expected) {
    return launch_failure("the block ended while " + barrier_name(id) +
                              " was incomplete: " + of_threads(arrived, expected) + " arrived",
                          launch, first);
}

}  // namespace bar

namespace mbarrier {

std::string name(const LaunchInfo& launch, uint64_t cta, uint64_t offset) {
    char text[32];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(offset));
    return "mbarrier at shared+" + std::string(text) + " of block " + block_text(launch, cta);
}

Fault bad_init_count(const LaunchInfo& launch, const Site& site, const std::string& where,
                     uint64_t count) {
    return launch_failure("wrong count in the init of the " + where + ": " + std::to_string(count) +
                              " arrivals; allowed are 1 to " + std::to_string(kMaxArrivals),
                          launch, site);
}

Fault not_initialised(const LaunchInfo& launch, const Site& site, const std::string& where) {
    return launch_failure("the " + where + " is used but was not initialised (or was invalidated)",
                          launch, site);
}

Fault init_of_live(const LaunchInfo& launch, const Site& site, const std::string& where) {
    return launch_failure("the " + where + " is initialised again while it is in use", launch,
                          site);
}

Fault too_many_arrivals(const LaunchInfo& launch, const Site& site, const std::string& where,
                        uint64_t count, uint64_t pending, uint64_t expected) {
    return launch_failure("too many arrivals at the " + where + ": " + std::to_string(count) +
                              " more, but the phase waits for " + std::to_string(pending) + " of " +
                              std::to_string(expected),
                          launch, site);
}

Fault tx_count_range(const LaunchInfo& launch, const Site& site, const std::string& where,
                     int64_t tx_count) {
    return launch_failure("tx-count overflow at the " + where + ": " + std::to_string(tx_count) +
                              " bytes; the range is -" + std::to_string(kMaxTxCount) + " to " +
                              std::to_string(kMaxTxCount),
                          launch, site);
}

Fault unexpected_bytes(const LaunchInfo& launch, const Site& site, const std::string& where,
                       int64_t bytes, int64_t tx_count) {
    return launch_failure("tx-count too small at the " + where + ": " + std::to_string(bytes) +
                              " bytes arrive, but the phase expects " + std::to_string(tx_count) +
                              "; expect_tx did not name all the bytes",
                          launch, site);
}

Fault misaligned(const LaunchInfo& launch, const Site& site, const std::string& where) {
    return fault_at(fault::kMisalignedAddress, "the " + where + " is not aligned to 8 bytes",
                    launch, site);
}

Fault phase_overrun(const LaunchInfo& launch, const Site& site, const std::string& where,
                    uint64_t waited, uint64_t now) {
    return launch_failure("phase overrun at the " + where +
                              ": the warp waits for the end of phase " + std::to_string(waited) +
                              " while phase " + std::to_string(now) +
                              " already runs; the parity it tests has come round again",
                          launch, site);
}

}  // namespace mbarrier

Fault divergent_aligned(const LaunchInfo& launch, const Site& site, uint32_t active,
                        uint32_t needed) {
    char text[160];
    std::snprintf(
        text, sizeof text,
        "divergent execution of an instruction that all its threads must execute together: "
        "active lanes 0x%08x, needed 0x%08x",
        active, needed);
    return fault_at(fault::kIllegalInstruction, text, launch, site);
}

Fault unfinished_async(const LaunchInfo& launch, const Site& site, const std::string& what) {
    return launch_failure("asynchronous work unfinished at exit: nobody waited for " + what, launch,
                          site);
}

}  // namespace emu::check
