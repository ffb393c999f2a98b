// SPDX-License-Identifier: BSD-3-Clause
// What ClusterRaces keeps; only its own sources include this.
#pragma once
#include "check/lanes.h"
#include "check/races.h"

namespace emu::check {

constexpr uint32_t kSharedReaders = 64;  // remembered per word of shared memory
constexpr uint32_t kGlobalReaders = 6;   // of global memory: inputs are read by every CTA
constexpr int kLevels = 3;               // of scope: Cta, Cluster, Gpu (Sys counts as Gpu)

inline int level_of(Scope scope) {
    return scope == Scope::Cta ? 0 : scope == Scope::Cluster ? 1 : 2;
}

struct ClusterRaces::State {
    struct Remembered {
        uint32_t pc = ~0u, kind = 0, epoch = 0, id = 0;
    };
    static constexpr uint32_t kRemembered = 32;
    struct Agent {
        Clocks clocks;  // clocks.c at the own index: epochs that are closed; the current one is one
                        // more
        bool accessed = false;  // in the current epoch
        // Since its lanes were last ordered, at the end of epoch `ordered`: the lanes that accessed
        // memory, and those of them that handed over since they did.
        uint32_t ordered = 0, unordered_lanes = 0, handed_over = 0;
        std::shared_ptr<const Clocks> snapshot;  // of clocks, the own component aside
        std::unique_ptr<Clocks> fenced[kLevels], seen[kLevels];
        Remembered shared_records[kRemembered], global_records[kRemembered];
    };

    State(GlobalShadow& global, uint32_t serial_number, uint32_t warps_per_cta, uint32_t all_warps)
        : serial(serial_number),
          warps(all_warps),
          shared_engine(shared_tables, serial, warps_per_cta, warps, kSharedReaders),
          global_engine(global.tables_, serial, warps_per_cta, warps, kGlobalReaders) {}

    uint32_t serial;
    uint32_t warps;  // of the cluster
    uint32_t agents_made = 0;
    std::vector<Agent> agents;
    std::vector<Channel*> channels;
    ShadowTables shared_tables;
    ShadowEngine shared_engine, global_engine;
    std::unique_ptr<WarpLanes> lanes;
    std::vector<std::vector<Cell>> cells;  // by rank
    std::unordered_map<uint64_t, SyncLocation> locations;
    uint64_t cached_numbers[64];
    GlobalShadow::Page* cached_pages[64] = {};

    uint32_t close_epoch(AgentId id) {
        Agent& agent = agents[id];
        if (agent.accessed) {
            agent.clocks.c.local[id] += 1;
            agent.clocks.c.local[id + warps] = agent.clocks.c.local[id];
            agent.accessed = false;
        }
        return agent.clocks.c.local[id];
    }

    GlobalShadow::Page& page(GlobalShadow& global, uint64_t number) {
        const uint32_t slot = number & 63;
        if (cached_pages[slot] == nullptr || cached_numbers[slot] != number) {
            cached_pages[slot] = &global.page(number);
            cached_numbers[slot] = number;
        }
        return *cached_pages[slot];
    }

    // True when no other lanes than these have accesses that nothing ordered or handed over.
    bool speak_for_all(AgentId id, uint32_t lanes) {
        Agent& agent = agents[id];
        agent.handed_over |= lanes;
        return (agent.unordered_lanes & ~agent.handed_over) == 0;
    }
    // What the warp hands over when some of its lanes do not speak for all.
    Clocks without_other_lanes(const Clocks& clocks, AgentId id) const {
        Clocks capped = clocks;
        for (Clock* clock : {&capped.c, &capped.p}) {
            if (id < clock->local.size()) {
                clock->local[id] = std::min(clock->local[id], agents[id].ordered);
            }
        }
        return capped;
    }

    View view(const Access& access, uint32_t lanes = ~0u) {
        Agent& agent = agents[access.agent];
        agent.accessed = true;
        agent.unordered_lanes |= lanes;
        agent.handed_over &= ~lanes;
        View v;
        v.known = &agent.clocks;
        v.self.cluster = serial;
        v.self.agent = v.self.owner = access.agent;
        v.self.epoch = agent.clocks.c.local[access.agent] + 1;
        v.self.pc = access.pc;
        v.self.op = access.op;
        v.self.scope = access.scope;
        return v;
    }

    View view(const AsyncOp& op, Op kind) {
        View v;
        v.known = op.known.get();
        v.issuer_epoch = op.issuer_epoch;
        v.issuer_single = op.issuer_single;
        v.self.cluster = serial;
        v.self.agent = op.channel->agent;
        v.self.owner = op.issuer;
        v.self.epoch = op.epoch;
        v.self.pc = op.pc;
        v.self.op = kind;
        v.self.proxy = op.proxy;
        v.self.async = true;
        return v;
    }

    // The operation's record, one for each space and kind however many ranges it touches.
    static uint32_t record(const AsyncOp& op, ShadowEngine& engine, const View& v, int space) {
        uint32_t& id = op.records[space][v.self.op == Op::Read ? 0 : 1];
        if (id == 0) {
            id = engine.add_record(v.self);
        }
        return id;
    }

    // The warp's record for this instruction in this epoch.
    uint32_t record(ShadowEngine& engine, Remembered* table, View& v) {
        const uint32_t kind = static_cast<uint32_t>(v.self.op) | static_cast<uint32_t>(v.self.scope)
                                                                     << 4;
        Remembered& slot = table[(v.self.pc * 0x9e3779b1u) >> 27];
        if (slot.pc == v.self.pc && slot.epoch == v.self.epoch && slot.kind == kind) {
            Record& r = engine.record(slot.id);
            r.first = v.self.first;
            r.stride = v.self.stride;
            r.mask = v.self.mask;
            return slot.id;
        }
        const uint32_t id = engine.add_record(v.self);
        if (id != 0) {
            slot = Remembered{v.self.pc, kind, v.self.epoch, id};
        }
        return id;
    }
};

}  // namespace emu::check
