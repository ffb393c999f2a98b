// SPDX-License-Identifier: BSD-3-Clause
// Turns of a cluster's warps, and the report when none of them can ever run again.
#include "exec/checks.h"
#include "exec/setup.h"

namespace emu {

namespace {

constexpr uint32_t kBudget = 4096;  // instructions of a warp in one turn

[[noreturn]] void deadlock(Cluster& cluster) {
    std::vector<check::StuckWarp> stuck;
    Warp* first = nullptr;
    for (const auto& cta : cluster.ctas) {
        for (const auto& w : cta->warps) {
            for (const Group& g : w->others) {
                first = first ? first : w.get();
                const std::string what =
                    g.wait.describe ? g.wait.describe(*w, g.wait) : g.wait.what;
                const int lane = g.mask == w->live ? check::kNoLane : __builtin_ctz(g.mask);
                stuck.push_back({site_of(*w, g.wait.pc, lane), what});
            }
        }
    }
    throw check::deadlock(info_of(*first), stuck);
}

}  // namespace

Turn turn(Cluster& cluster) {
    const Schedule schedule = cluster.launch->options.schedule;
    ++cluster.turn;
    bool ran = false, worked = false, alive = false;
    auto run = [&](Warp& w) {
        if (w.state == Warp::State::done) {
            return;
        }
        alive = true;
        if (w.state == Warp::State::blocked && !w.poll()) {
            return;
        }
        const uint32_t budget =
            schedule == Schedule::random ? 1 + static_cast<uint32_t>(cluster.rng() % 256) : kBudget;
        const uint64_t before = w.instructions;
        const Warp::State state = w.run(budget);
        ran = true;
        worked |= state != Warp::State::yielded || w.instructions - before > 64;
    };
    if (schedule == Schedule::random) {
        size_t count = 0;
        for (const auto& cta : cluster.ctas) {
            count += cta->warps.size();
        }
        const size_t start = cluster.rng() % count;
        for (size_t k = 0; k < count; ++k) {
            const size_t n = (start + k) % count, per = cluster.ctas[0]->warps.size();
            if (cluster.rng() % 4 != 0 || k + 1 == count) {
                run(*cluster.ctas[n / per]->warps[n % per]);
            } else if (cluster.ctas[n / per]->warps[n % per]->state != Warp::State::done) {
                alive = true;
                ran = true;
            }
        }
    } else {
        for (const auto& cta : cluster.ctas) {
            for (const auto& w : cta->warps) {
                run(*w);
            }
        }
    }
    if (!alive) {
        while (cluster.async.finish_some(cluster)) {
        }
        return Turn::done;
    }
    const size_t pending = cluster.async.pending().size();
    cluster.async.turn(cluster);
    if (!ran) {
        if (cluster.async.pending().size() == pending && !cluster.async.finish_some(cluster)) {
            deadlock(cluster);
        }
        return Turn::progressed;
    }
    if (!worked && cluster.async.finish_some(cluster)) {
        return Turn::progressed;  // a spin may wait for what an asynchronous unit writes
    }
    return worked ? Turn::progressed : Turn::spinning;
}

}  // namespace emu
