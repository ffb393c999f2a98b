// SPDX-License-Identifier: BSD-3-Clause
#include "check/clock.h"

namespace emu::check {

uint32_t Clock::at(uint32_t cluster, AgentId agent) const {
    if (!foreign) {
        return 0;
    }
    const auto it = foreign->find(cluster);
    return it != foreign->end() && agent < it->second->size() ? (*it->second)[agent] : 0;
}

void Clock::join(const Clock& other) {
    const size_t n = other.local.size();
    if (local.size() < n) {
        local.resize(n, 0);
    }
    uint32_t* mine = local.data();
    const uint32_t* theirs = other.local.data();
    for (size_t i = 0; i < n; ++i) {
        mine[i] = std::max(mine[i], theirs[i]);
    }
    if (other.foreign) {
        for (const auto& [cluster, dense] : *other.foreign) {
            join_foreign(cluster, dense);
        }
    }
}

void Clock::join_foreign(uint32_t cluster, const std::shared_ptr<const Dense>& other) {
    if (!foreign) {
        foreign = std::make_unique<Foreign>();
    }
    join_into(*foreign, cluster, other);
}

void Clock::join_into(Foreign& map, uint32_t cluster, const std::shared_ptr<const Dense>& other) {
    std::shared_ptr<const Dense>& slot = map[cluster];
    if (slot == other) {
        return;
    }
    if (!slot) {
        slot = other;
        return;
    }
    auto merged = std::make_shared<Dense>(std::max(slot->size(), other->size()), 0);
    for (size_t i = 0; i < merged->size(); ++i) {
        (*merged)[i] =
            std::max(i < slot->size() ? (*slot)[i] : 0, i < other->size() ? (*other)[i] : 0);
    }
    slot = std::move(merged);
}

}  // namespace emu::check
