// SPDX-License-Identifier: BSD-3-Clause
// Tensor memory of a CTA, its allocations, and the tcgen05 operations in flight.
#pragma once
#include <deque>
#include <memory>
#include <vector>

#include "check/races.h"
#include "exec/machine.h"
#include "units/tcgen05.h"

namespace emu {

struct TcPipeline;

// tcgen05.mma, cp and commit of one CTA complete in order of issue.
struct TcOp : AsyncOp {
    TcPipeline* pipeline = nullptr;
    bool may_complete(const Cluster&) const override;
    void complete(Cluster& cluster) final;

  protected:
    virtual void perform(Cluster& cluster) = 0;
};

struct TcPipeline {
    std::deque<std::shared_ptr<TcOp>> ops;
    check::Channel channel;
    uint32_t epochs = 0;  // operations begun on the channel
    bool opened = false;
};

struct CtaTensorMemory {
    TensorMemory memory;
    std::vector<uint32_t> owner =
        std::vector<uint32_t>(TensorMemory::kColumns / 32);  // allocation number, 0 = free
    uint32_t allocations = 0;
    bool relinquished = false;
    TcPipeline pipeline;
};

// A mov reads a destination of a tcgen05.ld in flight. nvcc places such renames before the wait, so
// the loads complete now and the destinations of the mov count as in flight in their place.
void tcgen05_rename(Warp& w, const ptx::Statement& mov);

// At the end of a CTA: faults when columns are still allocated (check tmem).
void tcgen05_at_exit(Cta& cta, Warp& last);

}  // namespace emu
