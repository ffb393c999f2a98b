// SPDX-License-Identifier: BSD-3-Clause
// tcgen05: allocation of tensor memory, ld/st, fences, commit, cp. The products are in
// tcgen05_mma.cpp.
#include <algorithm>
#include <cstring>

#include "exec/async_support.h"
#include "exec/tcgen05_mma.h"
#include "exec/tcgen05_state.h"
#include "exec/wgmma_state.h"
#include "runtime/counters.h"

namespace emu {

bool TcOp::may_complete(const Cluster&) const {
    return !pipeline->ops.empty() && pipeline->ops.front().get() == this;
}

void TcOp::complete(Cluster& cluster) {
    perform(cluster);
    const std::shared_ptr<TcOp> keep = pipeline->ops.front();
    pipeline->ops.pop_front();
}

CtaTensorMemory& tensor_memory_of(Cta& cta) {
    return cta.slots.get<CtaTensorMemory>(kSlotTmem);
}

void tmem_need(Warp& w, Cta& cta, uint32_t address, int lanes, int columns, const char* what) {
    const int lane = static_cast<int>(address >> 16), column = static_cast<int>(address & 0xffff);
    if (lane + lanes > TensorMemory::kLanes || column + columns > TensorMemory::kColumns) {
        w.fail(fault::kIllegalAddress,
               std::string(what) + " reaches outside tensor memory: lane " + std::to_string(lane) +
                   ", columns " + std::to_string(column) + ".." + std::to_string(column + columns));
    }
    if (!(w.checks & kCheckTmem)) {
        return;
    }
    const CtaTensorMemory& t = tensor_memory_of(cta);
    for (int c = column; c < column + columns; ++c) {
        if (t.owner[static_cast<size_t>(c / 32)] == 0) {
            w.fail(fault::kLaunchFailure, std::string(what) + " uses column " + std::to_string(c) +
                                              " of tensor memory, which is not allocated");
        }
    }
}

void tc_submit(Warp& w, CtaTensorMemory& t, const std::shared_ptr<TcOp>& op, int lane) {
    op->kind = AsyncKind::tcgen05;
    op->issuer = &w;
    op->pc = w.here();
    op->lane_mask = 1u << lane;
    op->pipeline = &t.pipeline;
    t.pipeline.ops.push_back(op);
    w.cluster->async.submit(*w.cluster, op);
}

check::Channel& tc_channel(check::ClusterRaces& races, TcPipeline& pipeline) {
    if (!pipeline.opened) {
        races.open(pipeline.channel);
        pipeline.opened = true;
    }
    return pipeline.channel;
}

void tcgen05_at_exit(Cta& cta, Warp& last) {
    if (!cta.slots.has(kSlotTmem) || !(last.checks & kCheckTmem)) {
        return;
    }
    const CtaTensorMemory& t = tensor_memory_of(cta);
    const auto held =
        std::count_if(t.owner.begin(), t.owner.end(), [](uint32_t o) { return o != 0; });
    if (held != 0) {
        last.fail(fault::kLaunchFailure,
                  std::to_string(32 * held) +
                      " columns of tensor memory are still allocated when the CTA ends");
    }
}

namespace {

uint32_t uniform(Warp& w, Ref ref, uint32_t active, const char* what) {
    const uint32_t* v = w.u32(ref);
    const int first = __builtin_ctz(active);
    for_lanes(active, [&](int lane) {
        if (v[lane] != v[first]) {
            w.fail(fault::kLaunchFailure,
                   std::string("tcgen05: ") + what + " differs between lanes", lane);
        }
    });
    return v[first];
}

// ---- alloc, dealloc, relinquish_alloc_permit

int find_columns(const CtaTensorMemory& t, uint32_t blocks) {
    for (uint32_t at = 0; at + blocks <= t.owner.size(); at += blocks) {
        if (std::all_of(t.owner.begin() + at, t.owner.begin() + at + blocks,
                        [](uint32_t o) { return o == 0; })) {
            return static_cast<int>(at * 32);
        }
    }
    return -1;
}

bool can_allocate(Warp& w, const Wait& wait) {
    return find_columns(tensor_memory_of(*w.cta), static_cast<uint32_t>(wait.a)) >= 0;
}

struct AllocCode {
    AddressRef dst;
    Ref columns = kNoRef, address = kNoRef;
};

uint32_t column_count(Warp& w, Ref ref, uint32_t active) {
    const uint32_t n = uniform(w, ref, active, "the number of columns");
    if (n < 32 || n > 512 || (n & (n - 1)) != 0) {
        w.fail(fault::kLaunchFailure,
               "tcgen05: " + std::to_string(n) + " columns: a power of two in 32..512 is needed");
    }
    return n;
}

void run_alloc(Warp& w, const Instr& i, uint32_t active) {
    if (!w.converge(i, active, kAllLanes)) {
        return;
    }
    const auto& c = *static_cast<const AllocCode*>(i.ext);
    CtaTensorMemory& t = tensor_memory_of(*w.cta);
    const uint32_t n = column_count(w, c.columns, active);
    if (t.relinquished) {
        w.fail(fault::kLaunchFailure, "tcgen05.alloc after relinquish_alloc_permit");
    }
    const int column = find_columns(t, n / 32);
    if (column < 0) {
        Wait wait;
        wait.ready = can_allocate;
        wait.what = "tcgen05.alloc: free columns of tensor memory";
        wait.a = n / 32;
        w.block(wait);
        return;
    }
    std::fill_n(t.owner.begin() + column / 32, n / 32, ++t.allocations);
    const int lane = __builtin_ctz(active);
    const uint32_t value = static_cast<uint32_t>(column);
    std::memcpy(shared_pointer(w, shared_address(w, c.dst.at(w, lane), lane), 4, lane), &value, 4);
    check_shared_written(*w.cluster, shared_address(w, c.dst.at(w, lane), lane), 4);
}

void run_dealloc(Warp& w, const Instr& i, uint32_t active) {
    if (!w.converge(i, active, kAllLanes)) {
        return;
    }
    const auto& c = *static_cast<const AllocCode*>(i.ext);
    CtaTensorMemory& t = tensor_memory_of(*w.cta);
    const uint32_t n = column_count(w, c.columns, active),
                   at = uniform(w, c.address, active, "the address");
    const uint32_t first = at / 32,
                   owner = at % 32 == 0 && first < t.owner.size() ? t.owner[first] : 0;
    const auto size = std::count(t.owner.begin(), t.owner.end(), owner);
    if (owner == 0 || static_cast<uint32_t>(size) != n / 32 ||
        (first > 0 && t.owner[first - 1] == owner)) {
        w.fail(fault::kLaunchFailure, "tcgen05.dealloc of " + std::to_string(n) + " columns at " +
                                          std::to_string(at) + ": no such allocation");
    }
    std::fill_n(t.owner.begin() + first, n / 32, 0u);
}

void run_relinquish(Warp& w, const Instr& i, uint32_t active) {
    if (w.converge(i, active, kAllLanes)) {
        tensor_memory_of(*w.cta).relinquished = true;
    }
}

// ---- ld, st, wait

struct MoveCode {
    bool store = false, halves = false;  // halves: .pack::16b / .unpack::16b
    TmemShape shape = TmemShape::m32x32b;
    int num = 1, split = 0;
    AddressRef address;
    std::vector<Ref> regs;
    std::vector<uint32_t> indices;  // into Function::registers
};

struct MoveOp : AsyncOp {
    const MoveCode* code = nullptr;
    uint32_t address = 0;
    void complete(Cluster&) override {
        TensorMemory& memory = tensor_memory_of(*issuer->cta).memory;
        const int base = static_cast<int>(address >> 16),
                  column = static_cast<int>(address & 0xffff);
        for (size_t r = 0; r < code->regs.size(); ++r) {
            uint32_t* reg = issuer->u32(code->regs[r]);
            for (int lane = 0; lane < kLanes; ++lane) {
                const TmemCell at = tmem_cell(code->shape, lane, static_cast<int>(r), code->split);
                if (code->halves) {
                    uint32_t& lo = memory.at(base + at.lane, column + 2 * at.column);
                    uint32_t& hi = memory.at(base + at.lane, column + 2 * at.column + 1);
                    if (code->store) {
                        lo = reg[lane] & 0xffff;
                        hi = reg[lane] >> 16;
                    } else {
                        reg[lane] = (lo & 0xffff) | hi << 16;
                    }
                } else if (code->store) {
                    memory.at(base + at.lane, column + at.column) = reg[lane];
                } else {
                    reg[lane] = memory.at(base + at.lane, column + at.column);
                }
            }
        }
    }
    std::string describe() const override { return code->store ? "tcgen05.st" : "tcgen05.ld"; }
};

struct WarpMoves {
    std::vector<std::shared_ptr<MoveOp>> loads, stores;
};

void run_move(Warp& w, const Instr& i, uint32_t active) {
    if (!w.converge(i, active, kAllLanes)) {
        return;
    }
    const auto& c = *static_cast<const MoveCode*>(i.ext);
    const int lane0 = __builtin_ctz(active);
    const uint32_t address = static_cast<uint32_t>(c.address.at(w, lane0));
    for_lanes(active, [&](int lane) {
        if (static_cast<uint32_t>(c.address.at(w, lane)) != address) {
            w.fail(fault::kLaunchFailure, "tcgen05.ld/st: the address differs between lanes", lane);
        }
    });
    const uint32_t tmem_lane = address >> 16;
    if (tmem_lane / 32 != w.index % 4 ||
        tmem_lane % (c.shape == TmemShape::m32x32b ? 32 : 16) != 0) {
        w.fail(fault::kLaunchFailure,
               "tcgen05.ld/st: warp " + std::to_string(w.index % 4) +
                   " of a warpgroup reaches lanes " + std::to_string(32 * (w.index % 4)) +
                   ".. only, the address names lane " + std::to_string(tmem_lane));
    }
    int columns = 0;
    for (int r = 0; r < static_cast<int>(c.regs.size()); ++r) {
        for (int lane = 0; lane < kLanes; ++lane) {
            columns = std::max(columns, tmem_cell(c.shape, lane, r, c.split).column + 1);
        }
    }
    tmem_need(w, *w.cta, address, c.shape == TmemShape::m32x32b ? 32 : 16,
              c.halves ? 2 * columns : columns, "tcgen05.ld/st");
    auto op = std::make_shared<MoveOp>();
    op->kind = AsyncKind::tcgen05;
    op->issuer = &w;
    op->pc = w.here();
    op->lane_mask = active;
    op->code = &c;
    op->address = address;
    WarpMoves& moves = w.slots.get<WarpMoves>(kSlotTcgen05);
    (c.store ? moves.stores : moves.loads).push_back(op);
    if (!c.store && (w.checks & kCheckAsync)) {
        WarpWgmma& mine = w.slots.get<WarpWgmma>(kSlotWgmma);
        for (const uint32_t reg : c.indices) {
            mine.loads.add(reg, true, mine.load_batch, w.here());
        }
        w.watching = true;
    }
    w.cluster->async.submit(*w.cluster, op);
    // Without the register check nothing sees the renames that nvcc puts before the wait.
    if (!c.store && !(w.checks & kCheckAsync) && !op->done) {
        w.cluster->async.finish(*w.cluster, *op);
    }
}

void run_wait(Warp& w, const Instr& i, uint32_t active) {
    if (!w.converge(i, active, kAllLanes)) {
        return;
    }
    WarpMoves& moves = w.slots.get<WarpMoves>(kSlotTcgen05);
    std::vector<std::shared_ptr<MoveOp>>& ops = i.small ? moves.stores : moves.loads;
    for (const std::shared_ptr<MoveOp>& op : ops) {
        if (!op->done) {
            w.cluster->async.finish(*w.cluster, *op);
        }
    }
    ops.clear();
    if (!i.small && (w.checks & kCheckAsync)) {
        WarpWgmma& mine = w.slots.get<WarpWgmma>(kSlotWgmma);
        mine.loads.retire(mine.load_batch++);
        w.watching = !mine.in_flight.empty();
    }
}

}  // namespace

void tcgen05_rename(Warp& w, const ptx::Statement& mov) {
    for (const std::shared_ptr<MoveOp>& op : w.slots.get<WarpMoves>(kSlotTcgen05).loads) {
        if (!op->done) {
            w.cluster->async.finish(*w.cluster, *op);
        }
    }
    WarpWgmma& mine = w.slots.get<WarpWgmma>(kSlotWgmma);
    const auto mark = [&](const ptx::Operand& o) {
        if (o.kind == ptx::Operand::Kind::reg) {
            mine.loads.add(static_cast<uint32_t>(o.reg), true, mine.load_batch, w.here());
        }
    };
    mark(mov.operands[0]);
    for (const ptx::Operand& item : mov.operands[0].items) {
        mark(item);
    }
}

namespace {

// ---- commit

struct CommitOp : TcOp {
    std::vector<uint32_t> barriers;
    uint32_t epoch = 0;
    check::Clocks known;  // by the committing warp: the arrival hands it over
    void perform(Cluster& cluster) override {
        for (const uint32_t barrier : barriers) {
            if (check::ClusterRaces* races = races_of(cluster)) {
                barrier_state(cluster, barrier).sync.pending.join(known);
                if (pipeline->opened) {
                    races->arrive_channel(barrier_state(cluster, barrier).sync, pipeline->channel,
                                          epoch);
                }
            }
            barrier_arrival_landed(*issuer, pc, barrier, 1);
        }
    }
    std::string describe() const override { return "tcgen05.commit"; }
};

struct CommitCode {
    AddressRef barrier;
    Ref mask = kNoRef;
};

void run_commit(Warp& w, const Instr& i, uint32_t active) {
    const auto& c = *static_cast<const CommitCode*>(i.ext);
    CtaTensorMemory& t = tensor_memory_of(*w.cta);
    for_lanes(active, [&](int lane) {
        auto op = std::make_shared<CommitOp>();
        const uint32_t barrier = shared_address(w, c.barrier.at(w, lane), lane);
        if (c.mask == kNoRef) {
            op->barriers.push_back(barrier);
        } else {
            for (uint32_t m = w.u32(c.mask)[lane] & 0xffff; m != 0; m &= m - 1) {
                op->barriers.push_back(with_rank(barrier, static_cast<uint32_t>(__builtin_ctz(m))));
            }
        }
        for (const uint32_t b : op->barriers) {
            barrier_word(w, b, lane);
        }
        op->epoch = t.pipeline.epochs;
        if (check::ClusterRaces* races = races_of(*w.cluster)) {
            races->release(w.agent, op->known);
        }
        tc_submit(w, t, op, lane);
    });
}

// ---- cp

struct CopyCode {
    AddressRef address;
    Ref desc = kNoRef;
    int rows = 128, bytes = 32, ctas = 1;
    int copies = 1;         // 4: warpx4, 2: warpx2
    bool pairs_01 = false;  // warpx2::01_23
};

struct CopyOp : TcOp {
    CopyCode code;
    SmemDesc desc;
    uint32_t address = 0;
    void perform(Cluster& cluster) override {
        for (int k = 0; k < code.ctas; ++k) {
            Cta& cta =
                *cluster.ctas[code.ctas == 2 ? (issuer->cta->rank & ~1u) + static_cast<uint32_t>(k)
                                             : issuer->cta->rank];
            TensorMemory& memory = tensor_memory_of(cta).memory;
            for (int r = 0; r < code.rows; ++r) {
                for (int b = 0; b < code.bytes; b += 16) {
                    const uint32_t at = operand_address(desc, false, 1, r, b);
                    if (at + 16 > cta.shared.size()) {
                        fail_at(*issuer, pc, fault::kIllegalAddress,
                                "tcgen05.cp reads outside shared memory");
                    }
                    put(memory, r, b / 4, cta.shared.data() + at);
                }
            }
        }
    }
    void put(TensorMemory& memory, int row, int word, const uint8_t* from) {
        const int base = static_cast<int>(address >> 16),
                  column = static_cast<int>(address & 0xffff) + word;
        const int half = row / 32, inner = row % 32;
        for (int q = 0; q < code.copies; ++q) {
            const int quadrant = code.copies == 4 ? q : code.pairs_01 ? 2 * half + q : half + 2 * q;
            const int lane = code.copies == 1 ? row : 32 * quadrant + inner;
            std::memcpy(&memory.at(base + lane, column), from, 16);
        }
    }
    std::string describe() const override { return "tcgen05.cp"; }
};

void run_cp(Warp& w, const Instr& i, uint32_t active) {
    const auto& c = *static_cast<const CopyCode*>(i.ext);
    CtaTensorMemory& t = tensor_memory_of(*w.cta);
    for_lanes(active, [&](int lane) {
        auto op = std::make_shared<CopyOp>();
        op->code = c;
        op->desc = decode_tcgen05_descriptor(w.u64(c.desc)[lane]);
        op->address = static_cast<uint32_t>(c.address.at(w, lane));
        if (!op->desc.valid) {
            w.fail(fault::kLaunchFailure, "tcgen05.cp: the matrix descriptor is not valid", lane);
        }
        tmem_need(w, *w.cta, op->address, 1, c.bytes / 4, "tcgen05.cp");
        tc_submit(w, t, op, lane);
    });
}

// ---- decoding

void run_nothing(Warp&, const Instr&, uint32_t) {}

int group_size(const ptx::Statement& s, DecodeContext& ctx) {
    if (s.has("cta_group::1")) {
        return 1;
    }
    if (!s.has("cta_group::2")) {
        ctx.fail("tcgen05 needs .cta_group::1 or .cta_group::2");
    }
    return 2;
}

bool parse_tmem_shape(std::string_view p, TmemShape& shape) {
    static constexpr std::string_view kNames[] = {"16x64b", "16x128b", "16x256b", "32x32b",
                                                  "16x32bx2"};
    for (int k = 0; k < 5; ++k) {
        if (p == kNames[k]) {
            shape = static_cast<TmemShape>(k);
            return true;
        }
    }
    return false;
}

Instr decode_move(const ptx::Statement& s, DecodeContext& ctx, bool store) {
    MoveCode c;
    c.store = store;
    for (size_t k = 2; k < s.parts.size(); ++k) {
        const std::string_view p = s.parts[k];
        if (p == "pack::16b" || p == "unpack::16b") {
            c.halves = true;
        } else if (p.size() > 1 && p[0] == 'x') {
            c.num = std::stoi(std::string(p.substr(1)));
        } else if (!parse_tmem_shape(p, c.shape) && p != "sync" && p != "aligned" && p != "b32") {
            ctx.unknown(p);
        }
    }
    size_t k = store ? 0 : 1;
    c.address = decode_address(ctx, ctx.operand(k++), ptx::Space::none);
    if (c.shape == TmemShape::m16x32bx2) {
        c.split = static_cast<int>(ctx.integer(ctx.operand(k++)));
    }
    const ptx::Operand& data = ctx.operand(store ? k : 0);
    const auto add = [&](const ptx::Operand& o) {
        c.regs.push_back(store ? ctx.source(o, ptx::Type::b32) : ctx.target(o, ptx::Type::b32));
        if (o.kind == ptx::Operand::Kind::reg) {
            c.indices.push_back(static_cast<uint32_t>(o.reg));
        }
    };
    if (data.kind == ptx::Operand::Kind::vector) {
        for (const ptx::Operand& item : data.items) {
            add(item);
        }
    } else {
        add(data);
    }
    if (static_cast<int>(c.regs.size()) != tmem_regs(c.shape, c.num)) {
        ctx.fail(std::to_string(tmem_regs(c.shape, c.num)) + " registers are expected");
    }
    ctx.kind = store ? Class::store : Class::load;
    Instr i;
    i.run = run_move;
    i.ext = ctx.own(std::move(c));
    return i;
}

Instr decode_cp(const ptx::Statement& s, DecodeContext& ctx) {
    CopyCode c;
    c.ctas = group_size(s, ctx);
    bool known = false;
    for (size_t k = 2; k < s.parts.size(); ++k) {
        const std::string_view p = s.parts[k];
        if (p == "128x256b" || p == "128x128b") {
            c.bytes = p == "128x256b" ? 32 : 16;
            known = true;
        } else if (p == "64x128b" || p == "32x128b") {
            c.rows = p == "64x128b" ? 64 : 32;
            c.bytes = 16;
            known = true;
        } else if (p == "warpx4") {
            c.copies = 4;
        } else if (p == "warpx2::02_13" || p == "warpx2::01_23") {
            c.copies = 2;
            c.pairs_01 = p == "warpx2::01_23";
        } else if (p.substr(0, 9) != "cta_group") {
            ctx.fail("tcgen05.cp with ." + std::string(p) +
                     " is not emulated; 128x256b, 128x128b, 64x128b and 32x128b are");
        }
    }
    if (!known) {
        ctx.fail("tcgen05.cp needs a shape");
    }
    c.address = decode_address(ctx, ctx.operand(0), ptx::Space::none);
    c.desc = ctx.source(ctx.operand(1), ptx::Type::b64);
    ctx.kind = Class::async_copy;
    Instr i;
    i.run = run_cp;
    i.ext = ctx.own(c);
    return i;
}

Instr decode_alloc(const ptx::Statement& s, DecodeContext& ctx, bool release) {
    group_size(s, ctx);
    AllocCode c;
    if (release) {
        c.address = ctx.source(ctx.operand(0), ptx::Type::b32);
    } else {
        c.dst = decode_address(ctx, ctx.operand(0), ptx::Space::shared);
    }
    c.columns = ctx.source(ctx.operand(1), ptx::Type::b32);
    ctx.kind = Class::other;
    Instr i;
    i.run = release ? run_dealloc : run_alloc;
    i.ext = ctx.own(c);
    return i;
}

Instr decode(const ptx::Statement& s, DecodeContext& ctx) {
    const std::string_view op = s.parts.size() > 1 ? s.parts[1] : std::string_view();
    Instr i;
    if (op == "mma") {
        return decode_tcgen05_mma(s, ctx);
    }
    if (op == "ld" || op == "st") {
        return decode_move(s, ctx, op == "st");
    }
    if (op == "alloc" || op == "dealloc") {
        return decode_alloc(s, ctx, op == "dealloc");
    }
    if (op == "cp") {
        return decode_cp(s, ctx);
    }
    if (op == "relinquish_alloc_permit") {
        group_size(s, ctx);
        i.run = run_relinquish;
    } else if (op == "wait::ld" || op == "wait::st") {
        ctx.kind = Class::fence;
        i.run = run_wait;
        i.small = op == "wait::st";
    } else if (op == "fence::before_thread_sync" || op == "fence::after_thread_sync") {
        ctx.kind = Class::fence;
        i.run = run_nothing;
    } else if (op == "commit") {
        group_size(s, ctx);
        CommitCode c;
        c.barrier = decode_address(ctx, ctx.operand(0), ptx::Space::shared);
        if (s.has("multicast::cluster")) {
            c.mask = ctx.source(ctx.operand(1), ptx::Type::b16);
        }
        ctx.kind = Class::barrier;
        i.run = run_commit;
        i.ext = ctx.own(c);
    } else if (op == "shift") {
        ctx.fail("tcgen05.shift is not emulated");
    } else {
        ctx.unknown(op);
    }
    return i;
}

const RegisterFamily family_tcgen05("tcgen05", decode);

}  // namespace
}  // namespace emu
