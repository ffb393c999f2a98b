// SPDX-License-Identifier: BSD-3-Clause
// How every fault text looks: what happened, then kernel, block, thread, PTX line, source line.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "exec/fault.h"

namespace emu::check {

// Where an instruction stands. `pc` is any number that exec gives to a decoded instruction.
struct Location {
    uint32_t ptx_line = 0;
    std::string ptx_text;     // "st.shared.f32 [%r4], %f1;"
    std::string source_file;  // empty without -lineinfo
    uint32_t source_line = 0;
};

class SourceMap {
  public:
    virtual ~SourceMap() = default;
    virtual Location locate(uint32_t pc) const = 0;
};

// What is the same for the whole launch; owned by exec::launch, outlives all checks of the launch.
struct LaunchInfo {
    std::string kernel;
    uint32_t grid[3] = {1, 1, 1};
    uint32_t block[3] = {1, 1, 1};
    uint32_t cluster[3] = {1, 1, 1};
    const SourceMap* source = nullptr;

    uint32_t threads() const { return block[0] * block[1] * block[2]; }
    uint32_t warps() const { return (threads() + 31) / 32; }
};

constexpr int kNoLane = -1;

// One warp (or one lane of it) at one instruction. cta: linear index in the grid, x fastest.
struct Site {
    uint64_t cta = 0;
    uint32_t warp = 0;
    int lane = kNoLane;
    uint32_t pc = 0;
};

std::string block_text(const LaunchInfo& launch, uint64_t cta);  // "(3,0,1)"
std::string thread_text(const LaunchInfo& launch, uint32_t warp,
                        int lane);  // "thread (5,0,0)" or "warp 2 (threads 64-95)"
std::string location_text(const LaunchInfo& launch,
                          uint32_t pc);  // "PTX line 41: st.shared... (attn.cu:12)"
std::string site_text(const LaunchInfo& launch,
                      const Site& site);  // "block (0,0,0) thread (5,0,0), PTX line ..."

// "<headline>\n  kernel k<<<grid, block>>>\n  at block ... thread ...\n     PTX line ..." ;
// `details` lines are appended as they are.
Fault fault_at(int error, const std::string& headline, const LaunchInfo& launch, const Site& site,
               const std::string& details = {});

// A warp that cannot run when the deadlock is found.
struct StuckWarp {
    Site site;
    std::string waits_for;  // "bar.sync 1 (64 of 128 threads arrived)", "mbarrier at shared+0x40,
                            // parity 0 ..."
};
// cudaErrorLaunchTimeout; one line per warp, warps of equal text and pc folded.
Fault deadlock(const LaunchInfo& launch, const std::vector<StuckWarp>& warps);

}  // namespace emu::check
