// SPDX-License-Identifier: BSD-3-Clause
// barrier.cluster.arrive and .wait: one barrier of all threads of a cluster.
#include "exec/lanes.h"
#include "exec/observe.h"
#include "exec/synchronise.h"

namespace emu {

namespace {

struct Arrival {  // of a warp: the generation that it has arrived at and not yet waited for
    uint64_t generation = 0;
    uint32_t lanes = 0;
};

void arrive(Warp& w, const Instr& i, uint32_t active) {
    if (i.small && !w.converge(i, active, kAllLanes)) {
        return;
    }
    Cluster& cluster = *w.cluster;
    auto& mine = w.slots.get<Arrival>(kSlotOther);
    if (mine.lanes & active) {
        w.fail(fault::kLaunchFailure, "barrier.cluster.arrive twice without barrier.cluster.wait",
               __builtin_ctz(mine.lanes & active));
    }
    mine.generation = cluster.barrier_generation;
    mine.lanes |= active;
    observe_cluster_arrive(w, i.imm == 0);
    cluster.barrier_arrived += static_cast<uint32_t>(__builtin_popcount(active));
    check_cluster_barrier(cluster);
}

std::string describe(Warp& w, const Wait&) {
    uint32_t live = 0;
    for (const auto& cta : w.cluster->ctas) {
        live += cta->live_threads;
    }
    return "barrier.cluster (" + std::to_string(w.cluster->barrier_arrived) + " of " +
           std::to_string(live) + " threads arrived)";
}

bool ready(Warp& w, const Wait& wait) {
    return w.cluster->barrier_generation != wait.b;
}

void wait(Warp& w, const Instr& i, uint32_t active) {
    if (i.small && !w.converge(i, active, kAllLanes)) {
        return;
    }
    auto& mine = w.slots.get<Arrival>(kSlotOther);
    if ((active & ~mine.lanes) != 0) {
        w.fail(fault::kLaunchFailure, "barrier.cluster.wait without barrier.cluster.arrive",
               __builtin_ctz(active & ~mine.lanes));
    }
    if (w.cluster->barrier_generation == mine.generation) {
        Wait blocked;
        blocked.ready = ready;
        blocked.describe = describe;
        blocked.what = "barrier.cluster";
        blocked.b = mine.generation;
        w.block(blocked);
        return;
    }
    mine.lanes &= ~active;
    observe_cluster_wait(w);
}

}  // namespace

void check_cluster_barrier(Cluster& cluster) {
    uint32_t live = 0;
    for (const auto& cta : cluster.ctas) {
        live += cta->live_threads;
    }
    if (cluster.barrier_arrived && cluster.barrier_arrived >= live) {
        cluster.barrier_arrived = 0;
        cluster.barrier_generation += 1;
        observe_cluster_complete(cluster);
    }
}

Instr decode_cluster_barrier(const ptx::Statement& s, DecodeContext& c) {
    Instr i;
    i.small = s.has("aligned");
    i.imm = s.has("relaxed");
    if (s.has("arrive")) {
        i.run = arrive;
    } else if (s.has("wait")) {
        i.run = wait;
    } else {
        c.fail("unknown form of barrier.cluster");
    }
    return i;
}

}  // namespace emu
