// SPDX-License-Identifier: BSD-3-Clause
#include "check/init.h"

#include <cstdio>

namespace emu::check {

void InitMap::write_range(uint64_t offset, uint64_t bytes) {
    uint64_t at = offset;
    const uint64_t end = offset + bytes;
    while (at < end) {
        const uint64_t bit = at & 63, n = std::min<uint64_t>(64 - bit, end - at);
        const uint64_t pattern = n == 64 ? ~uint64_t{0} : ((uint64_t{1} << n) - 1) << bit;
        bits_[at >> 6] |= pattern;
        at += n;
    }
}

int64_t InitMap::first_unwritten(uint64_t offset, uint64_t bytes) const {
    uint64_t at = offset;
    const uint64_t end = offset + bytes;
    while (at < end) {
        const uint64_t bit = at & 63, n = std::min<uint64_t>(64 - bit, end - at);
        const uint64_t pattern = n == 64 ? ~uint64_t{0} : ((uint64_t{1} << n) - 1) << bit;
        const uint64_t missing = pattern & ~bits_[at >> 6];
        if (missing != 0) {
            return static_cast<int64_t>((at & ~uint64_t{63}) + __builtin_ctzll(missing));
        }
        at += n;
    }
    return -1;
}

Fault InitMap::fault(const LaunchInfo& launch, const Site& site, uint64_t offset, uint64_t bytes) {
    char text[128];
    std::snprintf(
        text, sizeof text,
        "read of uninitialised shared memory: %llu bytes at shared+0x%llx, which nobody wrote",
        static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(offset));
    return fault_at(fault::kLaunchFailure, text, launch, site);
}

}  // namespace emu::check
