// SPDX-License-Identifier: BSD-3-Clause
#include "check/tensor_memory.h"

#include <string>

namespace emu::check {
namespace {

std::string columns_text(uint32_t column, uint32_t columns) {
    return "columns " + std::to_string(column) + "-" + std::to_string(column + columns - 1);
}

}  // namespace

int TensorMemoryLedger::allocate(const LaunchInfo& launch, const Site& site, uint32_t columns) {
    if (columns < 32 || columns > kColumns || (columns & (columns - 1)) != 0) {
        throw fault_at(fault::kLaunchFailure,
                       "tcgen05.alloc of " + std::to_string(columns) +
                           " columns; allowed are 32, 64, 128, 256 and 512",
                       launch, site);
    }
    if (relinquished_) {
        throw fault_at(fault::kLaunchFailure, "tcgen05.alloc after relinquish_alloc_permit", launch,
                       site);
    }
    const uint32_t units = columns / 32;
    for (uint32_t first = 0; first + units <= kUnits; ++first) {
        bool free = true;
        for (uint32_t u = 0; u < units; ++u) {
            free &= size_[first + u] == 0;
        }
        if (!free) {
            continue;
        }
        for (uint32_t u = 0; u < units; ++u) {
            size_[first + u] = columns;
            start_[first + u] = first * 32;
            where_[first + u] = site;
        }
        return static_cast<int>(first * 32);
    }
    return -1;
}

void TensorMemoryLedger::release(const LaunchInfo& launch, const Site& site, uint32_t column,
                                 uint32_t columns) {
    const uint32_t unit = column / 32;
    if (column % 32 != 0 || unit >= kUnits || size_[unit] != columns || start_[unit] != column) {
        throw fault_at(
            fault::kLaunchFailure,
            "tcgen05.dealloc of " + columns_text(column, columns) + ", which no tcgen05.alloc gave",
            launch, site);
    }
    for (uint32_t u = 0; u < columns / 32; ++u) {
        size_[unit + u] = 0;
    }
}

void TensorMemoryLedger::use(const LaunchInfo& launch, const Site& site, uint32_t column,
                             uint32_t columns) const {
    for (uint32_t c = column / 32; c * 32 < column + columns; ++c) {
        if (c >= kUnits || size_[c] == 0) {
            throw fault_at(fault::kIllegalAddress,
                           "access to tensor memory " + columns_text(column, columns) +
                               " that is not allocated",
                           launch, site);
        }
    }
}

void TensorMemoryLedger::at_exit(const LaunchInfo& launch, uint64_t cta) const {
    for (uint32_t u = 0; u < kUnits; ++u) {
        if (size_[u] != 0) {
            throw fault_at(fault::kLaunchFailure,
                           "leaked tensor memory: block " + block_text(launch, cta) +
                               " ended with " + columns_text(start_[u], size_[u]) + " allocated",
                           launch, where_[u]);
        }
    }
}

}  // namespace emu::check
