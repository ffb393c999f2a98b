// SPDX-License-Identifier: BSD-3-Clause
#pragma once
#include <memory>
#include <vector>

#include "exec/machine.h"
#include "runtime/counters.h"

namespace emu {

// What a host thread of a launch owns.
struct HostThread {
    Counters counters;
    std::vector<Executed> executed;  // by pc
    uint64_t instructions = 0;       // of warps
};

std::unique_ptr<Cluster> make_cluster(Launch& launch, uint64_t index, HostThread& host);

// Runs a cluster for one scheduler turn.
enum class Turn : uint8_t { progressed, spinning, done };
Turn turn(Cluster& cluster);

}  // namespace emu
