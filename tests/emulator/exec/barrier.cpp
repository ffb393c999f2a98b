// SPDX-License-Identifier: BSD-3-Clause
// bar and barrier of a CTA, barrier.cluster, bar.warp.sync.
#include <algorithm>

#include "exec/lanes.h"
#include "exec/observe.h"
#include "exec/synchronise.h"

namespace emu {

namespace {

using ptx::Operand;
using ptx::Type;

enum class Kind : uint32_t { sync, arrive, popc, and_, or_ };

// ---- bar ----
// Barriers count whole warps, as hardware does: each warp that executes bar adds 32 threads.

uint32_t whole(uint32_t threads) {
    return (threads + kLanes - 1) / kLanes * kLanes;
}

std::string describe_bar(Warp& w, const Wait& wait) {
    const NamedBarrier& b = w.cta->barriers[wait.a];
    return "bar " + std::to_string(wait.a) + " (" + std::to_string(b.arrived) + " of " +
           std::to_string(b.expected) + " threads arrived)";
}

bool bar_ready(Warp& w, const Wait& wait) {
    NamedBarrier& b = w.cta->barriers[wait.a];
    if (b.generation == wait.b) {
        return false;
    }
    const Instr& i = w.code[wait.pc];
    switch (static_cast<Kind>(i.small)) {
        case Kind::popc:
            each(w.u32(i.r[0]), wait.lanes, [&](int) { return b.result_popc; });
            break;
        case Kind::and_:
            w.set_pred(i.p[0], b.result_all ? kAllLanes : 0, wait.lanes);
            break;
        case Kind::or_:
            w.set_pred(i.p[0], b.result_any ? kAllLanes : 0, wait.lanes);
            break;
        default:
            break;
    }
    observe_barrier_wait(w, static_cast<uint32_t>(wait.a));
    return true;
}

void bar(Warp& w, const Instr& i, uint32_t active) {
    if (!w.converge(i, active, kAllLanes)) {
        return;
    }
    const int lane = __builtin_ctz(active);
    const uint32_t id = w.u32(i.r[1])[lane];
    if (id >= kBarriers) {
        w.fail(fault::kIllegalInstruction,
               "bar with barrier " + std::to_string(id) + "; there are 16", lane);
    }
    const uint32_t given = i.r[2] == kNoRef ? 0 : w.u32(i.r[2])[lane];
    const Kind kind = static_cast<Kind>(i.small);
    NamedBarrier& b = w.cta->barriers[id];
    observe_barrier_arrive(w, id, given, kind != Kind::arrive, lane);
    if (b.arrived == 0) {
        b.expected = given ? whole(given) : w.cta->live_warps * kLanes;
        b.everybody = given == 0;
        b.popc = 0, b.all = true, b.any = false;
    }
    b.arrived += kLanes;
    if (kind != Kind::sync && kind != Kind::arrive) {
        const uint32_t bits = w.pred(i.p[1]) & active;
        b.popc += static_cast<uint32_t>(__builtin_popcount(bits));
        b.all &= bits == active;
        b.any |= bits != 0;
    }
    b.parties.emplace_back(w.index, active);
    const uint64_t generation = b.generation;
    if (b.arrived >= b.expected) {
        complete_barrier(*w.cta, id);
    }
    if (kind != Kind::arrive) {
        Wait wait;
        wait.ready = bar_ready;
        wait.describe = describe_bar;
        wait.what = "bar";
        wait.a = id, wait.b = generation;
        wait.again = false;
        w.block(wait);
    }
}

// ---- bar.warp.sync: lanes may arrive from different places ----

bool warp_sync_ready(Warp& w, const Wait& wait) {
    uint32_t here = wait.lanes;
    for (const Group& g : w.others) {
        if (g.wait.ready == warp_sync_ready) {
            here |= g.mask;
        }
    }
    if ((wait.a & w.live & ~here) != 0) {
        return false;
    }
    observe_warp_sync(w);
    for (Group& g : w.others) {  // all of them go on, whoever is asked first
        if (g.wait.ready == warp_sync_ready && g.wait.a == wait.a) {
            g.synced = true;
        }
    }
    return true;
}

void warp_sync(Warp& w, const Instr& i, uint32_t active) {
    const uint32_t* masks =
        w.u32(i.r[1]);  // tiles of a warp may come together, each with its own mask
    uint32_t members = 0;
    for_lanes(active, [&](int l) { members |= masks[l]; });
    if ((members & w.live & ~active) == 0) {
        observe_warp_sync(w);
        return;
    }
    if (w.others.empty()) {
        observe_divergent(w, active, members & w.live);
        return;
    }
    Wait wait;
    wait.ready = warp_sync_ready;
    wait.what = "bar.warp.sync";
    wait.a = members;
    wait.again = false;
    w.block(wait);
}

Instr decode_bar(const ptx::Statement& s, DecodeContext& c) {
    Instr i;
    if (s.has("warp")) {
        i.run = warp_sync;
        i.r[1] = c.source(c.operand(0), Type::b32);
        return i;
    }
    if (s.has("cluster")) {
        return decode_cluster_barrier(s, c);
    }
    i.run = bar;
    size_t first = 0;
    if (s.has("sync")) {
        i.small = static_cast<uint32_t>(Kind::sync);
    } else if (s.has("arrive")) {
        i.small = static_cast<uint32_t>(Kind::arrive);
    } else if (s.has("red")) {
        first = 1;
        if (s.has("popc")) {
            i.small = static_cast<uint32_t>(Kind::popc);
            i.r[0] = c.target(c.operand(0), Type::u32);
        } else {
            i.small = static_cast<uint32_t>(s.has("and") ? Kind::and_ : Kind::or_);
            i.p[0] = c.predicate_target(c.operand(0));
        }
    } else {
        c.fail("unknown form of " + std::string(s.parts[0]));
    }
    i.r[1] = c.source(c.operand(first), Type::u32);
    const size_t predicate = first ? c.operands() - 1 : c.operands();
    if (predicate > first + 1) {
        i.r[2] = c.source(c.operand(first + 1), Type::u32);
    }
    if (first) {
        i.p[1] = c.predicate(c.operand(predicate));
    }
    if (i.small == static_cast<uint32_t>(Kind::arrive) && i.r[2] == kNoRef) {
        c.fail("bar.arrive needs a thread count");
    }
    return i;
}

const RegisterFamily kFamilies[] = {{"bar", decode_bar}, {"barrier", decode_bar}};

}  // namespace

void complete_barrier(Cta& cta, uint32_t id) {
    NamedBarrier& b = cta.barriers[id];
    b.result_popc = b.popc, b.result_all = b.all, b.result_any = b.any;
    b.arrived = 0;
    b.expected = 0;
    b.parties.clear();
    b.generation += 1;
    observe_barrier_complete(cta, id);
}

}  // namespace emu
