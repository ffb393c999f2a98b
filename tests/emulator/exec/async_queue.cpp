// SPDX-License-Identifier: BSD-3-Clause
// When asynchronous work completes: the schedule decides, waits and in-order units restrict it.
#include <algorithm>

#include "exec/machine.h"

namespace emu {

namespace {
constexpr uint64_t kFairTurns = 3;
}

void AsyncQueue::run(Cluster& cluster, std::shared_ptr<AsyncOp> op) {
    op->done = true;
    pending_.erase(std::find(pending_.begin(), pending_.end(), op));
    op->complete(cluster);
}

void AsyncQueue::submit(Cluster& cluster, std::shared_ptr<AsyncOp> op) {
    op->sequence = ++sequence_;
    op->due = turns_ + kFairTurns;
    const Schedule schedule = cluster.launch->options.schedule;
    pending_.push_back(op);
    if (schedule == Schedule::early || (schedule == Schedule::random && cluster.rng() % 4 == 0)) {
        if (op->may_complete(cluster)) {
            run(cluster, std::move(op));
        }
    }
}

void AsyncQueue::turn(Cluster& cluster) {
    ++turns_;
    if (pending_.empty()) {
        return;
    }
    switch (cluster.launch->options.schedule) {
        case Schedule::late:
            return;
        case Schedule::early:
        case Schedule::fair: {
            const bool early = cluster.launch->options.schedule == Schedule::early;
            for (bool again = true; again;) {
                again = false;
                for (const auto& op : pending_) {
                    if ((early || op->due <= turns_) && op->may_complete(cluster)) {
                        run(cluster, op);
                        again = true;
                        break;
                    }
                }
            }
            return;
        }
        case Schedule::random: {
            const size_t tries = cluster.rng() % 4;
            for (size_t k = 0; k < tries && !pending_.empty(); ++k) {
                const auto op = pending_[cluster.rng() % pending_.size()];
                if (op->may_complete(cluster)) {
                    run(cluster, op);
                }
            }
            return;
        }
    }
}

void AsyncQueue::finish(Cluster& cluster, AsyncOp& op) {
    while (!op.done) {
        if (op.may_complete(cluster)) {
            for (const auto& p : pending_) {
                if (p.get() == &op) {
                    const auto keep = p;
                    run(cluster, keep);
                    break;
                }
            }
            return;
        }
        // An in-order predecessor goes first: the oldest operation that may complete.
        std::shared_ptr<AsyncOp> next;
        for (const auto& p : pending_) {
            if (p.get() != &op && p->may_complete(cluster)) {
                next = p;
                break;
            }
        }
        if (!next) {
            return;
        }
        run(cluster, next);
    }
}

bool AsyncQueue::finish_some(Cluster& cluster) {
    std::vector<std::shared_ptr<AsyncOp>> able;
    for (const auto& op : pending_) {
        if (op->may_complete(cluster)) {
            able.push_back(op);
            if (cluster.launch->options.schedule != Schedule::random) {
                break;
            }
        }
    }
    if (able.empty()) {
        return false;
    }
    run(cluster, able[able.size() > 1 ? cluster.rng() % able.size() : 0]);
    return true;
}

}  // namespace emu
