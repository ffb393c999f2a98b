// SPDX-License-Identifier: BSD-3-Clause
// Happens-before race detector for shared memory (one per cluster) and global memory (one per
// launch).
//
// An agent is a warp or a channel of asynchronous operations (see Channel). Every warp has two
// vector clocks:
//   C  what happened before,
//   P  what happened before and was made visible to the async proxy by a fence.proxy.async on the
//   way.
// Generic writes that an async-proxy access reads or overwrites must be in P of the warp that
// issued the access.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "check/clock.h"
#include "check/lanes.h"
#include "check/report.h"
#include "check/shadow.h"

namespace emu::check {

class ClusterRaces;

// Operations that complete asynchronously and are waited for together. One per warp and kind for
// what has wait_group (cp.async; bulk .read and bulk; wgmma; tcgen05), one per mbarrier for what
// completes on an mbarrier.
struct Channel {
    AgentId agent = 0;
    uint32_t begun = 0;              // epoch of the latest operation
    uint32_t done = 0;               // every operation up to this epoch has completed
    std::vector<uint8_t> completed;  // flags of epochs done + 1 ...
    uint32_t landed = 0;             // mbarrier: `done` when the latest phase ended
    uint32_t overtaken = 0;   // mbarrier: a phase ended while operations up to here were in flight
    uint32_t waited = 0;      // somebody has waited for every operation up to this epoch
    AgentId last_issuer = 0;  // of operation `begun`
    uint32_t last_pc = 0;
    bool may_outlive = false;  // needs no wait before exit: global writes of bulk stores
    bool signals =
        false;       // completion is a release at an mbarrier: hands over what the issuers knew
    Clocks carried;  // of completed operations
};

// One asynchronous operation in flight: what its issuer knew when it was issued.
struct AsyncOp {
    Channel* channel = nullptr;
    uint32_t epoch = 0;  // position in the channel
    AgentId issuer = 0;
    uint32_t issuer_epoch = 0, issuer_single = 0;  // as View has them
    uint32_t pc = 0;
    Proxy proxy = Proxy::Async;
    std::shared_ptr<const Clocks> known;
    mutable uint32_t records[2][2] = {};  // [space][read, write], made on first use
};

// bar, barrier.cluster: arrivals collect in `pending`; complete() moves them to `completed`, where
// waiters read.
struct BarrierSync {
    Clocks pending, completed;
};

// mbarrier: like BarrierSync, and the channel of the copies that signal it.
struct MbarrierSync {
    Clocks pending, completed;
    Channel channel;
};

class ClusterRaces {
  public:
    // A shared address is rank << kRankShift | offset, as in exec/machine.h.
    static constexpr uint32_t kRankShift = 24;
    static constexpr uint32_t kOffsetMask = (1u << kRankShift) - 1;

    // ctas: linear grid index of each CTA of the cluster, by rank. shared_bytes: window of one CTA.
    ClusterRaces(const LaunchInfo& launch, GlobalShadow& global, std::vector<uint64_t> ctas,
                 uint32_t warps_per_cta, uint64_t shared_bytes);
    ~ClusterRaces();
    ClusterRaces(const ClusterRaces&) = delete;
    ClusterRaces& operator=(const ClusterRaces&) = delete;

    AgentId warp(uint32_t rank, uint32_t warp_in_cta) const {
        return rank * warps_per_cta_ + warp_in_cta;
    }

    // --- Accesses. One call for a warp instruction; throws Fault (cudaErrorLaunchFailure) on a
    // race. Addresses are in bounds and naturally aligned. bytes per lane: 1, 2, 4, 8, 16 (or 32
    // for global). values: for writes, lane l's bytes at values + l * bytes, to tell lanes of one
    // instruction that write different values to one address; nullptr skips that.
    void shared(const Access& access, const uint32_t* address, uint32_t mask, uint32_t bytes,
                const void* values = nullptr);
    void shared(const Access& access, const uint64_t* address, uint32_t mask, uint32_t bytes,
                const void* values = nullptr);
    void global(const Access& access, const uint64_t* address, uint32_t mask, uint32_t bytes,
                const void* values = nullptr);
    // A contiguous range touched by the warp as a whole (no lane to name), any alignment.
    void shared_range(const Access& access, uint32_t address, uint64_t bytes);
    void global_range(const Access& access, uint64_t address, uint64_t bytes);

    // --- Synchronisation of warps.
    // bar.warp.sync: orders the lanes of a warp.
    void warp_sync(AgentId agent);
    // Hands over what happened before; of the warp's own accesses since its lanes were last
    // ordered only those of `lanes`, if other lanes have made some (below, "Lanes").
    void release(AgentId agent, Clocks& sync, uint32_t lanes = ~0u);
    void acquire(AgentId agent, const Clocks& sync);
    // bar.sync = arrive by each warp, complete() at the last arrival, wait by each warp that
    // resumes. bar.arrive only arrives. barrier.cluster.arrive.release / .wait.acquire alike;
    // .relaxed arrives call nothing.
    void arrive(AgentId agent, BarrierSync& barrier) { release(agent, barrier.pending); }
    void complete(BarrierSync& barrier);
    void wait(AgentId agent, const BarrierSync& barrier) { acquire(agent, barrier.completed); }
    // mbarrier: arrive (.release), complete() whenever a phase ends, wait when a test of the phase
    // succeeds (.acquire).
    void arrive(AgentId agent, MbarrierSync& barrier, uint32_t lanes = ~0u) {
        release(agent, barrier.pending, lanes);
    }
    void complete(MbarrierSync& barrier);
    void wait(AgentId agent, MbarrierSync& barrier) {
        acquire(agent, barrier.completed);
        barrier.channel.waited = barrier.channel.landed;
    }

    // fence.proxy.async (any state space): what the warp knows becomes visible to the async proxy.
    void fence_proxy_async(AgentId agent);
    // membar, fence.acq_rel, fence.sc: later strong writes release, earlier strong reads acquire.
    void fence(AgentId agent, Scope scope);

    // --- Atomics and strong loads and stores, besides shared()/global(): synchronisation through
    // the location. key: global address, or shared_key(shared address). acquire/release: qualifiers
    // of the instruction (relaxed has neither but still pairs with fences). A write that is no rmw
    // (st) starts a new release sequence. Call it after the read and before the write takes effect
    // for others; once per distinct address. Skip it for floating-point atomics: nobody
    // synchronises through them.
    struct Strong {
        bool reads = false, writes = false;
        bool acquire = false, release = false;
        Scope scope = Scope::Gpu;
        bool rmw = false;  // one half of an atomic: its write continues the release sequence
        uint32_t lanes = ~0u;
    };
    void strong(AgentId agent, uint64_t key, const Strong& how);
    static uint64_t shared_key(uint32_t address) { return (uint64_t{1} << 63) | address; }

    // --- Asynchronous operations. Call begin() and the accesses when the instruction is ISSUED,
    // finish() when the effect has really been performed. The detector then reports the premature
    // access under every schedule. Proxy::Generic for cp.async, Proxy::Async for bulk copies, wgmma
    // and tcgen05.
    void open(Channel& channel);        // gives the channel its agent; once per channel
    void open(MbarrierSync& barrier) {  // at the first init; a second init keeps the object
        open(barrier.channel);
        barrier.channel.signals = true;
    }
    AsyncOp begin(AgentId issuer, Channel& channel, uint32_t pc, Proxy proxy, uint32_t lanes = ~0u);
    void shared_range(const AsyncOp& op, Op kind, uint32_t address, uint64_t bytes);
    void global_range(const AsyncOp& op, Op kind, uint64_t address, uint64_t bytes);
    // Lane-wise forms, for cp.async.
    void shared(const AsyncOp& op, Op kind, const uint32_t* address, uint32_t mask, uint32_t bytes);
    void global(const AsyncOp& op, Op kind, const uint64_t* address, uint32_t mask, uint32_t bytes);
    void finish(const AsyncOp& op);
    // The agent has waited for every operation of the channel up to this epoch (wait_group).
    void wait(AgentId agent, Channel& channel, uint32_t epoch);
    // cp.async.mbarrier.arrive, tcgen05.commit: the arrival carries the channel's operations up to
    // this epoch.
    void arrive_channel(MbarrierSync& barrier, Channel& channel, uint32_t epoch);
    // All warps have exited: throws for a channel whose latest operation nobody waited for (unless
    // may_outlive).
    void at_exit() const;

  private:
    struct State;
    template <class Address>
    void shared_words(const View& v, uint32_t record, const Address* address, uint32_t mask,
                      uint32_t bytes);
    void global_words(const View& v, uint32_t record, const uint64_t* address, uint32_t mask,
                      uint32_t bytes);
    void shared_words_of_range(const View& v, uint32_t record, uint32_t address, uint64_t bytes);
    void global_words_of_range(const View& v, uint32_t record, uint64_t address, uint64_t bytes);
    template <class Address>
    void check_lanes(const View& v, const Address* address, uint32_t mask, uint32_t bytes,
                     const uint8_t* values, bool in_shared) const;
    template <class Address>
    void shared_access(const Access& access, const Address* address, uint32_t mask, uint32_t bytes,
                       const void* values);
    void end_section(AgentId agent);
    bool ordered_for_one_lane(const View& view, const Record& before) const;
    Fault clash(const View& view, int lane, uint64_t address, uint32_t other, Conflict kind,
                bool in_shared) const;
    template <class Address>
    void check_lane_order(const View& v, const Address* address, uint32_t mask,
                          uint32_t bytes) const;
    Fault lane_order_clash(const View& view, const WarpLanes::Clash& clash) const;
    Fault lanes_clash(const View& view, int first, int second, uint64_t address,
                      bool in_shared) const;
    std::string place(uint64_t address, bool in_shared) const;
    Site site(const Record& record, int lane) const;

    const LaunchInfo& launch_;
    GlobalShadow& global_;
    uint32_t warps_per_cta_;
    std::unique_ptr<State> state_;
};

}  // namespace emu::check
