// SPDX-License-Identifier: BSD-3-Clause
// mbarrier.*: initialisation, arrivals, tx-counts, tests of a phase.
#include <cstring>

#include "exec/async_support.h"
#include "runtime/counters.h"

namespace emu {
namespace {

struct BarrierCode {
    BarrierOp op = BarrierOp::arrive;
    AddressRef address;
    Ref result = kNoRef, count = kNoRef, tx = kNoRef;
    bool release = true;
};

void run_update(Warp& w, const Instr& i, uint32_t active) {
    const auto& c = *static_cast<const BarrierCode*>(i.ext);
    for_lanes(active, [&](int lane) {
        const uint32_t at = shared_address(w, c.address.at(w, lane), lane);
        const uint32_t count = c.count == kNoRef ? 1 : w.u32(c.count)[lane];
        const uint32_t tx = c.tx == kNoRef ? 0 : w.u32(c.tx)[lane];
        const MbarrierResult r = barrier_apply(w, at, lane, c.op, count, tx, c.release);
        if (c.result != kNoRef) {
            w.u64(c.result)[lane] = r.state;
        }
    });
}

struct TestCode {
    AddressRef address;
    Ref value = kNoRef;  // parity (32 bits) or state token (64 bits)
    bool parity = false, blocking = false, acquire = true;
};

bool passed(Warp& w, const TestCode& c, int lane, uint32_t at) {
    const uint64_t word = barrier_word(w, at, lane);
    if (!Mbarrier::unpack(word).valid) {
        w.fail(
            fault::kLaunchFailure,
            "wait on an mbarrier that is not initialised (shared+0x" +
                [at] {
                    char hex[16];
                    std::snprintf(hex, sizeof hex, "%x)", at & kSharedOffsetMask);
                    return std::string(hex);
                }(),
            lane);
    }
    return c.parity ? mbarrier_test_parity(word, w.u32(c.value)[lane])
                    : mbarrier_test_state(word, w.u64(c.value)[lane]);
}

// a: address of the barrier (low 32 bits) and parity (bit 32); b: its generation when the wait
// began.
bool phase_over(Warp& w, const Wait& wait) {
    const uint32_t at = static_cast<uint32_t>(wait.a);
    uint64_t word;
    Cta* cta = w.cluster->cta_of(at);
    std::memcpy(&word, cta->shared.data() + (at & kSharedOffsetMask), 8);
    if (mbarrier_test_parity(word, static_cast<uint32_t>(wait.a >> 32) & 1)) {
        return true;
    }
    if ((w.checks & kCheckBarriers) && barrier_state(*w.cluster, at).generation >= wait.b + 2) {
        fail_at(w, wait.pc, fault::kLaunchFailure,
                "mbarrier phase overrun: while this thread waited, two phases of the mbarrier at "
                "shared+" +
                    std::to_string(at & kSharedOffsetMask) +
                    " ended and the parity it waits for came and went");
    }
    return false;
}

void run_test(Warp& w, const Instr& i, uint32_t active) {
    const auto& c = *static_cast<const TestCode*>(i.ext);
    uint32_t done = 0;
    int first_waiting = -1;
    for_lanes(active, [&](int lane) {
        const uint32_t at = shared_address(w, c.address.at(w, lane), lane);
        if (passed(w, c, lane, at)) {
            done |= 1u << lane;
            if (c.acquire) {
                if (check::ClusterRaces* races = races_of(*w.cluster)) {
                    races->wait(w.agent, barrier_state(*w.cluster, at).sync);
                }
            }
        } else if (first_waiting < 0) {
            first_waiting = lane;
        }
    });
    w.set_pred(i.p[0], done, active);
    if (done == active) {
        return;
    }
    const bool gives_up =
        w.launch->options.schedule == Schedule::random && (w.cluster->rng() & 7) == 0;
    if (done != 0 || !c.blocking || gives_up) {
        w.hint = true;  // the caller will try again
        w.yield();
        return;
    }
    const uint32_t at = shared_address(w, c.address.at(w, first_waiting), first_waiting);
    const uint32_t parity = c.parity ? w.u32(c.value)[first_waiting] & 1
                                     : Mbarrier::unpack(w.u64(c.value)[first_waiting]).phase;
    if (w.counters) {
        ++w.counters->mbarrier_waits;
    }
    Wait wait;
    wait.ready = phase_over;
    wait.what = "mbarrier phase";
    wait.a = at | static_cast<uint64_t>(parity) << 32;
    wait.b = barrier_state(*w.cluster, at).generation;
    w.block(wait);
}

void run_pending_count(Warp& w, const Instr& i, uint32_t active) {
    for_lanes(active,
              [&](int lane) { w.u32(i.r[0])[lane] = mbarrier_pending_count(w.u64(i.r[1])[lane]); });
}

struct Modifiers {
    bool parity = false, expect_tx = false, relaxed = false;
};
Modifiers modifiers(const ptx::Statement& s, DecodeContext& ctx) {
    Modifiers m;
    for (size_t i = 2; i < s.parts.size(); ++i) {
        const std::string_view p = s.parts[i];
        m.parity |= p == "parity";
        m.expect_tx |= p == "expect_tx";
        m.relaxed |= p == "relaxed";
        const bool known = p == "parity" || p == "expect_tx" || p == "relaxed" || p == "release" ||
                           p == "acquire" || p == "cta" || p == "cluster" || p == "noComplete" ||
                           p == "shared" || p == "shared::cta" || p == "shared::cluster" ||
                           p == "b64";
        if (!known) {
            ctx.unknown(p);
        }
    }
    return m;
}

Instr decode_update(const ptx::Statement& s, DecodeContext& ctx, BarrierOp op) {
    const Modifiers m = modifiers(s, ctx);
    BarrierCode c;
    c.op = op;
    c.release = !m.relaxed;
    size_t k = 0;
    const bool arrives = op == BarrierOp::arrive || op == BarrierOp::arrive_drop;
    if (arrives && ctx.operand(0).kind != ptx::Operand::Kind::address) {
        c.result = ctx.target(ctx.operand(k++), ptx::Type::b64);
    }
    c.address = decode_address(ctx, ctx.operand(k++), ptx::Space::shared);
    if (k < ctx.operands()) {
        const Ref value = ctx.source(ctx.operand(k), ptx::Type::b32);
        const bool bytes =
            m.expect_tx || op == BarrierOp::expect_tx || op == BarrierOp::complete_tx;
        (bytes ? c.tx : c.count) = value;
    }
    Instr i;
    i.run = run_update;
    i.ext = ctx.own(c);
    return i;
}

Instr decode_test(const ptx::Statement& s, DecodeContext& ctx, bool blocking) {
    const Modifiers m = modifiers(s, ctx);
    TestCode c;
    c.parity = m.parity;
    c.blocking = blocking;
    c.acquire = !m.relaxed;
    Instr i;
    i.run = run_test;
    i.p[0] = ctx.predicate_target(ctx.operand(0));
    c.address = decode_address(ctx, ctx.operand(1), ptx::Space::shared);
    c.value = ctx.source(ctx.operand(2), c.parity ? ptx::Type::b32 : ptx::Type::b64);
    i.ext = ctx.own(c);
    return i;
}

Instr decode(const ptx::Statement& s, DecodeContext& ctx) {
    ctx.kind = Class::barrier;
    const std::string_view op = s.parts.size() > 1 ? s.parts[1] : std::string_view();
    if (op == "init") {
        return decode_update(s, ctx, BarrierOp::init);
    }
    if (op == "inval") {
        return decode_update(s, ctx, BarrierOp::invalidate);
    }
    if (op == "arrive") {
        return decode_update(s, ctx, BarrierOp::arrive);
    }
    if (op == "arrive_drop") {
        return decode_update(s, ctx, BarrierOp::arrive_drop);
    }
    if (op == "expect_tx") {
        return decode_update(s, ctx, BarrierOp::expect_tx);
    }
    if (op == "complete_tx") {
        return decode_update(s, ctx, BarrierOp::complete_tx);
    }
    if (op == "test_wait" || op == "try_wait") {
        return decode_test(s, ctx, op == "try_wait");
    }
    if (op == "pending_count") {
        Instr i;
        i.run = run_pending_count;
        i.r[0] = ctx.target(ctx.operand(0), ptx::Type::b32);
        i.r[1] = ctx.source(ctx.operand(1), ptx::Type::b64);
        return i;
    }
    ctx.unknown(op);
}

const RegisterFamily family_mbarrier("mbarrier", decode);

}  // namespace
}  // namespace emu
