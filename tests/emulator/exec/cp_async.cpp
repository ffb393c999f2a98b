// SPDX-License-Identifier: BSD-3-Clause
// cp.async.{ca,cg}.shared.global with commit_group, wait_group and wait_all. Groups belong to
// lanes.
#include <cstring>
#include <deque>

#include "exec/async_families.h"
#include "exec/checks.h"
#include "exec/cp_async.h"
#include "exec/memory.h"
#include "runtime/counters.h"

namespace emu {

namespace {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

struct CopyOp final : AsyncOp {
    uint8_t* to[kLanes];
    const uint8_t* from[kLanes];
    uint8_t bytes = 0;
    uint8_t read[kLanes];
    uint64_t group = 0;       // of its lanes
    uint64_t number[kLanes];  // how many copies each lane had issued before
    check::AsyncOp race;

    void complete(Cluster& cluster) override {
        for_lanes(lane_mask, [&](int l) {
            if (read[l] == bytes) {
                std::memcpy(to[l], from[l], bytes);
            } else {
                std::memset(to[l], 0, bytes);
                std::memcpy(to[l], from[l], read[l]);
            }
        });
        if (race.channel) {
            races_of(cluster)->finish(race);
        }
    }
    std::string describe() const override {
        return "cp.async of " + std::to_string(bytes) + " bytes a lane";
    }
};

struct State {
    uint64_t committed[kLanes] = {};
    uint64_t issued[kLanes] = {};
    uint64_t handed_over[kLanes] = {};  // copies with a lower number belong to an mbarrier
    std::deque<std::shared_ptr<CopyOp>> unwaited;
    check::Channel channel;
    bool opened = false;
};

State& state(Warp& w) {
    return w.slots.get<State>(kSlotCpAsync);
}

struct Copy {
    MemoryOp to, from;
    uint32_t bytes = 16;
    Ref source_bytes = kNoRef;
    PredRef ignore = 0;
    bool has_ignore = false;
};

[[noreturn]] void misaligned(Warp& w, const char* space, uint64_t address, uint32_t bytes,
                             int lane) {
    char text[96];
    std::snprintf(text, sizeof text, "cp.async of %u bytes with a misaligned %s address 0x%llx",
                  bytes, space, static_cast<unsigned long long>(address));
    w.fail(fault::kMisalignedAddress, text, lane);
}

// Resolves both sides and tells the checks of a copy in flight: it reads size[lane] bytes (all when
// size is null) for the `reading` lanes and writes the full size for all active ones.
check::AsyncOp watch(Warp& w, const Copy& c, uint32_t active, uint32_t reading,
                     const uint32_t* size, Resolved& to, Resolved& from) {
    lane_addresses(w, c.to, to.address);
    lane_addresses(w, c.from, from.address);
    uint32_t full = reading;
    for_lanes(active, [&](int l) {
        to.address[l] &= 0xffffffffu;
        if (to.address[l] & (c.bytes - 1)) {
            misaligned(w, "shared", to.address[l], c.bytes, l);
        }
        if ((reading >> l & 1) && (from.address[l] & (c.bytes - 1))) {
            misaligned(w, "global", from.address[l], c.bytes, l);
        }
        to.host[l] = w.cluster->shared(w, static_cast<uint32_t>(to.address[l]), c.bytes, l);
        from.host[l] = reinterpret_cast<uint8_t*>(from.address[l]);
        full &= size && size[l] != c.bytes ? ~(1u << l) : kAllLanes;
    });
    if (w.counting) {
        for_lanes(reading, [&](int l) {
            w.counters->async_load(from.address[l], size ? size[l] : c.bytes);
        });
    }
    check::AsyncOp race;
    if (!w.checks) {
        return race;
    }
    LaunchChecks& all = *checks_of(*w.launch);
    ClusterChecks& mine = *checks_of(*w.cluster);
    if (all.allocations) {
        if (full && !all.allocations->check(mine.cache, from.address, full, c.bytes, false)) {
            throw all.allocations->fault(all.info, site_of(w, w.here(), -1), from.address, full,
                                         c.bytes, false);
        }
        for_lanes(reading & ~full, [&](int l) {
            check_global_range(w, w.here(), from.address[l], size[l], false, l);
        });
    }
    for_lanes(active, [&](int l) {
        check_shared_written(*w.cluster, static_cast<uint32_t>(to.address[l]), c.bytes);
    });
    if (check::ClusterRaces* races = mine.races.get()) {
        State& s = state(w);
        if (!s.opened) {
            races->open(s.channel);
            s.opened = true;
        }
        race = races->begin(w.agent, s.channel, w.here(), check::Proxy::Generic);
        uint32_t address[kLanes];
        for (int l = 0; l < kLanes; ++l) {
            address[l] = static_cast<uint32_t>(to.address[l]);
        }
        races->shared(race, check::Op::Write, address, active, c.bytes);
        if (full) {
            races->global(race, check::Op::Read, from.address, full, c.bytes);
        }
        for_lanes(reading & ~full, [&](int l) {
            races->global_range(race, check::Op::Read, from.address[l], size[l]);
        });
    }
    return race;
}

void cp_async(Warp& w, const Instr& i, uint32_t active) {
    const auto& c = *static_cast<const Copy*>(i.ext);
    State& s = state(w);
    Resolved to, from;
    uint32_t reading = active;
    if (c.source_bytes != kNoRef || c.has_ignore) {
        const uint32_t ignored = c.has_ignore ? w.pred(c.ignore) : 0;
        reading &= ~ignored;
        if (c.source_bytes != kNoRef) {
            const uint32_t* n = w.u32(c.source_bytes);
            for_lanes(reading, [&](int l) {
                if (n[l] == 0) {
                    reading &= ~(1u << l);
                } else if (n[l] > c.bytes) {
                    w.fail(fault::kIllegalInstruction,
                           "cp.async with a src-size of " + std::to_string(n[l]) +
                               " beyond cp-size " + std::to_string(c.bytes),
                           l);
                }
            });
        }
    }
    const uint32_t* size = c.source_bytes == kNoRef ? nullptr : w.u32(c.source_bytes);
    check::AsyncOp race = watch(w, c, active, reading, size, to, from);
    uint32_t rest = active;
    while (rest) {
        const uint64_t group = s.committed[__builtin_ctz(rest)];
        auto op = std::make_shared<CopyOp>();
        op->kind = AsyncKind::cp_async;
        op->issuer = &w;
        op->pc = w.here();
        op->bytes = static_cast<uint8_t>(c.bytes);
        op->group = group;
        op->race = race;
        race.channel = nullptr;  // lanes of another group share the record, not its end
        for_lanes(rest, [&](int l) {
            if (s.committed[l] != group) {
                return;
            }
            op->lane_mask |= 1u << l;
            op->to[l] = to.host[l];
            const bool reads = reading >> l & 1;
            op->from[l] = reads ? from.host[l] : nullptr;
            op->read[l] = static_cast<uint8_t>(!reads ? 0 : size ? size[l] : c.bytes);
            op->number[l] = s.issued[l]++;
        });
        rest &= ~op->lane_mask;
        s.unwaited.push_back(op);
        w.cluster->async.submit(*w.cluster, std::move(op));
    }
}

// Copies of these lanes for which `due` holds are made complete and forgotten.
template <class F>
bool finish_copies(Warp& w, uint32_t lanes, F due) {
    State& s = state(w);
    bool pending = false;
    for (size_t k = 0; k < s.unwaited.size();) {
        CopyOp& op = *s.unwaited[k];
        uint32_t hit = 0;
        for_lanes(op.lane_mask & lanes,
                  [&](int l) { hit |= static_cast<uint32_t>(due(op, l)) << l; });
        if (!hit) {
            ++k;
            continue;
        }
        const std::shared_ptr<CopyOp> keep = s.unwaited[k];
        if (!op.done) {
            pending = true;
            w.cluster->async.finish(*w.cluster, op);
        }
        if (op.race.channel) {
            races_of(*w.cluster)->wait(w.agent, *op.race.channel, op.race.epoch);
        }
        s.unwaited.erase(s.unwaited.begin() + static_cast<std::ptrdiff_t>(k));
    }
    return pending;
}

void commit_group(Warp& w, const Instr&, uint32_t active) {
    State& s = state(w);
    for_lanes(active, [&](int l) { ++s.committed[l]; });
}

// imm: groups that may stay in flight
void wait_group(Warp& w, const Instr& i, uint32_t active) {
    State& s = state(w);
    const auto n = static_cast<uint64_t>(i.imm);
    const bool waited = finish_copies(
        w, active, [&](const CopyOp& op, int l) { return op.group + n < s.committed[l]; });
    w.counters->async_waits += waited;
}

void wait_all(Warp& w, const Instr&, uint32_t active) {
    w.counters->async_waits += finish_copies(w, active, [](const CopyOp&, int) { return true; });
}

bool hook_finished(Warp& w, int lane, uint64_t mark) {
    for (const auto& op : state(w).unwaited) {
        if (!op->done && (op->lane_mask >> lane & 1) && op->number[lane] < mark) {
            return false;
        }
    }
    return true;
}

uint64_t hook_mark(Warp& w, int lane) {
    State& s = state(w);
    s.handed_over[lane] = s.issued[lane];
    return s.issued[lane];
}

check::Channel* hook_channel(Warp& w) {
    State& s = state(w);
    return s.opened ? &s.channel : nullptr;
}

// The copies now belong to the mbarrier: who waits there has waited for them.
void hook_finish(Warp& w, int lane, uint64_t mark) {
    State& s = state(w);
    for (size_t k = 0; k < s.unwaited.size();) {
        const std::shared_ptr<CopyOp> op = s.unwaited[k];
        if ((op->lane_mask >> lane & 1) && op->number[lane] < mark) {
            if (!op->done) {
                w.cluster->async.finish(*w.cluster, *op);
            }
            s.unwaited.erase(s.unwaited.begin() + static_cast<std::ptrdiff_t>(k));
        } else {
            ++k;
        }
    }
}

Instr decode_cp(const ptx::Statement& s, DecodeContext& c) {
    const bool ours = s.parts.size() > 2 && s.parts[1] == "async" &&
                      (s.parts[2] == "ca" || s.parts[2] == "cg" || s.parts[2] == "commit_group" ||
                       s.parts[2] == "wait_group" || s.parts[2] == "wait_all");
    if (!ours) {
        return decode_cp_bulk(s, c);
    }
    Instr i;
    if (s.parts[2] == "commit_group") {
        i.run = commit_group;
        return i;
    }
    if (s.parts[2] == "wait_group") {
        i.run = wait_group;
        i.imm = c.integer(c.operand(0));
        return i;
    }
    if (s.parts[2] == "wait_all") {
        i.run = wait_all;
        return i;
    }
    Copy copy;
    for (size_t k = 3; k < s.parts.size(); ++k) {
        const std::string_view p = s.parts[k];
        if (p != "shared" && p != "shared::cta" && p != "global" && !p.starts_with("L2::")) {
            c.unknown(p);
        }
    }
    auto memory = [&](const Operand& o, Space space) {
        MemoryOp m;
        m.space = space;
        const DecodeContext::Address a = c.address(o, space);
        m.base = a.base, m.wide = a.wide, m.offset = a.offset;
        return m;
    };
    copy.to = memory(c.operand(0), Space::shared);
    copy.from = memory(c.operand(1), Space::global);
    copy.bytes = static_cast<uint32_t>(c.integer(c.operand(2)));
    if (copy.bytes != 16 && (s.parts[2] == "cg" || (copy.bytes != 4 && copy.bytes != 8))) {
        c.fail("cp.async of " + std::to_string(copy.bytes) + " bytes");
    }
    size_t left = c.operands() - 3;
    if (s.has("L2::cache_hint") && left > 0) {
        --left;
    }
    if (left > 0) {
        const Operand& o = c.operand(3);
        if (o.kind == Operand::Kind::reg && c.width_of(o) == 0) {
            copy.ignore = c.predicate(o);
            copy.has_ignore = true;
        } else {
            copy.source_bytes = c.source(o, Type::u32);
        }
    }
    copy.to.bytes = copy.from.bytes = static_cast<uint8_t>(copy.bytes);
    i.run = cp_async;
    i.ext = c.own(copy);
    return i;
}

const RegisterFamily kFamily("cp", decode_cp);

const bool kHooks = [] {
    cp_async_hooks() = {hook_finished, hook_mark, hook_finish, hook_channel};
    return true;
}();

}  // namespace

std::string unfinished_copies(Warp& w, uint32_t lanes) {
    if (!w.slots.has(kSlotCpAsync)) {
        return {};
    }
    const State& s = state(w);
    for (const auto& op : s.unwaited) {
        for (uint32_t left = op->lane_mask & lanes; left; left &= left - 1) {
            const int lane = __builtin_ctz(left);
            if (op->number[lane] >= s.handed_over[lane]) {
                return op->describe() + " issued at " + w.where(op->pc, lane);
            }
        }
    }
    return {};
}

void finish_all_copies(Warp& w) {
    if (w.slots.has(kSlotCpAsync)) {
        finish_copies(w, kAllLanes, [](const CopyOp&, int) { return true; });
    }
}

}  // namespace emu
