// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define LIMELIGHT_HOST_DEVICE __host__ __device__
#else
#define LIMELIGHT_HOST_DEVICE
#endif

namespace limelight {

// Division by a number that the host knows: one multiplication and a shift (Granlund and
// Montgomery, 1994), exact for dividends in [0, 2^31).
struct Divisor {
    uint32_t divisor = 1;
    uint32_t multiplier = 0;  // ceil(2^(32 + shift) / divisor), 0 for a divisor of 1
    uint32_t shift = 0;

    Divisor() = default;
    explicit Divisor(uint32_t d) : divisor(d) {
        if (d > 1) {
            while ((uint64_t{2} << shift) < d) {
                ++shift;
            }
            multiplier = static_cast<uint32_t>(((uint64_t{1} << (32 + shift)) + d - 1) / d);
        }
    }

    LIMELIGHT_HOST_DEVICE int quotient(int n) const {
        const uint32_t dividend = static_cast<uint32_t>(n);
        const uint32_t high =
            static_cast<uint32_t>((uint64_t{dividend} * multiplier) >> 32) >> shift;
        return static_cast<int>(divisor == 1 ? dividend : high);
    }
};

}  // namespace limelight
