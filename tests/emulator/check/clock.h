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
    using Foreign =
        std::map<uint32_t, std::shared_ptr<const Dense>>;  // by serial number of the cluster
    Dense local;                                           // by agent; absent: 0
    std::unique_ptr<Foreign> foreign;  // null until another cluster synchronised with this one

    Clock() = default;
    Clock(const Clock& o)
        : local(o.local), foreign(o.foreign ? new Foreign(*o.foreign) : nullptr) {}
    Clock(Clock&&) = default;
    Clock& operator=(Clock&&) = default;
    Clock& operator=(const Clock& o) {
        local = o.local;
        foreign.reset(o.foreign ? new Foreign(*o.foreign) : nullptr);
        return *this;
    }

    uint32_t at(AgentId agent) const { return agent < local.size() ? local[agent] : 0; }
    uint32_t at(uint32_t cluster, AgentId agent) const;  // of another cluster
    void raise(AgentId agent, uint32_t epoch) {
        if (agent >= local.size()) {
            local.resize(agent + 1, 0);
        }
        local[agent] = std::max(local[agent], epoch);
    }
    void join(const Clock& other);
    void join_foreign(uint32_t cluster, const std::shared_ptr<const Dense>& other);
    static void join_into(Foreign& map, uint32_t cluster,
                          const std::shared_ptr<const Dense>& other);
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
