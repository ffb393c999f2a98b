// SPDX-License-Identifier: BSD-3-Clause
// Random small programs against a brute-force oracle: the oracle keeps every access as a node of an
// explicit graph of happens-before edges and answers by reachability; the detector must name a race
// at exactly the same access.
//   check_fuzz [programs] [first seed]
#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "check/races.h"

using namespace emu;
using namespace emu::check;

namespace {

// Nodes are events; an edge is plain (C) and passes the "fenced" bit on, which a proxy fence node
// sets.
struct Graph {
    std::vector<std::vector<int>> before;  // predecessors
    std::vector<char> fence;

    int node(std::vector<int> predecessors, bool is_fence = false) {
        before.push_back(std::move(predecessors));
        fence.push_back(is_fence);
        return static_cast<int>(before.size()) - 1;
    }
    // Is `from` before `to`; with a proxy fence on some path when `fenced`?
    bool reaches(int from, int to, bool fenced) const {
        std::vector<char> seen(2 * before.size(), 0);
        std::vector<std::pair<int, bool>> stack{{to, false}};
        while (!stack.empty()) {
            const auto [at, crossed] = stack.back();
            stack.pop_back();
            const bool now = crossed || fence[at];
            if (seen[2 * at + now]) {
                continue;
            }
            seen[2 * at + now] = 1;
            if (at == from && (now || !fenced)) {
                return true;
            }
            for (int p : before[at]) {
                stack.push_back({p, now});
            }
        }
        return false;
    }
};

struct Touch {
    int node;
    bool write, async, strong, global;
    uint64_t first, last;  // bytes
    int cta;
};

struct Program {
    std::mt19937 rng;
    Graph graph;
    std::vector<Touch> touches;
    LaunchInfo launch;
    static constexpr uint32_t kWarps = 3, kClusters = 2, kRanks = 2, kAgents = kWarps * kRanks;
    static constexpr uint32_t kBytes = 16;  // of contended memory
    std::unique_ptr<GlobalShadow> shadow;
    std::unique_ptr<ClusterRaces> races[kClusters];
    int last[kClusters][kAgents];  // latest node of each warp
    struct Barrier {
        BarrierSync sync;
        std::vector<int> pending, completed;
    } barriers[kClusters][2];
    struct Copy {
        AsyncOp op;
        int issued;  // the issuer's node
        int node;
    };
    struct Mbarrier {
        MbarrierSync sync;
        std::vector<int> pending, completed;
        std::vector<Copy> copies;  // in flight
        std::vector<int> ends;
        std::vector<char> finished;
    } mbarriers[kClusters][2];
    struct Group {
        Channel channel;
        std::vector<int> ends;
    } groups[kClusters][kAgents];
    std::vector<int> flag[2];  // releases of the current value of a global location, as nodes
    bool flag_all[2] = {false, false};
    std::vector<int> fenced[kClusters][kAgents], seen[kClusters][kAgents];

    explicit Program(uint32_t seed) : rng(seed) {
        launch.kernel = "fuzz";
        launch.grid[0] = kClusters * kRanks;
        launch.block[0] = kWarps * 32;
        shadow = std::make_unique<GlobalShadow>(launch);
        for (uint32_t c = 0; c < kClusters; ++c) {
            races[c] = std::make_unique<ClusterRaces>(
                launch, *shadow, std::vector<uint64_t>{2 * c, 2 * c + 1}, kWarps, 64);
            for (uint32_t a = 0; a < kAgents; ++a) {
                last[c][a] = graph.node({});
                races[c]->open(groups[c][a].channel);
            }
            for (auto& m : mbarriers[c]) {
                races[c]->open(m.sync);
            }
        }
    }

    uint32_t pick(uint32_t n) { return rng() % n; }

    void step_to(uint32_t c, uint32_t a, std::vector<int> more = {}, bool fence = false) {
        more.push_back(last[c][a]);
        last[c][a] = graph.node(std::move(more), fence);
    }

    // 0 none, 1 race, 2 missing fence: what the new touch meets, by brute force.
    int oracle(const Touch& now) const {
        int worst = 0;
        for (const Touch& t : touches) {
            if (t.global != now.global || t.last < now.first || now.last < t.first ||
                (!t.write && !now.write)) {
                continue;
            }
            if (!graph.reaches(t.node, now.node, false)) {
                if (!(t.strong && now.strong)) {
                    return 1;
                }
            } else if (now.async && !t.async && !graph.reaches(t.node, now.node, true)) {
                worst = 2;
            }
        }
        return worst;
    }

    // Runs the access on both; true when both agree and there was no fault.
    enum class Outcome { Fine, Caught, Disagree } outcome = Outcome::Fine;
    std::string disagreement;
    template <class F>
    void access(const Touch& touch, F run) {
        const int expected = oracle(touch);
        if (expected != 0 && pick(32) != 0) {
            return;  // most racy accesses are left out, so that programs grow long
        }
        std::string text;
        int got = 0;
        try {
            run();
        } catch (const Fault& f) {
            text = f.text;
            got = f.text.rfind("missing fence", 0) == 0 ? 2 : 1;
        }
        // Several conflicts at once may be named in any order.
        if ((expected != 0) != (got != 0)) {
            outcome = Outcome::Disagree;
            disagreement = "oracle " + std::to_string(expected) + ", detector " +
                           std::to_string(got) + ": " + text;
        } else if (got != 0) {
            outcome = Outcome::Caught;
        }
        touches.push_back(touch);
    }

    void event() {
        const uint32_t c = pick(kClusters), a = pick(kAgents);
        ClusterRaces& r = *races[c];
        const uint32_t what = pick(100);
        const uint32_t sizes[] = {1, 2, 4, 8};
        const uint32_t bytes = sizes[pick(4)];
        const uint32_t offset = pick(kBytes / bytes) * bytes;
        const uint64_t base = 1 << 20;
        if (what < 12) {  // shared memory, generic
            const bool write = pick(3) == 0;
            step_to(c, a);
            uint32_t address[32] = {offset};
            access({last[c][a], write, false, false, false, uint64_t{c} << 32 | offset,
                    (uint64_t{c} << 32 | offset) + bytes - 1, 0},
                   [&] {
                       r.shared({a, what, write ? Op::Write : Op::Read, Scope::None}, address, 1,
                                bytes);
                   });
        } else if (what < 24) {  // global memory, generic
            const bool write = pick(4) == 0;
            step_to(c, a);
            uint64_t address[32] = {base + offset};
            access({last[c][a], write, false, false, true, base + offset, base + offset + bytes - 1,
                    0},
                   [&] {
                       r.global({a, what, write ? Op::Write : Op::Read, Scope::None}, address, 1,
                                bytes);
                   });
        } else if (what < 34) {  // a group copy with an own begin, never ordered with the issuer
                                 // afterwards
            const bool write = pick(2) == 0, proxy = pick(2) == 0;
            Group& g = groups[c][a];
            step_to(c, a);
            const int op_node = graph.node({last[c][a]});
            g.ends.push_back(op_node);
            const AsyncOp op = r.begin(a, g.channel, what, proxy ? Proxy::Async : Proxy::Generic);
            const uint32_t n = 1 + pick(kBytes - offset);
            access({op_node, write, proxy, false, false, uint64_t{c} << 32 | offset,
                    (uint64_t{c} << 32 | offset) + n - 1, 0},
                   [&] { r.shared_range(op, write ? Op::Write : Op::Read, offset, n); });
            r.finish(op);
        } else if (what < 42) {  // wait_group
            Group& g = groups[c][a];
            if (!g.ends.empty()) {
                const uint32_t upto = 1 + pick(static_cast<uint32_t>(g.ends.size()));
                r.wait(a, g.channel, upto);
                step_to(c, a, std::vector<int>(g.ends.begin(), g.ends.begin() + upto));
            }
        } else if (what < 52) {  // barrier of all the warps of a random subset
            Barrier& b = barriers[c][pick(2)];
            std::vector<uint32_t> party;
            for (uint32_t w = 0; w < kAgents; ++w) {
                if (pick(2) == 0) {
                    party.push_back(w);
                }
            }
            std::vector<int> arrivals;
            for (uint32_t w : party) {
                r.arrive(w, b.sync);
                step_to(c, w);
                arrivals.push_back(last[c][w]);
            }
            r.complete(b.sync);
            for (uint32_t w : party) {
                r.wait(w, b.sync);
                step_to(c, w, arrivals);
            }
        } else if (what < 60) {  // arrive at an mbarrier
            Mbarrier& m = mbarriers[c][pick(2)];
            r.arrive(a, m.sync);
            step_to(c, a);
            m.pending.push_back(last[c][a]);
        } else if (what < 66) {  // a bulk copy that completes on an mbarrier
            Mbarrier& m = mbarriers[c][pick(2)];
            step_to(c, a);
            const int op_node = graph.node({last[c][a]});
            Copy copy{r.begin(a, m.sync.channel, what, Proxy::Async), last[c][a], op_node};
            const uint32_t n = 1 + pick(kBytes - offset);
            access({op_node, true, true, false, false, uint64_t{c} << 32 | offset,
                    (uint64_t{c} << 32 | offset) + n - 1, 0},
                   [&] { r.shared_range(copy.op, Op::Write, offset, n); });
            m.copies.push_back(copy);
            m.ends.push_back(op_node);
            m.finished.push_back(0);
        } else if (what < 74) {  // one of the copies lands, out of order
            Mbarrier& m = mbarriers[c][pick(2)];
            if (!m.copies.empty()) {
                const uint32_t i = pick(static_cast<uint32_t>(m.copies.size()));
                if (pick(2) == 0) {  // it writes once more, long after its issue
                    access({m.copies[i].node, true, true, false, false, uint64_t{c} << 32 | offset,
                            (uint64_t{c} << 32 | offset) + bytes - 1, 0},
                           [&] { r.shared_range(m.copies[i].op, Op::Write, offset, bytes); });
                }
                r.finish(m.copies[i].op);
                m.finished[m.copies[i].op.epoch - 1] = 1;
                m.pending.push_back(m.copies[i].issued);
                m.copies.erase(m.copies.begin() + i);
            }
        } else if (what < 80) {  // the phase ends
            Mbarrier& m = mbarriers[c][pick(2)];
            r.complete(m.sync);
            m.completed.insert(m.completed.end(), m.pending.begin(), m.pending.end());
            m.pending.clear();
            for (size_t i = 0; i < m.finished.size() && m.finished[i]; ++i) {
                m.completed.push_back(m.ends[i]);
            }
        } else if (what < 86) {
            Mbarrier& m = mbarriers[c][pick(2)];
            r.wait(a, m.sync);
            step_to(c, a, m.completed);
        } else if (what < 91) {
            r.fence_proxy_async(a);
            step_to(c, a, {}, true);
        } else if (what < 94) {
            r.fence(a, Scope::Gpu);
            step_to(c, a, seen[c][a]);
            seen[c][a].clear();
            fenced[c][a] = {last[c][a]};
        } else {  // strong access of a global flag, sometimes release or acquire
            const uint32_t f = pick(2);
            const uint64_t key = base + 4096 + 64 * f;
            const bool rmw = pick(3) == 0, write = rmw || pick(2) == 0, reads = rmw || !write;
            const bool acquire = reads && pick(2) == 0, release = write && pick(2) == 0;
            uint64_t address[32] = {key};
            step_to(c, a);
            access({last[c][a], write, false, true, true, key, key + 3, 0}, [&] {
                r.global({a, what,
                          rmw     ? Op::Atomic
                          : write ? Op::Write
                                  : Op::Read,
                          Scope::Gpu},
                         address, 1, 4);
            });
            r.strong(a, key, {reads, write, acquire, release, Scope::Gpu});
            if (reads) {
                if (acquire) {
                    step_to(c, a, flag[f]);
                } else {
                    seen[c][a].insert(seen[c][a].end(), flag[f].begin(), flag[f].end());
                }
            }
            if (write && !rmw) {
                flag[f].clear();
            }
            if (write) {
                if (release) {
                    step_to(c, a);
                    flag[f].push_back(last[c][a]);
                } else {
                    flag[f].insert(flag[f].end(), fenced[c][a].begin(), fenced[c][a].end());
                }
            }
        }
    }
};

}  // namespace

int main(int argc, char** argv) {
    const uint32_t programs = argc > 1 ? std::atoi(argv[1]) : 4000;
    const uint32_t first = argc > 2 ? std::atoi(argv[2]) : 1;
    uint32_t caught = 0;
    uint64_t events = 0;
    for (uint32_t seed = first; seed < first + programs; ++seed) {
        Program p(seed);
        for (int i = 0; i < 400 && p.outcome == Program::Outcome::Fine; ++i) {
            p.event();
            ++events;
        }
        if (p.outcome == Program::Outcome::Disagree) {
            std::printf("seed %u: %s\n", seed, p.disagreement.c_str());
            return 1;
        }
        caught += p.outcome == Program::Outcome::Caught;
    }
    std::printf("ok: %u programs, %llu events, %u end in a race, detector and oracle agree\n",
                programs, static_cast<unsigned long long>(events), caught);
    return caught > 0 && caught < programs + 1 ? 0 : 1;
}
