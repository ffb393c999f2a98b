// SPDX-License-Identifier: BSD-3-Clause
#include "runtime/arch.h"

#include <string>

namespace emu {
namespace {

constexpr Arch kArchs[] = {
    // name, device, cc, SMs, shared/SM, opt-in, threads/SM, blocks/SM, L2 MB, bus, clock, memory
    // clock, clusters
    {"sm_80", "Emulated A100 (sm_80)", 8, 0, 108, 164, 163, 2048, 32, 40, 5120, 1410000, 1593000,
     false},
    {"sm_86", "Emulated A10 (sm_86)", 8, 6, 72, 100, 99, 1536, 16, 6, 384, 1695000, 6251000, false},
    {"sm_89", "Emulated L40S (sm_89)", 8, 9, 142, 100, 99, 1536, 24, 96, 384, 2520000, 9001000,
     false},
    {"sm_90a", "Emulated H200 (sm_90a)", 9, 0, 132, 228, 227, 2048, 32, 50, 6144, 1980000, 3201000,
     true},
    {"sm_100a", "Emulated B200 (sm_100a)", 10, 0, 148, 228, 227, 2048, 32, 126, 8192, 1965000,
     3996000, true},
    {"sm_103a", "Emulated B300 (sm_103a)", 10, 3, 148, 228, 227, 2048, 32, 126, 8192, 1965000,
     3996000, true},
    {"sm_120a", "Emulated RTX PRO 6000 (sm_120a)", 12, 0, 188, 100, 99, 1536, 24, 128, 512, 2617000,
     14001000, true},
};

}  // namespace

const Arch* find_arch(std::string_view name) {
    for (const Arch& arch : kArchs) {
        const std::string_view full = arch.name;
        if (name == full || (full.back() == 'a' && name == full.substr(0, full.size() - 1))) {
            return &arch;
        }
    }
    return nullptr;
}

const char* arch_names() {
    static const std::string names = [] {
        std::string all;
        for (const Arch& arch : kArchs) {
            all += all.empty() ? "" : ", ";
            all += arch.name;
        }
        return all;
    }();
    return names.c_str();
}

}  // namespace emu
