// SPDX-License-Identifier: BSD-3-Clause
#include "check/registers.h"

namespace emu::check {

void InFlightRegisters::add(uint32_t reg, bool written, uint64_t group, uint32_t pc) {
    for (Span& s : spans_) {
        if (s.group == group && s.pc == pc && s.written == written && reg == s.first + s.count) {
            s.count += 1;
            mark(reg, written);
            return;
        }
    }
    spans_.push_back({reg, 1, written, group, pc});
    mark(reg, written);
}

void InFlightRegisters::mark(uint32_t reg, bool written) {
    if (reg >= marks_.size()) {
        marks_.resize(reg + 1, 0);
    }
    marks_[reg] |= written ? 2 : 1;
}

void InFlightRegisters::retire(uint64_t group) {
    size_t kept = 0;
    for (const Span& s : spans_) {
        if (s.group > group) {
            spans_[kept++] = s;
        }
    }
    spans_.resize(kept);
    marks_.assign(marks_.size(), 0);
    for (const Span& s : spans_) {
        for (uint32_t i = 0; i < s.count; ++i) {
            mark(s.first + i, s.written);
        }
    }
}

bool InFlightRegisters::conflict(uint32_t reg, bool write, uint32_t* pc) const {
    const uint8_t blocking = write ? 3 : 2;
    if (reg >= marks_.size() || (marks_[reg] & blocking) == 0) {
        return false;
    }
    for (const Span& s : spans_) {
        if (reg - s.first < s.count && (write || s.written)) {
            *pc = s.pc;
            return true;
        }
    }
    return false;
}

Fault InFlightRegisters::fault(const LaunchInfo& launch, const Site& site,
                               const std::string& reg_name, bool write, uint32_t wgmma_pc) {
    return fault_at(fault::kLaunchFailure,
                    "register " + reg_name + (write ? " is overwritten" : " is read") +
                        " while a wgmma in flight uses it: wgmma.wait_group is missing",
                    launch, site, "  the wgmma: " + location_text(launch, wgmma_pc));
}

}  // namespace emu::check
