// SPDX-License-Identifier: BSD-3-Clause
// Registers that a wgmma in flight still reads or writes. Exec tests empty() (or its own flag)
// before it calls check().
#pragma once
#include <cstdint>
#include <vector>

#include "check/report.h"

namespace emu::check {

class InFlightRegisters {
  public:
    bool empty() const { return spans_.empty(); }
    // written: accumulator; otherwise the A fragment. group: number of the wgmma group the
    // operation belongs to.
    void add(uint32_t reg, bool written, uint64_t group, uint32_t pc);
    void retire(uint64_t group);  // every group up to this one has been waited for
    // The instruction reads (write = false) or writes the register; returns the pc of the wgmma in
    // conflict.
    bool conflict(uint32_t reg, bool write, uint32_t* pc) const;
    static Fault fault(const LaunchInfo& launch, const Site& site, const std::string& reg_name,
                       bool write, uint32_t wgmma_pc);

  private:
    struct Span {
        uint32_t first, count;
        bool written;
        uint64_t group;
        uint32_t pc;
    };
    std::vector<Span> spans_;
    std::vector<uint8_t> marks_;  // by register: 1 read by, 2 written by
    void mark(uint32_t reg, bool written);
};

}  // namespace emu::check
