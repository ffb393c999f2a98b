// SPDX-License-Identifier: BSD-3-Clause
// Tensor memory of one CTA (or SM): 512 columns, allocated in powers of two from 32.
#pragma once
#include <cstdint>

#include "check/report.h"

namespace emu::check {

class TensorMemoryLedger {
  public:
    static constexpr uint32_t kColumns = 512;
    // First free column, or -1 when the allocation must wait for a dealloc. Throws on a column
    // count that is no power of two in 32..512 and after relinquish_alloc_permit.
    int allocate(const LaunchInfo& launch, const Site& site, uint32_t columns);
    void release(const LaunchInfo& launch, const Site& site, uint32_t column, uint32_t columns);
    void relinquish() { relinquished_ = true; }
    // Columns [column, column + columns) must be allocated.
    void use(const LaunchInfo& launch, const Site& site, uint32_t column, uint32_t columns) const;
    void at_exit(const LaunchInfo& launch, uint64_t cta) const;  // leaked columns

  private:
    static constexpr uint32_t kUnits = kColumns / 32;
    uint32_t size_[kUnits] = {};   // columns of the allocation that holds these 32, 0 = free
    uint32_t start_[kUnits] = {};  // its first column
    Site where_[kUnits];           // its tcgen05.alloc
    bool relinquished_ = false;
};

}  // namespace emu::check
