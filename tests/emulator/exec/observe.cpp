// SPDX-License-Identifier: BSD-3-Clause
#include "exec/observe.h"

#include "check/barriers.h"
#include "exec/checks.h"
#include "exec/tcgen05_state.h"
#include "exec/wgmma_state.h"
#include "runtime/counters.h"

namespace emu {
namespace {

check::Scope scope_named(uint32_t scope) {
    constexpr check::Scope kScopes[] = {check::Scope::Cta, check::Scope::Cluster, check::Scope::Gpu,
                                        check::Scope::Sys};
    return kScopes[scope & 3];
}

check::Scope scope_of(const MemoryOp& op) {
    return op.strong ? scope_named(op.scope) : check::Scope::None;
}

check::Op op_of(Touch touch) {
    return touch == Touch::load    ? check::Op::Read
           : touch == Touch::store ? check::Op::Write
                                   : check::Op::Atomic;
}

// Synchronisation through the location goes by distinct address.
template <class F>
void each_address(const uint64_t* address, uint32_t mask, F f) {
    uint64_t last = 0;
    for (uint32_t m = mask; m != 0; m &= m - 1) {
        const uint64_t a = address[__builtin_ctz(m)];
        if (m == mask || a != last) {
            f(a);
        }
        last = a;
    }
}

uint64_t key_of(ptx::Space space, uint64_t address) {
    return space == ptx::Space::shared
               ? check::ClusterRaces::shared_key(static_cast<uint32_t>(address))
               : address;
}

void check_shared_bounds(Warp& w, const uint64_t* address, uint32_t mask, uint32_t bytes,
                         bool write) {
    const uint32_t size = static_cast<uint32_t>(w.cta->shared.size()), base = w.cta->shared_base;
    uint32_t outside = 0;
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t at = static_cast<uint32_t>(address[l]) - base;
        outside |= static_cast<uint32_t>(at >= size || bytes > size - at) << l;
    }
    for (uint32_t m = outside & mask; m != 0; m &= m - 1) {
        const int lane = __builtin_ctz(m);
        const uint32_t a = static_cast<uint32_t>(address[lane]), offset = a & kSharedOffsetMask;
        if ((a >> kRankShift) >= w.cluster->ctas.size() || offset >= size ||
            bytes > size - offset) {
            throw check::shared_out_of_bounds(info_of(w), site_of(w, w.here(), lane), a, bytes,
                                              size, write);
        }
    }
}

void check_shared(Warp& w, ClusterChecks& c, const check::Access& access, const uint64_t* address,
                  uint32_t mask, uint32_t bytes, const void* values) {
    check_shared_bounds(w, address, mask, bytes, access.op != check::Op::Read);
    if (c.races) {
        c.races->shared(access, address, mask, bytes, values);
    }
    if (c.init.empty()) {
        return;
    }
    // By rank; nearly always all lanes address one CTA.
    for (uint32_t left = mask; left != 0;) {
        const uint32_t rank = static_cast<uint32_t>(address[__builtin_ctz(left)]) >> kRankShift;
        uint32_t here = 0;
        uint32_t offset[kLanes];
        for (int l = 0; l < kLanes; ++l) {
            const uint32_t a = static_cast<uint32_t>(address[l]);
            here |= static_cast<uint32_t>(a >> kRankShift == rank) << l;
            offset[l] = a & kSharedOffsetMask;
        }
        here &= left;
        left &= ~here;
        check::InitMap& init = c.init[rank];
        if (access.op != check::Op::Write) {
            if (const uint32_t bad = init.unwritten(offset, here, bytes)) {
                const int lane = __builtin_ctz(bad);
                Fault fault = check::InitMap::fault(info_of(w), site_of(w, w.here(), lane),
                                                    offset[lane], bytes);
                if (!c.races) {
                    throw fault;
                }
                checks_of(*w.launch)->unwritten(std::move(fault));
                init.write(offset, bad, bytes);
            }
        }
        if (access.op != check::Op::Read) {
            init.write(offset, here, bytes);
        }
    }
}

// ---- counters

// Passes through the banks: 32 lanes at a time for up to 4 bytes, 16 for 8, 8 for 16; each takes as
// many wavefronts as the busiest bank has different words.
uint32_t wavefronts(const uint64_t* address, uint32_t mask, uint32_t bytes, uint32_t& ideal) {
    const uint32_t words = bytes <= 4 ? 1 : bytes / 4, lanes = 32 / words;
    uint32_t total = 0;
    ideal = 0;
    for (uint32_t first = 0; first < 32; first += lanes) {
        const uint32_t part = lanes == 32 ? mask : mask >> first & ((1u << lanes) - 1);
        if (part == 0) {
            continue;
        }
        uint32_t seen[32][32], count[32] = {}, worst = 0;
        for (uint32_t m = part; m != 0; m &= m - 1) {
            const uint32_t word = static_cast<uint32_t>(address[first + __builtin_ctz(m)]) >> 2;
            for (uint32_t k = 0; k < words; ++k) {
                const uint32_t bank = (word + k) & 31;
                uint32_t* const list = seen[bank];
                uint32_t n = 0;
                while (n < count[bank] && list[n] != word + k) {
                    ++n;
                }
                if (n == count[bank]) {
                    list[count[bank]++] = word + k;
                    worst = std::max(worst, count[bank]);
                }
            }
        }
        total += worst;
        ideal += 1;
    }
    return total;
}

void count_access(Warp& w, Touch touch, ptx::Space space, const uint64_t* address, uint32_t mask,
                  uint32_t bytes) {
    Counters& c = *w.counters;
    if (space == ptx::Space::shared) {
        uint32_t ideal = 0;
        const uint32_t passes = wavefronts(address, mask, bytes, ideal);
        const ptx::Statement* s = w.launch->program->sources[w.here()].statement;
        c.shared_access(s != nullptr ? static_cast<int>(s->line) : 0, passes, ideal);
        return;
    }
    uint64_t sectors[64];
    uint32_t n = 0;
    for (uint32_t m = mask; m != 0; m &= m - 1) {
        const uint64_t a = address[__builtin_ctz(m)];
        if (touch != Touch::store) {
            c.global_load(a, bytes);
        }
        if (touch != Touch::load) {
            c.global_store(a, bytes);
        }
        for (uint64_t s = a >> 5; s <= (a + bytes - 1) >> 5; ++s) {
            uint32_t k = n;
            while (k > 0 && sectors[k - 1] != s) {
                --k;
            }
            if (k == 0 && n < 64) {
                sectors[n++] = s;
            }
        }
    }
    if (touch != Touch::store) {
        c.global_load_sectors += n;
    }
    if (touch != Touch::load) {
        c.global_store_sectors += n;
    }
}

}  // namespace

void observe_access(Warp& w, const MemoryOp& op, Touch touch, ptx::Space space,
                    const uint64_t* address, uint32_t mask, uint32_t bytes, const void* values) {
    if (mask == 0) {
        return;
    }
    if (w.checks != 0) {
        LaunchChecks& all = *checks_of(*w.launch);
        ClusterChecks& c = *checks_of(*w.cluster);
        const check::Access access{w.agent, w.here(), op_of(touch), scope_of(op)};
        if (space == ptx::Space::shared) {
            check_shared(w, c, access, address, mask, bytes, values);
        } else {
            if (all.allocations != nullptr &&
                !all.allocations->check(c.cache, address, mask, bytes, touch != Touch::load)) {
                throw all.allocations->fault(all.info, site_of(w, w.here(), -1), address, mask,
                                             bytes, touch != Touch::load);
            }
            if (c.races) {
                c.races->global(access, address, mask, bytes, values);
            }
        }
        if (c.races && op.strong && touch != Touch::load && !ptx::is_float(op.type)) {
            each_address(address, mask, [&](uint64_t a) {
                c.races->strong(
                    w.agent, key_of(space, a),
                    {false, true, false, op.release, access.scope, touch == Touch::atomic, mask});
            });
        }
    }
    if (w.counting) {
        count_access(w, touch, space, address, mask, bytes);
    }
}

void check_acquired(Warp& w, const MemoryOp& op, bool atomic, ptx::Space space,
                    const uint64_t* address, uint32_t mask) {
    check::ClusterRaces* races = races_of(*w.cluster);
    if (races == nullptr || !op.strong || (atomic && ptx::is_float(op.type))) {
        return;
    }
    each_address(address, mask, [&](uint64_t a) {
        races->strong(w.agent, key_of(space, a),
                      {true, false, op.acquire, false, scope_of(op), atomic});
    });
}

void observe_divergent(Warp& w, uint32_t active, uint32_t needed) {
    if (w.checks & kCheckAligned) {
        throw check::divergent_aligned(info_of(w), site_of(w, w.here(), -1), active, needed);
    }
}

void observe_registers(Warp& w) {
    const LaunchChecks* all = checks_of(*w.launch);
    if (all == nullptr || all->uses.empty()) {
        return;
    }
    const WarpWgmma& mine = w.slots.get<WarpWgmma>(kSlotWgmma);
    const check::InFlightRegisters& in_flight = mine.in_flight;
    for (const LaunchChecks::RegisterUse& use : all->uses[w.here()]) {
        uint32_t wgmma = 0;
        if (mine.loads.conflict(use.reg, use.write, &wgmma)) {
            const ptx::Statement& s = *all->program.sources[w.here()].statement;
            if (s.parts[0] == "mov" && !use.write) {
                tcgen05_rename(w, s);
                return;
            }
            w.fail(fault::kLaunchFailure,
                   "register " + all->program.sources[w.here()].function->registers[use.reg].name +
                       " is the destination of a tcgen05.ld in flight (" + w.where(wgmma, -1) +
                       "): tcgen05.wait::ld is missing");
        }
        if (in_flight.conflict(use.reg, use.write, &wgmma)) {
            throw check::InFlightRegisters::fault(
                all->info, site_of(w, w.here(), -1),
                all->program.sources[w.here()].function->registers[use.reg].name, use.write, wgmma);
        }
    }
}

void observe_barrier_arrive(Warp& w, uint32_t id, uint32_t count, bool sync, int lane) {
    if (w.checks & kCheckBarriers) {
        const NamedBarrier& b = w.cta->barriers[id];
        const check::LaunchInfo& launch = info_of(w);
        const check::Site site = site_of(w, w.here(), lane);
        if (count != 0 || !sync) {
            check::bar::check_operands(launch, site, id, count);
        }
        const uint32_t expects = count != 0 ? count : w.cta->live_warps * kLanes;
        if (b.arrived != 0) {
            for (const auto& [warp, lanes] : b.parties) {
                if (warp == w.index && (lanes >> lane & 1)) {
                    throw check::bar::arrived_twice(launch, site, id);
                }
            }
            if (expects != b.expected) {
                throw check::bar::count_mismatch(launch, site, id, expects, b.expected, b.arrived);
            }
        }
    }
    if (check::ClusterRaces* races = races_of(*w.cluster)) {
        races->arrive(w.agent, checks_of(*w.cluster)->named[w.cta->rank][id]);
    }
}

void observe_barrier_complete(Cta& cta, uint32_t id) {
    if (check::ClusterRaces* races = races_of(*cta.cluster)) {
        races->complete(checks_of(*cta.cluster)->named[cta.rank][id]);
    }
}

void observe_barrier_wait(Warp& w, uint32_t id) {
    if (check::ClusterRaces* races = races_of(*w.cluster)) {
        races->wait(w.agent, checks_of(*w.cluster)->named[w.cta->rank][id]);
    }
}

void observe_cluster_arrive(Warp& w, bool release) {
    check::ClusterRaces* races = races_of(*w.cluster);
    if (races != nullptr && release) {
        races->arrive(w.agent, checks_of(*w.cluster)->whole);
    }
}

void observe_cluster_complete(Cluster& cluster) {
    if (check::ClusterRaces* races = races_of(cluster)) {
        races->complete(checks_of(cluster)->whole);
    }
}

void observe_cluster_wait(Warp& w) {
    if (check::ClusterRaces* races = races_of(*w.cluster)) {
        races->wait(w.agent, checks_of(*w.cluster)->whole);
    }
}

void observe_warp_sync(Warp& w) {
    if (check::ClusterRaces* races = races_of(*w.cluster)) {
        races->warp_sync(w.agent);
    }
}

void observe_fence(Warp& w, uint32_t scope) {
    if (check::ClusterRaces* races = races_of(*w.cluster)) {
        races->fence(w.agent, scope_named(scope));
    }
}

}  // namespace emu
