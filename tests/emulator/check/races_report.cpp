// SPDX-License-Identifier: BSD-3-Clause
// The text of a race: where, the access that met it, the earlier access, what would have ordered
// them.
#include <cstdio>

#include "check/races_state.h"

namespace emu::check {
namespace {

// The lane that touched the byte, as far as the record can tell.
int lane_of(const Record& r, uint64_t address) {
    if (r.mask == 0 || r.stride == Record::kNoStride) {
        return kNoLane;
    }
    const int first = __builtin_ctz(r.mask);
    for (int lane = first; lane < 32; ++lane) {
        const uint64_t begin = r.first + static_cast<int64_t>(r.stride) * (lane - first);
        if (((r.mask >> lane) & 1) && address - begin < r.bytes) {
            return lane;
        }
    }
    return kNoLane;
}

const char* verb(const Record& r) {
    if (r.async) {
        return r.op == Op::Read ? "asynchronous read" : "asynchronous write";
    }
    return r.op == Op::Read ? "read" : r.op == Op::Write ? "write" : "atomic";
}

std::string shared_place(uint64_t address) {
    char text[80];
    const unsigned rank = static_cast<unsigned>(address >> ClusterRaces::kRankShift);
    const unsigned offset = static_cast<unsigned>(address & ClusterRaces::kOffsetMask);
    if (rank == 0) {
        std::snprintf(text, sizeof text, "shared memory at shared+0x%x", offset);
    } else {
        std::snprintf(text, sizeof text, "shared memory at shared+0x%x of cluster rank %u", offset,
                      rank);
    }
    return text;
}

}  // namespace

std::string ClusterRaces::place(uint64_t address, bool in_shared) const {
    if (in_shared) {
        return shared_place(address);
    }
    char text[64];
    std::snprintf(text, sizeof text, "global memory at 0x%llx",
                  static_cast<unsigned long long>(address));
    std::string place = text;
    Allocation a;
    if (global_.names_ != nullptr && global_.names_->find(address, 1, &a)) {
        place += " (byte " + std::to_string(address - a.base) + " of '" + a.name + "')";
    }
    return place;
}

Site ClusterRaces::site(const Record& r, int lane) const {
    return Site{global_.cta_of(r.cluster, r.owner / warps_per_cta_), r.owner % warps_per_cta_, lane,
                r.pc};
}

bool ClusterRaces::ordered_for_one_lane(const View& view, const Record& before) const {
    const AgentId single = before.agent + state_->warps;
    if (before.agent >= state_->warps) {
        return false;
    }
    if (view.self.async && before.cluster == view.self.cluster && before.agent == view.self.owner) {
        return before.epoch <= view.issuer_single;
    }
    const Clock& known = view.known->c;
    return (before.cluster == view.self.cluster ? known.at(single)
                                                : known.at(before.cluster, single)) >= before.epoch;
}

Fault ClusterRaces::clash(const View& view, int lane, uint64_t address, uint32_t other,
                          Conflict kind, bool in_shared) const {
    const Record& now = view.self;
    const Record& before =
        in_shared ? state_->shared_engine.record(other) : state_->global_engine.record(other);
    const std::string where = place(address, in_shared);
    std::string headline, hint;
    if (kind == Conflict::ProxyFence) {
        headline = "missing fence.proxy.async: an access of " + where +
                   " by the async proxy follows a generic " +
                   (before.op == Op::Read ? "read that no proxy fence ended"
                                          : "write that no proxy fence made visible");
        hint = std::string("fence.proxy.async is needed after the ") +
               (before.op == Op::Read ? "read" : "write") +
               " and before the barrier that hands the " +
               (before.op == Op::Read ? "memory" : "data") + " over";
    } else {
        headline = "data race on " + where + ": " + verb(now) + " not ordered after an earlier " +
                   verb(before);
        if (before.async) {
            hint =
                "the earlier operation was not waited for (wait_group, or the phase of its "
                "mbarrier)";
            for (const Channel* channel : state_->channels) {
                if (before.cluster == state_->serial && channel->agent == before.agent &&
                    before.epoch > channel->done && before.epoch <= channel->overtaken) {
                    hint +=
                        "\n  a phase of its mbarrier ended without it: the tx-count of expect_tx "
                        "is too small";
                }
            }
        } else if (before.scope != Scope::None && now.scope != Scope::None) {
            hint =
                "both are strong accesses, but the scope of one does not include the other thread";
        } else {
            hint = "no barrier, mbarrier, wait or fence with atomics orders the two";
            if (ordered_for_one_lane(view, before)) {
                hint +=
                    ":\n  a lane of the earlier warp handed over without __syncwarp, for itself "
                    "alone";
            }
        }
    }
    const std::string details = "  earlier " + std::string(verb(before)) + ": " +
                                site_text(launch_, site(before, lane_of(before, address))) +
                                "\n  " + hint;
    return fault_at(fault::kLaunchFailure, headline, launch_, site(now, lane), details);
}

Fault ClusterRaces::lanes_clash(const View& view, int first, int second, uint64_t address,
                                bool in_shared) const {
    const Site at = site(view.self, second);
    return fault_at(fault::kLaunchFailure,
                    "data race on " + place(address, in_shared) +
                        ": two threads of one warp write different values in one instruction",
                    launch_, at, "  the other: " + thread_text(launch_, at.warp, first));
}

Fault ClusterRaces::lane_order_clash(const View& view, const WarpLanes::Clash& clash) const {
    const char* before = clash.wrote_before ? "write" : "read";
    std::string details = "  earlier " + std::string(before) + ": ";
    Record record = view.self;
    record.pc = clash.pc_before;
    details += clash.pc_before != ~0u ? site_text(launch_, site(record, clash.before))
               : clash.before < 0
                   ? "by several lanes"
                   : thread_text(launch_, view.self.owner % warps_per_cta_, clash.before);
    details += "\n  nothing orders the two in memory: __syncwarp does, shuffles and votes do not";
    return fault_at(fault::kLaunchFailure,
                    "data race on " + place(clash.address, true) + " between lanes of a warp: " +
                        verb(view.self) + " not ordered after an earlier " + before,
                    launch_, site(view.self, clash.now), details);
}

}  // namespace emu::check
