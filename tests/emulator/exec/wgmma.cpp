// SPDX-License-Identifier: BSD-3-Clause
// wgmma.fence, mma_async, commit_group, wait_group: four warps issue one operation of the
// warpgroup; operands are read and accumulators written when it completes, in order of issue within
// the warpgroup.
#include "units/wgmma.h"

#include <deque>
#include <memory>

#include "check/registers.h"
#include "exec/async_support.h"
#include "exec/wgmma_state.h"
#include "runtime/counters.h"
#include "units/fp8_sum.h"

namespace emu {
namespace {

struct WgmmaCode {
    WgmmaSpec spec;
    bool a_in_registers = false, trans_a = false, trans_b = false, neg_a = false, neg_b = false;
    Ref a_desc = kNoRef, b_desc = kNoRef;
    Ref a[4] = {kNoRef, kNoRef, kNoRef, kNoRef};
    std::vector<Ref> d;
    PredRef scale_d = kAlways;
};

struct Warpgroup;

struct WgmmaOp : AsyncOp {
    const WgmmaCode* code = nullptr;
    Warpgroup* group = nullptr;
    uint64_t index = 0;  // in the warpgroup
    Warp* warps[4] = {};
    uint32_t arrived = 0;
    uint64_t a_desc = 0, b_desc = 0;
    bool scale_d = true, submitted = false;
    check::AsyncOp races[4];  // what each warp knew when it issued its part

    void complete(Cluster& cluster) override;
    bool may_complete(const Cluster&) const override;
    std::string describe() const override { return "wgmma.mma_async"; }
};

struct Warpgroup {
    std::deque<std::shared_ptr<WgmmaOp>> ops;  // not complete, in order
    uint64_t first = 0;                        // index of ops.front()
    check::Channel channels[4];                // by issuing warp; a wait covers all four
    bool opened = false;
    WgmmaOp* at(uint64_t index) {
        return index < first || index - first >= ops.size() ? nullptr : ops[index - first].get();
    }
};
struct CtaWarpgroups {
    std::unordered_map<uint32_t, Warpgroup> groups;
};

Warpgroup& warpgroup_of(Warp& w) {
    return w.cta->slots.get<CtaWarpgroups>(kSlotWgmma).groups[w.index / 4];
}

template <class T>
void compute(const WgmmaCode& c, WgmmaOp& op, const std::vector<uint8_t>& shared) {
    WgmmaSpec s = c.spec;
    if (op.issuer->launch->options.fp32_fp8_sums) {
        s.fp8_terms = 0;
    }
    alignas(64) T a[64 * 32], b[256 * 32];
    const int k = s.k();
    uint32_t bad = 0;
    const auto outside = [&](const char* which) {
        char text[96];
        std::snprintf(text, sizeof text,
                      "wgmma reads operand %s outside shared memory, at offset 0x%x", which, bad);
        fail_at(*op.issuer, op.pc, fault::kIllegalAddress, text);
    };
    const uint32_t bytes = static_cast<uint32_t>(shared.size());
    if (c.a_in_registers) {
        for (int warp = 0; warp < 4; ++warp) {
            const uint32_t* planes[4];
            for (int r = 0; r < 4; ++r) {
                planes[r] = op.warps[warp]->u32(c.a[r]);
            }
            wgmma_a_from_registers(s, planes, a + 16 * warp * k);
        }
    } else if (!load_operand(decode_wgmma_descriptor(op.a_desc), c.trans_a, s.a, 64, k,
                             shared.data(), bytes, {k, 1}, a, &bad)) {
        outside("A");
    }
    if (!load_operand(decode_wgmma_descriptor(op.b_desc), c.trans_b, s.b, s.n, k, shared.data(),
                      bytes, {1, s.n, true}, b, &bad)) {
        outside("B");
    }
    uint32_t* planes[4][128];
    uint32_t* const* warps[4];
    for (int warp = 0; warp < 4; ++warp) {
        for (size_t r = 0; r < c.d.size(); ++r) {
            planes[warp][r] = op.warps[warp]->u32(c.d[r]);
        }
        warps[warp] = planes[warp];
    }
    if constexpr (std::is_same_v<T, float>) {
        wgmma_run(s, a, b, warps, op.scale_d, c.neg_a, c.neg_b);
    } else {
        wgmma_run(s, a, b, warps, op.scale_d);
    }
}

void WgmmaOp::complete(Cluster& cluster) {
    const std::vector<uint8_t>& shared = warps[0]->cta->shared;
    if (code->spec.integer()) {
        compute<int32_t>(*code, *this, shared);
    } else {
        compute<float>(*code, *this, shared);
    }
    if (check::ClusterRaces* races = races_of(cluster)) {
        for (const check::AsyncOp& race : this->races) {
            if (race.channel != nullptr) {
                races->finish(race);
            }
        }
    }
    const std::shared_ptr<WgmmaOp> keep = group->ops.front();
    group->ops.pop_front();
    ++group->first;
}

bool WgmmaOp::may_complete(const Cluster&) const {
    return submitted && group->first == index;
}

// A warp issues its part: it reads its 16 rows of A and all of B.
void note_reads(Warp& w, WgmmaOp& op) {
    check::ClusterRaces* races = races_of(*w.cluster);
    if (races == nullptr && !(w.checks & kCheckInit)) {
        return;
    }
    Warpgroup& group = *op.group;
    const WgmmaCode& c = *op.code;
    const uint32_t part = w.index % 4;
    if (races) {
        if (!group.opened) {
            for (check::Channel& channel : group.channels) {
                races->open(channel);
            }
            group.opened = true;
        }
        op.races[part] = races->begin(w.agent, group.channels[part], op.pc, check::Proxy::Async);
    }
    const auto note = [&](uint64_t bits, bool mn_major, Elem type, int first, int mn) {
        const SmemDesc d = decode_wgmma_descriptor(bits);
        const int bytes = elem_bits(type) / 8, piece = 16 / bytes;
        for (int i = first; i < first + mn; i += mn_major ? piece : 1) {
            for (int j = 0; j < c.spec.k(); j += mn_major ? 1 : piece) {
                const uint32_t at = operand_address(d, mn_major, bytes, i, j);
                if (at + 16 > w.cta->shared.size()) {
                    continue;
                }
                check_shared_read(w, op.pc, w.cta->shared_base | at, 16);
                if (races) {
                    races->shared_range(op.races[part], check::Op::Read, w.cta->shared_base | at,
                                        16);
                }
            }
        }
    };
    if (!c.a_in_registers) {
        note(op.a_desc, c.trans_a, c.spec.a, static_cast<int>(16 * part), 16);
    }
    note(op.b_desc, c.trans_b, c.spec.b, 0, c.spec.n);
}

uint64_t uniform(Warp& w, Ref ref, const char* what) {
    const uint64_t* v = w.u64(ref);
    for (int lane = 1; lane < kLanes; ++lane) {
        if (v[lane] != v[0]) {
            w.fail(fault::kLaunchFailure, std::string("wgmma: ") + what + " differs between lanes",
                   lane);
        }
    }
    return v[0];
}

bool whole_warp(Warp& w, const Instr& i, uint32_t active) {
    if (active == kAllLanes) {
        return true;
    }
    if (w.live != kAllLanes) {
        w.fail(fault::kLaunchFailure, "wgmma needs all 32 lanes of each warp; some have exited");
    }
    return w.converge(i, active, kAllLanes);
}

void run_mma(Warp& w, const Instr& i, uint32_t active) {
    if (!whole_warp(w, i, active)) {
        return;
    }
    const auto& c = *static_cast<const WgmmaCode*>(i.ext);
    if (w.cta->warps.size() < (w.index / 4 + 1) * 4) {
        w.fail(fault::kLaunchFailure,
               "wgmma needs a warpgroup of four warps; the CTA ends inside this one");
    }
    WarpWgmma& mine = w.slots.get<WarpWgmma>(kSlotWgmma);
    Warpgroup& group = warpgroup_of(w);
    if (mine.issued - group.first >= group.ops.size()) {
        auto fresh = std::make_shared<WgmmaOp>();
        fresh->kind = AsyncKind::wgmma;
        fresh->issuer = &w;
        fresh->pc = w.here();
        fresh->lane_mask = kAllLanes;
        fresh->code = &c;
        fresh->group = &group;
        fresh->index = mine.issued;
        fresh->a_desc = c.a_in_registers ? 0 : uniform(w, c.a_desc, "the descriptor of A");
        fresh->b_desc = uniform(w, c.b_desc, "the descriptor of B");
        fresh->scale_d = w.pred(c.scale_d) & 1;
        group.ops.push_back(fresh);
    }
    const std::shared_ptr<WgmmaOp> op = group.ops[mine.issued - group.first];
    if (op->code != &c || op->pc != w.here() ||
        op->b_desc != uniform(w, c.b_desc, "the descriptor of B") ||
        (!c.a_in_registers && op->a_desc != uniform(w, c.a_desc, "the descriptor of A")) ||
        op->scale_d != static_cast<bool>(w.pred(c.scale_d) & 1)) {
        w.fail(fault::kLaunchFailure,
               "the warps of a warpgroup execute different wgmma.mma_async, or with different "
               "operands");
    }
    op->warps[w.index % 4] = &w;
    op->arrived |= 1u << (w.index % 4);
    ++mine.issued;
    note_reads(w, *op);
    if (w.checks & kCheckAsync) {
        const ptx::Statement& s = *w.launch->program->sources[w.here()].statement;
        for (size_t k = 0; k < 2; ++k) {
            for (const ptx::Operand& item : s.operands[k].items) {
                if (item.kind == ptx::Operand::Kind::reg) {
                    mine.in_flight.add(static_cast<uint32_t>(item.reg), k == 0, mine.batch,
                                       w.here());
                }
            }
        }
        w.watching = true;
    }
    if (op->arrived == 15) {
        op->submitted = true;
        if (w.counters) {
            w.counters->tensor_flops +=
                2ull * 64 * static_cast<uint64_t>(c.spec.n) * static_cast<uint64_t>(c.spec.k());
        }
        w.cluster->async.submit(*w.cluster, op);
    }
}

void run_fence(Warp& w, const Instr& i, uint32_t active) {
    whole_warp(w, i, active);
}

void run_commit(Warp& w, const Instr& i, uint32_t active) {
    if (!whole_warp(w, i, active)) {
        return;
    }
    WarpWgmma& mine = w.slots.get<WarpWgmma>(kSlotWgmma);
    mine.groups.push_back(mine.issued);
    ++mine.batch;
}

bool all_issued(Warp& w, const Wait& wait) {
    Warpgroup& group = warpgroup_of(w);
    const WgmmaOp* last = wait.a == 0 ? nullptr : group.at(wait.a - 1);
    return last == nullptr || last->submitted;
}

void run_wait(Warp& w, const Instr& i, uint32_t active) {
    if (!whole_warp(w, i, active)) {
        return;
    }
    WarpWgmma& mine = w.slots.get<WarpWgmma>(kSlotWgmma);
    const size_t keep = static_cast<size_t>(i.imm);
    if (mine.groups.size() <= keep) {
        return;
    }
    const size_t done = mine.groups.size() - keep;
    const uint64_t until = mine.groups[done - 1];
    Wait wait;
    wait.ready = all_issued;
    wait.what = "wgmma.wait_group: the other warps of the warpgroup";
    wait.a = until;
    if (!all_issued(w, wait)) {
        w.block(wait);
        return;
    }
    if (w.counters) {
        ++w.counters->async_waits;
    }
    Warpgroup& group = warpgroup_of(w);
    while (group.first < until && !group.ops.empty()) {
        const std::shared_ptr<WgmmaOp> op = group.ops.front();
        w.cluster->async.finish(*w.cluster, *op);
    }
    if (check::ClusterRaces* races = races_of(*w.cluster)) {
        if (group.opened) {
            for (check::Channel& channel : group.channels) {
                races->wait(w.agent, channel, static_cast<uint32_t>(until));
            }
        }
    }
    mine.groups.erase(mine.groups.begin(), mine.groups.begin() + static_cast<long>(done));
    if (w.checks & kCheckAsync) {
        mine.in_flight.retire(mine.batch - mine.groups.size() - 1);
        w.watching = !mine.in_flight.empty() || !mine.loads.empty();
    }
}

// ---- decoding

bool parse_shape(std::string_view p, int& n, int& k) {
    return std::sscanf(std::string(p).c_str(), "m64n%dk%d", &n, &k) == 2;
}

bool flag(DecodeContext& ctx, size_t operand) {
    return ctx.integer(ctx.operand(operand)) != 0;
}
bool negative(DecodeContext& ctx, size_t operand) {
    const int64_t v = ctx.integer(ctx.operand(operand));
    if (v != 1 && v != -1) {
        ctx.fail("the scale of an operand of wgmma is 1 or -1");
    }
    return v == -1;
}

Instr decode_mma(const ptx::Statement& s, DecodeContext& ctx) {
    WgmmaCode c;
    int k = 0, types = 0;
    Elem elems[3] = {};
    for (size_t p = 2; p < s.parts.size(); ++p) {
        const std::string_view part = s.parts[p];
        if (part == "sync" || part == "aligned" || parse_shape(part, c.spec.n, k)) {
            continue;
        }
        if (part == "satfinite") {
            c.spec.satfinite = true;
        } else if (part == "sp") {
            ctx.fail("sparse wgmma (.sp) is not emulated");
        } else if (types < 3 && elem_from_text(std::string(part).c_str(), elems[types])) {
            ++types;
        } else {
            ctx.unknown(part);
        }
    }
    c.spec.d = elems[0];
    c.spec.a = elems[1];
    c.spec.b = elems[2];
    c.spec.fp8_terms = fp8_terms(ctx.arch, c.spec.a, c.spec.b);
    if (types != 3 || !wgmma_known(c.spec) || k != c.spec.k()) {
        ctx.fail("no such form of wgmma.mma_async");
    }
    const ptx::Operand& d = ctx.operand(0);
    if (d.items.size() != static_cast<size_t>(c.spec.d_regs())) {
        ctx.fail("wgmma needs " + std::to_string(c.spec.d_regs()) + " accumulator registers");
    }
    for (const ptx::Operand& item : d.items) {
        c.d.push_back(ctx.target(item, ptx::Type::b32));
    }
    const ptx::Operand& a = ctx.operand(1);
    if (a.kind == ptx::Operand::Kind::vector) {
        c.a_in_registers = true;
        if (a.items.size() != 4) {
            ctx.fail("operand A of wgmma takes four registers");
        }
        for (size_t r = 0; r < 4; ++r) {
            c.a[r] = ctx.source(a.items[r], ptx::Type::b32);
        }
    } else {
        c.a_desc = ctx.source(a, ptx::Type::b64);
    }
    c.b_desc = ctx.source(ctx.operand(2), ptx::Type::b64);
    size_t at = 3;
    if (at < ctx.operands()) {
        c.scale_d = ctx.predicate(ctx.operand(at++));
    }
    if (!c.spec.integer() && at < ctx.operands()) {
        c.neg_a = negative(ctx, at++);
        c.neg_b = negative(ctx, at++);
        if (elem_bits(c.spec.a) == 16) {
            if (!c.a_in_registers) {
                c.trans_a = flag(ctx, at++);
            }
            c.trans_b = flag(ctx, at++);
        }
    }
    if (at != ctx.operands()) {
        ctx.fail("unexpected number of operands");
    }
    ctx.kind = Class::matrix;
    Instr i;
    i.run = run_mma;
    i.ext = ctx.own(std::move(c));
    return i;
}

Instr decode(const ptx::Statement& s, DecodeContext& ctx) {
    const std::string_view op = s.parts.size() > 1 ? s.parts[1] : std::string_view();
    if (op == "mma_async") {
        return decode_mma(s, ctx);
    }
    ctx.kind = Class::fence;
    Instr i;
    if (op == "fence") {
        i.run = run_fence;
    } else if (op == "commit_group") {
        i.run = run_commit;
    } else if (op == "wait_group") {
        i.run = run_wait;
        i.imm = ctx.integer(ctx.operand(0));
    } else {
        ctx.unknown(op);
    }
    return i;
}

const RegisterFamily family_wgmma("wgmma", decode);

}  // namespace
}  // namespace emu
