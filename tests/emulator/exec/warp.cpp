// SPDX-License-Identifier: BSD-3-Clause
// Groups of lanes: the running loop, divergence, reconvergence, blocking.
#include <algorithm>

#include "exec/decode.h"
#include "exec/flow.h"
#include "exec/observe.h"

namespace emu {

namespace {

constexpr uint32_t kSpinLimit = 2048;  // backward branches of one group while others could run

bool never(Warp&, const Wait&) {
    return false;
}

// Runs first: fewest set-backs, then the deepest call, then the lowest pc.
bool before(const Group& a, const Group& b) {
    if (a.penalty != b.penalty) {
        return a.penalty < b.penalty;
    }
    if (a.stack.size() != b.stack.size()) {
        return a.stack.size() > b.stack.size();
    }
    return a.pc < b.pc;
}

bool ready(Warp& w, Group& g) {
    if (!g.wait.ready) {
        return true;
    }
    if (!g.synced && !g.wait.ready(w, g.wait)) {
        return false;
    }
    g.synced = false;
    g.wait = Wait{};
    return true;
}

}  // namespace

void Warp::branch(uint32_t taken, uint32_t to) {
    const bool backward = to < pc;
    if (taken == mask) {
        pc = to;
        if (backward) {
            if (hint) {
                yielded = true;
                event = true;
            } else if (meet != ~0u || !others.empty()) {
                event = true;
            }
        } else if (!others.empty()) {
            event = true;
        }
        return;
    }
    Group other;
    other.stack = current.stack;
    other.penalty = current.penalty;
    if (to < pc) {
        other.mask = mask & ~taken, other.pc = pc;
        mask = taken, pc = to;
        if (hint) {
            yielded = true;
        }
    } else {
        other.mask = taken, other.pc = to;
        mask &= ~taken;
    }
    others.push_back(std::move(other));
    event = true;
}

void Warp::exit_lanes(uint32_t lanes) {
    live &= ~lanes;
    mask &= ~lanes;
    event = true;
}

void Warp::block(Wait wait) {
    wait.lanes = mask;
    wait.pc = pc - 1;
    if (wait.again) {
        pc -= 1;
    }
    current.wait = wait;
    event = true;
}

bool Warp::converge(const Instr&, uint32_t active, uint32_t members) {
    if ((members & live & ~active) == 0 || current.forced) {
        current.forced = false;
        return true;
    }
    // Lanes that the guard switched off will never come.
    if ((members & live & ~active & mask) != 0 || others.empty()) {
        observe_divergent(*this, active, members & live);
        return true;
    }
    Wait wait;
    wait.ready = never;
    wait.what = "the other lanes of the warp";
    wait.a = members & live;
    for (const Group& g : others) {
        if ((g.mask & wait.a) && g.stack == current.stack && (checks & kCheckAligned)) {
            wait.b |= goes_round(*launch->program, g.pc, here());
        }
    }
    block(wait);
    return false;
}

// Chooses the group that runs next; false when none can.
bool Warp::regroup() {
    if (mask) {
        current.mask = mask, current.pc = pc;
        if (others.empty() && !current.wait.ready) {
            meet = ~0u;
            return true;
        }
        others.push_back(std::move(current));
        current = Group{};
        mask = 0;
    }
    // Lanes at one pc with one call stack are one group again; whoever waited for the others looks
    // again.
    for (size_t a = 0; a < others.size(); ++a) {
        for (size_t b = a + 1; b < others.size();) {
            Group &x = others[a], &y = others[b];
            const bool movable = (!x.wait.ready || x.wait.again) && (!y.wait.ready || y.wait.again);
            if (movable && x.pc == y.pc && x.stack == y.stack) {
                x.mask |= y.mask;
                x.penalty = std::min(x.penalty, y.penalty);
                x.wait = Wait{};
                others.erase(others.begin() + static_cast<std::ptrdiff_t>(b));
            } else {
                ++b;
            }
        }
    }
    size_t best = others.size();
    for (size_t k = 0; k < others.size(); ++k) {
        Group& g = others[k];
        if (g.wait.ready == never && (g.wait.a & live & ~g.mask) == 0) {
            // Who was missing has exited. Lanes that left early are excused, lanes that went round
            // are not.
            if (g.wait.b) {
                pc = g.pc + 1;
                observe_divergent(*this, g.mask, static_cast<uint32_t>(g.wait.a));
            }
            g.wait = Wait{};
        }
        if (!others[k].wait.ready || ready(*this, others[k])) {
            if (best == others.size() || before(others[k], others[best])) {
                best = k;
            }
        }
    }
    if (best == others.size()) {
        // All wait. If that is only for lanes of this warp, those lanes never come.
        for (size_t k = 0; k < others.size(); ++k) {
            if (others[k].wait.ready != never) {
                return false;
            }
        }
        if (others.empty()) {
            return false;
        }
        best = 0;
        Group& g = others[0];
        pc = g.pc + 1;
        observe_divergent(*this, g.mask, static_cast<uint32_t>(g.wait.a));
        g.wait = Wait{};
        g.forced = true;
    }
    current = std::move(others[best]);
    others.erase(others.begin() + static_cast<std::ptrdiff_t>(best));
    mask = current.mask, pc = current.pc;
    meet = ~0u;
    for (const Group& g : others) {
        if (g.pc >= pc && g.pc < meet && g.stack == current.stack) {
            meet = g.pc;
        }
    }
    return true;
}

Warp::State Warp::run(uint32_t budget) {
    budget_given = budget_left = budget;
    yielded = false;
    if (!regroup()) {
        return state = live ? State::blocked : State::done;
    }
    const Instr* const program = code;
    Executed* const counts = executed;
    while (budget_left > 0) {
        // Straight-line execution of one group.
        event = false;
        while (budget_left > 0) {
            const Instr& i = program[pc];
            const uint32_t active = mask & (preds[i.guard >> 1] ^ (0u - (i.guard & 1u)));
            counts[pc].threads += static_cast<uint32_t>(__builtin_popcount(active));
            counts[pc].warps += 1;
            ++pc;
            --budget_left;
            if (active) {
                if (watching) [[unlikely]] {
                    observe_registers(*this);
                }
                i.run(*this, i, active);
            }
            if (event || pc == meet) [[unlikely]] {
                break;
            }
        }
        if (mask && !current.wait.ready && others.empty() && !yielded) {
            meet = ~0u;
            continue;
        }
        if (yielded && mask && !others.empty()) {
            current.penalty += 1;  // a spin: the other lanes may be who it waits for
        } else if (!others.empty() && ++since_switch > kSpinLimit) {
            since_switch = 0;
            current.penalty += 1;
        }
        if (!regroup()) {
            instructions += budget_given - budget_left;
            budget_given = budget_left = 0;
            return state = live ? State::blocked : State::done;
        }
        if (yielded) {
            hint = false;
            break;
        }
    }
    instructions += budget_given - budget_left;
    budget_given = budget_left = 0;
    return state = yielded ? State::yielded : State::runnable;
}

bool Warp::poll() {
    // regroup() asks each wait once and clears those that are over.
    bool any = false;
    for (Group& g : others) {
        any |= !g.wait.ready || ready(*this, g);
    }
    return any;
}

}  // namespace emu
