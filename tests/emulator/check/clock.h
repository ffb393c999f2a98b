// SPDX-License-Identifier: BSD-3-Clause
// Vector clocks: dense over the agents of the own cluster, sparse over other clusters.
#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace emu::check {

using AgentId = uint32_t;  // within one cluster: warps first, then channels in order of open()

struct Clock {
    using Dense = std::vector<uint32_t>;
    Dense local;  // by agent; absent: 0
    std::unique_ptr<std::map<uint32_t, std::shared_ptr<const Dense>>> foreign;  // by cluster serial

    Clock() = default;
    Clock(const Clock& o) : local(o.local) {
        if (o.foreign) {
            foreign =
                std::make_unique<std::map<uint32_t, std::shared_ptr<const Dense>>>(*o.foreign);
        }
    }
    Clock(Clock&&) = default;
    Clock& operator=(Clock&&) = default;
    Clock& operator=(const Clock& o) {
        if (this != &o) {
            *this = Clock(o);
        }
        return *this;
    }

    uint32_t at(AgentId agent) const { return agent < local.size() ? local[agent] : 0; }
    void raise(AgentId agent, uint32_t epoch) {
        if (agent >= local.size()) {
            local.resize(agent + 1, 0);
        }
        local[agent] = std::max(local[agent], epoch);
    }
    uint32_t at(uint32_t cluster, AgentId agent) const;
    void join(const Clock& other);
    void join_foreign(uint32_t cluster, const Dense& other);
    void clear() {
        local.clear();
        foreign.reset();
    }
};

// C and P of one agent or one synchronisation object.
struct Clocks {
    Clock c, p;
    void join(const Clocks& other) {
        c.join(other.c);
        p.join(other.p);
    }
    void clear() {
        c.clear();
        p.clear();
    }
};

}  // namespace emu::check
