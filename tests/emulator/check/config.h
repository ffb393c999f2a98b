// SPDX-License-Identifier: BSD-3-Clause
// Which checks run: LIMELIGHT_EMULATOR_CHECKS = all | none | comma list of the names below.
#pragma once
#include <string_view>

namespace emu::check {

struct Config {
    bool bounds = true;    // accesses outside every allocation, red zones, use after free
    bool init = true;      // reads of shared memory that nobody wrote
    bool races = true;     // happens-before races, missing proxy fences
    bool barriers = true;  // counts, phases and tx-counts of bar, barrier.cluster and mbarrier
    bool aligned = true;   // .aligned instructions executed divergently, misaligned addresses
    bool async = true;     // registers of wgmma in flight, async work unfinished at exit
    bool tmem = true;      // tensor memory leaked or used without allocation

    bool operator==(const Config&) const = default;
    static Config none();
    // Throws Fault{cudaErrorInvalidValue} that names an unknown check and lists the known ones.
    static Config parse(std::string_view text);
};

}  // namespace emu::check
