// SPDX-License-Identifier: BSD-3-Clause
// Clusters, CTAs and warps at their start and end.
#include "exec/setup.h"

#include <algorithm>
#include <cstring>

#include "exec/checks.h"
#include "exec/cp_async.h"
#include "exec/program.h"
#include "exec/synchronise.h"
#include "exec/tcgen05_state.h"

namespace emu {

namespace {

void fill(uint32_t* special, uint32_t word, uint32_t value) {
    for (int l = 0; l < kLanes; ++l) {
        special[word + static_cast<uint32_t>(l)] = value;
    }
}

void fill64(uint32_t* special, uint32_t word, uint64_t value) {
    for (uint32_t l = 0; l < kLanes; ++l) {
        special[word + 2 * l] = static_cast<uint32_t>(value);
        special[word + 2 * l + 1] = static_cast<uint32_t>(value >> 32);
    }
}

void specials(Warp& w) {
    const Launch& launch = *w.launch;
    const Cta& cta = *w.cta;
    const Cluster& cluster = *w.cluster;
    uint32_t* s = w.special_storage.data();
    for (uint32_t l = 0; l < kLanes; ++l) {
        const uint32_t thread = w.index * kLanes + l;
        s[kSpecTidX + l] = thread % launch.block.x;
        s[kSpecTidY + l] = thread / launch.block.x % launch.block.y;
        s[kSpecTidZ + l] = thread / (launch.block.x * launch.block.y);
        s[kSpecLane + l] = l;
        s[kSpecLaneEq + l] = 1u << l;
        s[kSpecLaneLt + l] = (1u << l) - 1;
        s[kSpecLaneLe + l] = (1u << l) | ((1u << l) - 1);
        s[kSpecLaneGe + l] = ~((1u << l) - 1);
        s[kSpecLaneGt + l] = ~((1u << l) | ((1u << l) - 1));
    }
    const auto three = [&](uint32_t word, Dim3 d) {
        fill(s, word, d.x), fill(s, word + kLanes, d.y), fill(s, word + 2 * kLanes, d.z);
    };
    three(kSpecNtidX, launch.block);
    fill(s, kSpecWarp, w.index);
    fill(s, kSpecNwarp, launch.warps_per_cta);
    three(kSpecCtaX, cta.id);
    three(kSpecNctaX, launch.grid);
    fill(s, kSpecSm,
         static_cast<uint32_t>(cluster.index) %
             static_cast<uint32_t>(std::max(1, launch.options.sm_count)));
    fill(s, kSpecNsm, static_cast<uint32_t>(launch.options.sm_count));
    fill64(s, kSpecGrid, 1);
    three(kSpecClusterX, cluster.id);
    three(kSpecNclusterX, launch.cluster_grid);
    three(kSpecClusterCtaX,
          {cta.id.x % launch.cluster.x, cta.id.y % launch.cluster.y, cta.id.z % launch.cluster.z});
    three(kSpecClusterNctaX, launch.cluster);
    fill(s, kSpecClusterRank, cta.rank);
    fill(s, kSpecClusterSize, static_cast<uint32_t>(launch.cluster.count()));
    fill(s, kSpecDynamicShared, static_cast<uint32_t>(launch.request->dynamic_shared));
    fill(s, kSpecTotalShared, launch.shared_bytes - kReservedShared);
    fill(s, kSpecZero, 0);
    fill(s, kSpecWarpSize, kLanes);
    fill(s, kSpecReservedShared, kReservedShared);
    fill(s, kSpecSharedBase, cta.shared_base);
    fill64(s, kSpecSharedBase64, cta.shared_base);
    fill64(s, kSpecParamBase, reinterpret_cast<uint64_t>(launch.argument_base));
    fill64(s, kSpecGraph, 0);
    fill(s, kSpecWorkspaceHigh, static_cast<uint32_t>(launch.request->grid_workspace >> 32));
    fill(s, kSpecWorkspaceLow, static_cast<uint32_t>(launch.request->grid_workspace));
    fill(s, kSpecExplicitCluster, launch.cluster.count() > 1);
}

}  // namespace

std::unique_ptr<Cluster> make_cluster(Launch& launch, uint64_t index, HostThread& host) {
    auto cluster = std::make_unique<Cluster>();
    const Program& program = *launch.program;
    cluster->launch = &launch;
    cluster->index = index;
    const Dim3 g = launch.cluster_grid;
    cluster->id = {static_cast<uint32_t>(index % g.x), static_cast<uint32_t>(index / g.x % g.y),
                   static_cast<uint32_t>(index / (static_cast<uint64_t>(g.x) * g.y))};
    cluster->rng.seed(
        static_cast<uint32_t>(launch.options.seed * 2654435761u + index * 40503u + 1));
    const auto ranks = static_cast<uint32_t>(launch.cluster.count());
    for (uint32_t rank = 0; rank < ranks; ++rank) {
        auto cta = std::make_unique<Cta>();
        cta->launch = &launch;
        cta->cluster = cluster.get();
        cta->rank = rank;
        cta->shared_base = rank << kRankShift;
        cta->id = {cluster->id.x * launch.cluster.x + rank % launch.cluster.x,
                   cluster->id.y * launch.cluster.y + rank / launch.cluster.x % launch.cluster.y,
                   cluster->id.z * launch.cluster.z + rank / (launch.cluster.x * launch.cluster.y)};
        // Shared memory of a new CTA holds garbage on hardware; a fixed pattern makes it visible.
        cta->shared.assign(launch.shared_bytes, 0xcd);
        cta->live_warps = launch.warps_per_cta;
        cta->live_threads = launch.threads_per_cta;
        for (uint32_t n = 0; n < launch.warps_per_cta; ++n) {
            auto w = std::make_unique<Warp>();
            w->cta = cta.get();
            w->cluster = cluster.get();
            w->launch = &launch;
            w->index = n;
            const uint32_t threads =
                std::min<uint32_t>(kLanes, launch.threads_per_cta - n * kLanes);
            w->live = w->mask = threads == kLanes ? kAllLanes : (1u << threads) - 1;
            w->code = program.code.data();
            w->pc = program.entry_pc;
            w->registers_storage.assign(program.register_words + 16, 0);
            w->preds_storage.assign(program.predicates, 0);
            w->preds_storage[0] = kAllLanes;
            w->special_storage.assign(kSpecWords, 0);
            w->preds = w->preds_storage.data();
            const uint64_t at = reinterpret_cast<uint64_t>(w->registers_storage.data());
            w->bank[kBankRegisters] = reinterpret_cast<uint32_t*>((at + 63) & ~uint64_t{63});
            w->bank[kBankConstants] = const_cast<uint32_t*>(program.constants.data());
            w->bank[kBankSpecial] = w->special_storage.data();
            w->local.assign(static_cast<size_t>(program.local_total) * kLanes, 0);
            w->frame.assign(static_cast<size_t>(program.frame_bytes) * kLanes, 0);
            w->checks = launch.options.checks;
            w->counting = launch.options.counters;
            w->counters = &host.counters;
            w->executed = host.executed.data();
            specials(*w);
            cta->warps.push_back(std::move(w));
        }
        cluster->ctas.push_back(std::move(cta));
    }
    checks_begin(*cluster);
    return cluster;
}

Cta* Cluster::cta_of(uint32_t shared_address) {
    const uint32_t rank = shared_address >> kRankShift;
    return rank < ctas.size() ? ctas[rank].get() : nullptr;
}

uint8_t* Cluster::shared(Warp& warp, uint32_t shared_address, uint64_t bytes, int lane) {
    Cta* cta = cta_of(shared_address);
    const uint64_t at = shared_address & kSharedOffsetMask;
    if (!cta) {
        warp.fail(fault::kIllegalAddress,
                  "shared memory access of CTA rank " +
                      std::to_string(shared_address >> kRankShift) + " in a cluster of " +
                      std::to_string(ctas.size()),
                  lane);
    }
    if (at < kReservedShared || at + bytes > cta->shared.size()) {
        char text[160];
        std::snprintf(text, sizeof text,
                      "shared memory access of %llu bytes at offset 0x%llx is outside the block's "
                      "0x%x .. 0x%llx",
                      static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(at),
                      kReservedShared, static_cast<unsigned long long>(cta->shared.size()));
        warp.fail(fault::kIllegalAddress, text, lane);
    }
    return cta->shared.data() + at;
}

void leave(Warp& w, uint32_t lanes) {
    if (w.checks & kCheckAsync) {
        const std::string left = unfinished_copies(w, lanes);
        if (!left.empty()) {
            w.fail(fault::kLaunchFailure, "the thread exits while nobody has waited for " + left,
                   __builtin_ctz(lanes));
        }
    }
    Cta& cta = *w.cta;
    cta.live_threads -= static_cast<uint32_t>(__builtin_popcount(lanes));
    w.exit_lanes(lanes);
    if (w.live == 0) {
        finish_all_copies(w);
        cta.live_warps -= 1;
        if (cta.live_warps == 0 && (w.checks & kCheckTmem)) {
            tcgen05_at_exit(cta, w);
        }
        for (uint32_t id = 0; id < kBarriers; ++id) {
            NamedBarrier& b = cta.barriers[id];
            if (b.arrived && b.everybody) {
                b.expected = cta.live_warps * kLanes;
                if (b.arrived >= b.expected) {
                    complete_barrier(cta, id);
                }
            }
        }
    }
    check_cluster_barrier(*w.cluster);
}

// A block gives and takes among what it has from its launch. The sum is checked at once rather than
// waited for: a warp that has not asked yet may still shrink to the least, the others keep theirs.
void set_max_registers(Warp& w, uint32_t count, bool increase) {
    constexpr uint32_t kLeast = 24;
    const uint32_t at_launch = exec::launch_registers(*w.launch->program->entry);
    const uint32_t before = w.max_registers ? w.max_registers : at_launch;
    if (increase ? count < before : count > before) {
        w.fail(fault::kLaunchFailure, std::string("setmaxnreg.") + (increase ? "inc" : "dec") +
                                          " to " + std::to_string(count) + " registers, from " +
                                          std::to_string(before));
    }
    w.max_registers = count;
    uint32_t wanted = 0;
    for (const auto& warp : w.cta->warps) {
        wanted += warp->max_registers ? warp->max_registers : std::min(kLeast, at_launch);
    }
    const uint32_t pool = at_launch * static_cast<uint32_t>(w.cta->warps.size());
    if (wanted > pool) {
        w.fail(fault::kLaunchTimeout,
               "setmaxnreg: the warps of the block want " + std::to_string(wanted * kLanes) +
                   " registers, it has " + std::to_string(pool * kLanes) + " from its launch (" +
                   std::to_string(at_launch) + " a thread): the last warps wait for ever");
    }
}

namespace {

void move_local_base(Warp& w, uint32_t lanes, int64_t by) {
    uint32_t* narrow = w.special_storage.data() + kSpecLocalBase;
    auto* wide = reinterpret_cast<uint64_t*>(w.special_storage.data() + kSpecLocalBase64);
    for (uint32_t m = lanes; m; m &= m - 1) {
        const int l = __builtin_ctz(m);
        wide[l] += static_cast<uint64_t>(by);
        narrow[l] = static_cast<uint32_t>(wide[l]);
    }
}

}  // namespace

Return enter_call(Warp& w, uint32_t back, uint32_t lanes,
                  std::vector<std::pair<uint32_t, uint32_t>> results) {
    const Program& p = *w.launch->program;
    if (!p.recursive) {
        return {back, nullptr};
    }
    if (w.current.stack.size() + 1 >= kMaxRecursion) {
        w.fail(fault::kLaunchFailure,
               "stack overflow: more than " + std::to_string(kMaxRecursion) + " calls deep");
    }
    auto saved = std::make_shared<SavedFrame>();
    const uint32_t* registers = w.bank[kBankRegisters];
    saved->registers.assign(registers, registers + p.register_words);
    saved->predicates = w.preds_storage;
    saved->frame = w.frame;
    saved->results = std::move(results);
    move_local_base(w, lanes, p.local_bytes);
    return {back, std::move(saved)};
}

void leave_call(Warp& w, const Return& call, uint32_t lanes) {
    if (!call.saved) {
        return;
    }
    const Program& p = *w.launch->program;
    const SavedFrame& s = *call.saved;
    move_local_base(w, lanes, -static_cast<int64_t>(p.local_bytes));
    for (size_t k = 0; k < s.predicates.size(); ++k) {
        w.preds[k] = (w.preds[k] & ~lanes) | (s.predicates[k] & lanes);
    }
    uint32_t* registers = w.bank[kBankRegisters];
    for (uint32_t m = lanes; m; m &= m - 1) {
        const auto l = static_cast<uint32_t>(__builtin_ctz(m));
        const size_t at = static_cast<size_t>(l) * p.frame_bytes;
        std::vector<uint8_t> frame(
            s.frame.begin() + static_cast<std::ptrdiff_t>(at),
            s.frame.begin() + static_cast<std::ptrdiff_t>(at + p.frame_bytes));
        for (auto [offset, bytes] : s.results) {
            std::memcpy(frame.data() + offset, w.frame.data() + at + offset, bytes);
        }
        std::memcpy(w.frame.data() + at, frame.data(), frame.size());
    }
    for (const auto& [word, wide] : p.planes) {
        for (uint32_t m = lanes; m; m &= m - 1) {
            const auto l = static_cast<uint32_t>(__builtin_ctz(m));
            if (wide) {
                registers[word + 2 * l] = s.registers[word + 2 * l];
                registers[word + 2 * l + 1] = s.registers[word + 2 * l + 1];
            } else {
                registers[word + l] = s.registers[word + l];
            }
        }
    }
}

std::string Warp::where(uint32_t at, int lane) const {
    const check::Site site = site_of(*this, at, lane);
    return check::site_text(info_of(*this), site);
}

void Warp::fail(int error, const std::string& text, int lane) {
    throw check::fault_at(error, text, info_of(*this), site_of(*this, here(), lane));
}

}  // namespace emu
