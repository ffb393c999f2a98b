// SPDX-License-Identifier: BSD-3-Clause
// tcgen05.mma, dense: kind::f16, tf32, f8f6f4 (e4m3, e5m2) and i8, one and two CTAs, A in shared or
// tensor memory.
#include "exec/tcgen05_mma.h"

#include <algorithm>

#include "runtime/counters.h"

namespace emu {
namespace {

struct MmaCode {
    TcKind kind = TcKind::f16;
    int ctas = 1;
    bool a_in_tmem = false;
    AddressRef d, a_tmem;
    Ref a_desc = kNoRef, b_desc = kNoRef, instr = kNoRef;
    std::vector<Ref> disabled;
    PredRef accumulate = kAlways;
    int scale_shift = 0;
};

struct MmaOp : TcOp {
    const MmaCode* code = nullptr;
    TcInstr spec;
    uint32_t d = 0, a_tmem = 0;
    SmemDesc a_desc, b_desc;
    uint32_t disabled[8] = {};
    bool accumulate = true;
    Cta* ctas[2] = {};
    check::AsyncOp race;

    template <class T>
    void load(std::vector<T>& a, std::vector<T>& b);
    void perform(Cluster& cluster) override;
    std::string describe() const override { return "tcgen05.mma"; }
};

// A: each CTA holds its share of the rows; B: each CTA of a pair holds half of the columns.
template <class T>
void MmaOp::load(std::vector<T>& a, std::vector<T>& b) {
    const int rows = spec.m / code->ctas, columns = spec.n / code->ctas, k = spec.k;
    a.resize(static_cast<size_t>(spec.m * k));
    b.resize(static_cast<size_t>(spec.n * k));
    for (int c = 0; c < code->ctas; ++c) {
        const std::vector<uint8_t>& shared = ctas[c]->shared;
        const uint32_t bytes = static_cast<uint32_t>(shared.size());
        uint32_t bad = 0;
        bool ok = true;
        T* to = a.data() + c * rows * k;
        if (code->a_in_tmem) {
            tc_a_from_tmem(spec, tensor_memory_of(*ctas[c]).memory, static_cast<int>(a_tmem >> 16),
                           static_cast<int>(a_tmem & 0xffff), rows, to);
        } else {
            ok = load_operand(a_desc, spec.mn_major_a, spec.a, rows, k, shared.data(), bytes,
                              {k, 1}, to, &bad);
        }
        ok = ok && load_operand(b_desc, spec.mn_major_b, spec.b, columns, k, shared.data(), bytes,
                                {1, spec.n}, b.data() + c * columns, &bad);
        if (!ok) {
            fail_at(*issuer, pc, fault::kIllegalAddress,
                    "tcgen05.mma reads an operand outside shared memory, at offset " +
                        std::to_string(bad));
        }
    }
}

void MmaOp::perform(Cluster& cluster) {
    TensorMemory* memory[2] = {&tensor_memory_of(*ctas[0]).memory,
                               ctas[1] ? &tensor_memory_of(*ctas[1]).memory : nullptr};
    const int lane = static_cast<int>(d >> 16), column = static_cast<int>(d & 0xffff);
    if (code->kind == TcKind::i8) {
        std::vector<int32_t> a, b;
        load(a, b);
        TcIntOperands o;
        o.a = a.data();
        o.b = b.data();
        std::copy_n(memory, 2, o.memory);
        o.lane = lane;
        o.column = column;
        o.accumulate = accumulate;
        std::copy_n(disabled, 8, o.disabled);
        tc_run(spec, code->ctas, o);
    } else {
        std::vector<float> a, b;
        load(a, b);
        TcOperands o;
        o.a = a.data();
        o.b = b.data();
        std::copy_n(memory, 2, o.memory);
        o.lane = lane;
        o.column = column;
        o.accumulate = accumulate;
        o.scale_shift = code->scale_shift;
        std::copy_n(disabled, 8, o.disabled);
        tc_run(spec, code->ctas, o);
    }
    if (check::ClusterRaces* races = races_of(cluster)) {
        races->finish(race);
    }
}

void note_reads(Warp& w, CtaTensorMemory& t, MmaOp& op) {
    check::ClusterRaces* races = races_of(*w.cluster);
    if (races == nullptr && !(w.checks & kCheckInit)) {
        return;
    }
    if (races) {
        op.race =
            races->begin(w.agent, tc_channel(*races, t.pipeline), w.here(), check::Proxy::Async);
        ++t.pipeline.epochs;
    }
    for (int c = 0; c < op.code->ctas; ++c) {
        const uint32_t base = op.ctas[c]->shared_base;
        const auto note = [&](uint32_t at, uint32_t n) {
            if (at + n <= op.ctas[c]->shared.size()) {
                check_shared_read(w, w.here(), base | at, n);
                if (races) {
                    races->shared_range(op.race, check::Op::Read, base | at, n);
                }
            }
        };
        if (!op.code->a_in_tmem) {
            visit_operand(op.a_desc, op.spec.mn_major_a, elem_bits(op.spec.a) / 8,
                          op.spec.m / op.code->ctas, op.spec.k, note);
        }
        visit_operand(op.b_desc, op.spec.mn_major_b, elem_bits(op.spec.b) / 8,
                      op.spec.n / op.code->ctas, op.spec.k, note);
    }
}

void run_mma(Warp& w, const Instr& i, uint32_t active) {
    const auto& c = *static_cast<const MmaCode*>(i.ext);
    CtaTensorMemory& t = tensor_memory_of(*w.cta);
    for_lanes(active, [&](int lane) {
        auto op = std::make_shared<MmaOp>();
        op->code = &c;
        if (const char* why = decode_tc_instr(w.u32(c.instr)[lane], c.kind, c.ctas, op->spec)) {
            w.fail(fault::kLaunchFailure,
                   std::string("tcgen05.mma: instruction descriptor: ") + why, lane);
        }
        op->d = static_cast<uint32_t>(c.d.at(w, lane));
        op->accumulate = w.pred(c.accumulate) >> lane & 1;
        if (c.a_in_tmem) {
            op->a_tmem = static_cast<uint32_t>(c.a_tmem.at(w, lane));
        } else {
            op->a_desc = decode_tcgen05_descriptor(w.u64(c.a_desc)[lane]);
        }
        op->b_desc = decode_tcgen05_descriptor(w.u64(c.b_desc)[lane]);
        if (!op->b_desc.valid || (!c.a_in_tmem && !op->a_desc.valid)) {
            w.fail(fault::kLaunchFailure,
                   "tcgen05.mma: a matrix descriptor has an unknown layout or version", lane);
        }
        for (size_t k = 0; k < c.disabled.size(); ++k) {
            op->disabled[k] = w.u32(c.disabled[k])[lane];
        }
        const uint32_t rank = w.cta->rank;
        if (c.ctas == 2) {
            const uint32_t even = rank & ~1u;
            if (even + 1 >= w.cluster->ctas.size()) {
                w.fail(fault::kLaunchFailure,
                       "tcgen05.mma.cta_group::2 needs the peer CTA in the cluster", lane);
            }
            op->ctas[0] = w.cluster->ctas[even].get();
            op->ctas[1] = w.cluster->ctas[even + 1].get();
        } else {
            op->ctas[0] = w.cta;
        }
        const bool split_columns = c.ctas == 2 && op->spec.m == 128;
        for (int k = 0; k < c.ctas; ++k) {
            tmem_need(w, *op->ctas[k], op->d, 1, split_columns ? op->spec.n / 2 : op->spec.n,
                      "tcgen05.mma");
            if (c.a_in_tmem) {
                tmem_need(w, *op->ctas[k], op->a_tmem, 1, 8, "tcgen05.mma operand A");
            }
        }
        note_reads(w, t, *op);
        if (w.counters) {
            w.counters->tensor_flops += 2ull * static_cast<uint64_t>(op->spec.m) *
                                        static_cast<uint64_t>(op->spec.n) *
                                        static_cast<uint64_t>(op->spec.k);
        }
        tc_submit(w, t, op, lane);
    });
}

}  // namespace

Instr decode_tcgen05_mma(const ptx::Statement& s, DecodeContext& ctx) {
    MmaCode c;
    for (size_t k = 2; k < s.parts.size(); ++k) {
        const std::string_view p = s.parts[k];
        if (p == "cta_group::1" || p == "cta_group::2") {
            c.ctas = p.back() - '0';
        } else if (p == "kind::f16") {
            c.kind = TcKind::f16;
        } else if (p == "kind::tf32") {
            c.kind = TcKind::tf32;
        } else if (p == "kind::f8f6f4") {
            c.kind = TcKind::f8f6f4;
        } else if (p == "kind::i8") {
            c.kind = TcKind::i8;
        } else if (p.substr(0, 9) != "collector") {
            ctx.fail("tcgen05.mma with ." + std::string(p) +
                     " is not emulated; dense kind::f16, tf32, f8f6f4 and i8 without .ws, .sp, "
                     ".ashift or .block_scale are");
        }
    }
    c.d = decode_address(ctx, ctx.operand(0), ptx::Space::none);
    c.a_in_tmem = ctx.operand(1).kind == ptx::Operand::Kind::address;
    if (c.a_in_tmem) {
        c.a_tmem = decode_address(ctx, ctx.operand(1), ptx::Space::none);
    } else {
        c.a_desc = ctx.source(ctx.operand(1), ptx::Type::b64);
    }
    c.b_desc = ctx.source(ctx.operand(2), ptx::Type::b64);
    c.instr = ctx.source(ctx.operand(3), ptx::Type::b32);
    size_t at = 4;
    if (ctx.operand(at).kind == ptx::Operand::Kind::vector) {
        for (const ptx::Operand& item : ctx.operand(at).items) {
            c.disabled.push_back(ctx.source(item, ptx::Type::b32));
        }
        if (c.disabled.size() != static_cast<size_t>(4 * c.ctas)) {
            ctx.fail("disable-output-lane takes four words per CTA");
        }
        ++at;
    }
    c.accumulate = ctx.predicate(ctx.operand(at++));
    if (at < ctx.operands()) {
        c.scale_shift = static_cast<int>(ctx.integer(ctx.operand(at++)));
        if (c.scale_shift < 0 || c.scale_shift > 15 ||
            (c.kind != TcKind::f16 && c.kind != TcKind::tf32)) {
            ctx.fail("scale-input-d is 0..15, for kind::f16 and kind::tf32");
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

}  // namespace emu
