// SPDX-License-Identifier: BSD-3-Clause
// One bit per byte of a CTA's shared memory: written since the CTA began?
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#include "check/report.h"

namespace emu::check {

class InitMap {
  public:
    void reset(uint64_t bytes) { bits_.assign((bytes + 63) / 64 + 2, 0); }

    // Accesses of one warp instruction inside the window; bytes is 1, 2, 4, 8 or 16 and divides
    // every offset.
    template <class Address>
    void write(const Address* offset, uint32_t mask, uint32_t bytes) {
        const uint64_t pattern = (uint64_t{1} << bytes) - 1;
        for (uint32_t m = mask; m != 0; m &= m - 1) {
            const uint64_t o = offset[__builtin_ctz(m)];
            bits_[o >> 6] |= pattern << (o & 63);
        }
    }
    // Lanes that read at least one byte nobody wrote.
    template <class Address>
    uint32_t unwritten(const Address* offset, uint32_t mask, uint32_t bytes) const {
        const uint64_t pattern = (uint64_t{1} << bytes) - 1;
        uint32_t bad = 0;
        for (uint32_t m = mask; m != 0; m &= m - 1) {
            const int lane = __builtin_ctz(m);
            const uint64_t o = offset[lane];
            bad |= uint32_t{((bits_[o >> 6] >> (o & 63)) & pattern) != pattern} << lane;
        }
        return bad;
    }
    void write_range(uint64_t offset, uint64_t bytes);
    // Offset of the first unwritten byte, or -1.
    int64_t first_unwritten(uint64_t offset, uint64_t bytes) const;

    // cudaErrorLaunchFailure.
    static Fault fault(const LaunchInfo& launch, const Site& site, uint64_t offset, uint64_t bytes);

  private:
    std::vector<uint64_t> bits_;
};

}  // namespace emu::check
