// SPDX-License-Identifier: BSD-3-Clause
// What orders accesses: barriers, mbarriers, fences, atomics, waits for asynchronous operations.
#include "check/barriers.h"
#include "check/races_state.h"

namespace emu::check {

void ClusterRaces::release(AgentId agent, Clocks& sync, uint32_t lanes) {
    State& s = *state_;
    s.close_epoch(agent);
    const Clocks& clocks = s.agents[agent].clocks;
    if (s.speak_for_all(agent, lanes)) {
        sync.join(clocks);
    } else {
        sync.join(s.without_other_lanes(clocks, agent));
    }
}

void ClusterRaces::acquire(AgentId agent, const Clocks& sync) {
    State::Agent& a = state_->agents[agent];
    a.clocks.join(sync);
    a.snapshot.reset();
    // Only what the warp's lanes handed over to the barrier comes back to all of them.
    if (!a.accessed && sync.c.at(agent) == a.clocks.c.at(agent)) {
        end_section(agent);
    } else {
        a.ordered = std::max(a.ordered, sync.c.at(agent));
    }
}

void ClusterRaces::end_section(AgentId agent) {
    State::Agent& a = state_->agents[agent];
    state_->lanes->order(agent);
    a.unordered_lanes = 0;
    a.handed_over = 0;
    a.ordered = state_->close_epoch(agent);
}

void ClusterRaces::warp_sync(AgentId agent) {
    end_section(agent);
}

void ClusterRaces::complete(BarrierSync& barrier) {
    std::swap(barrier.completed, barrier.pending);
    barrier.pending.clear();
}

void ClusterRaces::complete(MbarrierSync& barrier) {
    // Arrivals are read-modify-writes of one object: later phases carry what earlier ones released.
    barrier.completed.join(barrier.pending);
    barrier.pending.clear();
    barrier.completed.join(barrier.channel.carried);
    barrier.channel.carried.clear();
    barrier.completed.c.raise(barrier.channel.agent, barrier.channel.done);
    barrier.channel.landed = barrier.channel.done;
    if (barrier.channel.done < barrier.channel.begun) {
        barrier.channel.overtaken = barrier.channel.begun;
    }
}

void ClusterRaces::fence_proxy_async(AgentId id) {
    state_->close_epoch(id);
    State::Agent& agent = state_->agents[id];
    agent.clocks.p = agent.clocks.c;
    agent.snapshot.reset();
}

void ClusterRaces::fence(AgentId id, Scope scope) {
    state_->close_epoch(id);
    State::Agent& agent = state_->agents[id];
    for (int level = 0; level <= level_of(scope); ++level) {
        if (agent.seen[level]) {
            agent.clocks.join(*agent.seen[level]);
            end_section(id);
            agent.seen[level].reset();
            agent.snapshot.reset();
        }
    }
    for (int level = 0; level <= level_of(scope); ++level) {
        agent.fenced[level] = std::make_unique<Clocks>(agent.clocks);
    }
}

namespace {

void give(Clock::Foreign& to, uint32_t serial, const Clock& from) {
    Clock::join_into(to, serial, std::make_shared<const Clock::Dense>(from.local));
    if (from.foreign) {
        for (const auto& [cluster, dense] : *from.foreign) {
            Clock::join_into(to, cluster, dense);
        }
    }
}

void take(Clock& to, uint32_t serial, const Clock::Foreign& from) {
    for (const auto& [cluster, dense] : from) {
        if (cluster != serial) {
            to.join_foreign(cluster, dense);
            continue;
        }
        if (to.local.size() < dense->size()) {
            to.local.resize(dense->size(), 0);
        }
        for (size_t i = 0; i < dense->size(); ++i) {
            to.local[i] = std::max(to.local[i], (*dense)[i]);
        }
    }
}

}  // namespace

void ClusterRaces::strong(AgentId id, uint64_t key, const Strong& how) {
    State& s = *state_;
    State::Agent& agent = s.agents[id];
    const bool in_shared = (key >> 63) != 0;
    const bool gives = how.writes && (how.release || agent.fenced[0]);
    const bool resets = how.writes && !how.reads && !how.rmw;
    GlobalShadow::SyncShard* shard = in_shared ? nullptr : &global_.shard(key);
    std::unique_lock<std::mutex> lock;
    if (shard != nullptr) {
        lock = std::unique_lock(shard->mutex);
    }
    auto& locations = in_shared ? s.locations : shard->locations;
    auto it = locations.find(key);
    if (it == locations.end()) {
        if (!gives) {
            return;
        }
        it = locations.try_emplace(key).first;
    }
    SyncLocation& location = it->second;
    const uint64_t cta = uint64_t{s.serial} << 32 | id / warps_per_cta_;
    const auto at_level = [&](int level) -> ScopedClocks& {
        return level == 0   ? location.cta[cta]
               : level == 1 ? location.cluster[s.serial]
                            : location.gpu;
    };
    const int top = level_of(how.scope);
    if (how.reads) {
        for (int level = 0; level <= top; ++level) {
            const ScopedClocks& from = at_level(level);
            if (from.c.empty()) {
                continue;
            }
            Clocks* to = &agent.clocks;
            if (!how.acquire) {
                if (!agent.seen[level]) {
                    agent.seen[level] = std::make_unique<Clocks>();
                }
                to = agent.seen[level].get();
            }
            take(to->c, s.serial, from.c);
            take(to->p, s.serial, from.p);
            if (how.acquire) {
                agent.snapshot.reset();
                end_section(id);
            }
        }
    }
    if (resets) {
        location = SyncLocation{};
    }
    if (gives) {
        if (how.release) {
            s.close_epoch(id);
        }
        const bool all = s.speak_for_all(id, how.lanes);
        for (int level = 0; level <= top; ++level) {
            const Clocks* from = how.release ? &agent.clocks : agent.fenced[level].get();
            Clocks capped;
            if (from != nullptr && !all) {
                capped = s.without_other_lanes(*from, id);
                from = &capped;
            }
            if (from != nullptr) {
                give(at_level(level).c, s.serial, from->c);
                give(at_level(level).p, s.serial, from->p);
            }
        }
    }
}

void ClusterRaces::open(Channel& channel) {
    channel.agent = state_->agents_made++;
    state_->channels.push_back(&channel);
}

AsyncOp ClusterRaces::begin(AgentId issuer, Channel& channel, uint32_t pc, Proxy proxy,
                            uint32_t lanes) {
    AsyncOp op;
    op.channel = &channel;
    op.epoch = ++channel.begun;
    channel.last_issuer = issuer;
    channel.last_pc = pc;
    op.issuer = issuer;
    op.issuer_epoch = op.issuer_single = state_->close_epoch(issuer);
    State::Agent& agent = state_->agents[issuer];
    if ((agent.unordered_lanes & ~lanes) != 0) {
        op.issuer_epoch = agent.ordered;
    }
    op.pc = pc;
    op.proxy = proxy;
    if (!agent.snapshot) {
        agent.snapshot = std::make_shared<const Clocks>(agent.clocks);
    }
    op.known = agent.snapshot;
    return op;
}

void ClusterRaces::finish(const AsyncOp& op) {
    Channel& channel = *op.channel;
    if (channel.signals) {
        channel.carried.join(*op.known);
        channel.carried.c.raise(op.issuer, op.issuer_epoch);
        channel.carried.c.raise(op.issuer + state_->warps, op.issuer_single);
    }
    if (op.epoch <= channel.done) {
        return;  // a copy whose lanes complete one after the other
    }
    const uint32_t ahead = op.epoch - channel.done - 1;
    if (ahead >= channel.completed.size()) {
        channel.completed.resize(ahead + 1, 0);
    }
    channel.completed[ahead] = 1;
    size_t n = 0;
    while (n < channel.completed.size() && channel.completed[n] != 0) {
        ++n;
    }
    channel.completed.erase(channel.completed.begin(),
                            channel.completed.begin() + static_cast<long>(n));
    channel.done += static_cast<uint32_t>(n);
}

void ClusterRaces::wait(AgentId agent, Channel& channel, uint32_t epoch) {
    channel.waited = std::max(channel.waited, epoch);
    state_->agents[agent].clocks.c.raise(channel.agent, epoch);
    state_->agents[agent].snapshot.reset();
}

void ClusterRaces::arrive_channel(MbarrierSync& barrier, Channel& channel, uint32_t epoch) {
    channel.waited = std::max(channel.waited, epoch);
    barrier.pending.c.raise(channel.agent, epoch);
}

void ClusterRaces::at_exit() const {
    for (const Channel* channel : state_->channels) {
        if (!channel->may_outlive && channel->waited < channel->begun) {
            Record record;
            record.cluster = state_->serial;
            record.owner = channel->last_issuer;
            record.pc = channel->last_pc;
            throw unfinished_async(
                launch_, site(record, kNoLane),
                channel->signals ? "the phase of the mbarrier that this operation completes on"
                                 : "this operation (wait_group)");
        }
    }
}

}  // namespace emu::check
