// SPDX-License-Identifier: BSD-3-Clause
// Facts of the emulated devices, from the CUDA programming guide's table of compute capabilities
// and vendor data sheets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace emu {

struct Arch {
    const char* name;    // "sm_90a"
    const char* device;  // what cudaGetDeviceProperties calls it
    int major, minor;
    int sms;
    int shared_per_sm_kb;
    int shared_optin_kb;  // per block; 48 KB without opting in
    int threads_per_sm, blocks_per_sm;
    int l2_mb;
    int bus_bits, clock_khz, memory_clock_khz;
    bool clusters;

    int number() const { return 10 * major + minor; }
    size_t shared_optin() const { return static_cast<size_t>(shared_optin_kb) << 10; }
    size_t shared_per_sm() const { return static_cast<size_t>(shared_per_sm_kb) << 10; }
};

constexpr size_t kSharedPerBlock = 48 << 10;
constexpr size_t kSharedReserved = 1024;  // of each block, kept by the system
constexpr int kRegistersPerSm = 65536;
constexpr int kThreadsPerBlock = 1024;
constexpr unsigned kPortableCluster = 8, kLargestCluster = 16;

// nullptr when there is no such architecture; "sm_90" finds sm_90a.
const Arch* find_arch(std::string_view name);

// "sm_80, sm_86, ..."
const char* arch_names();

}  // namespace emu
