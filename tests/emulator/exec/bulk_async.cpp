// SPDX-License-Identifier: BSD-3-Clause
// cp.async.bulk*: issue, completion, bulk groups.
#include "exec/bulk_async.h"

#include <algorithm>
#include <cstring>

#include "runtime/counters.h"
#include "units/numeric.h"

namespace emu {

CpAsyncHooks& cp_async_hooks() {
    static CpAsyncHooks hooks;
    return hooks;
}

namespace {

// Bulk groups of the lanes of a warp, and the channels on which the race detector sees them
// complete.
struct BulkGroups {
    struct Lane {
        std::vector<std::shared_ptr<BulkOp>> open;
        std::deque<std::vector<std::shared_ptr<BulkOp>>> groups;
    };
    Lane lanes[kLanes];
    check::Channel reads, writes;
    bool opened = false;
};

uint8_t* host(Cluster& cluster, uint32_t shared) {
    return cluster.cta_of(shared)->shared.data() + (shared & kSharedOffsetMask);
}

// Pieces of 16 bytes: the swizzle acts on addresses in the CTA's window.
template <class Move>
void swizzled_pieces(Cluster& cluster, uint32_t shared, const Swizzle& swizzle, uint32_t bytes,
                     Move move) {
    if (swizzle.span == 0) {
        move(host(cluster, shared), 0u, bytes);
        return;
    }
    const uint32_t piece = swizzle.flip_8b ? 8 : 16;
    for (uint32_t at = 0; at < bytes; at += piece) {
        move(host(cluster, swizzle_address(shared + at, swizzle)), at, piece);
    }
}

// .ftz types flush subnormal fp32 values on the way.
void flush_row(const TensorMap& map, uint8_t* row, uint32_t bytes) {
    if (map.type != TensorType::f32_ftz && map.type != TensorType::tf32_ftz) {
        return;
    }
    for (uint32_t at = 0; at + 4 <= bytes; at += 4) {
        float f;
        std::memcpy(&f, row + at, 4);
        f = num::f32_ftz(f);
        std::memcpy(row + at, &f, 4);
    }
}

struct Span {
    uint32_t offset, bytes;  // of the valid elements within the row
};
Span valid_span(const TensorMap& map, const TensorRow& row) {
    const uint32_t bits = static_cast<uint32_t>(tensor_type_bits(map.type));
    return {row.first * bits / 8, row.valid * bits / 8};
}

void need_aligned(Warp& w, uint64_t address, uint32_t align, const char* what, int lane) {
    if (address % align != 0) {
        char text[96];
        std::snprintf(text, sizeof text, "%s 0x%llx is not aligned to %u bytes", what,
                      static_cast<unsigned long long>(address), align);
        w.fail(fault::kMisalignedAddress, text, lane);
    }
}

void issue_tensor(Warp& w, const BulkCode& c, BulkOp& op, int lane) {
    const uint64_t map_at = c.map.at(w, lane);
    need_aligned(w, map_at, 64, "tensor map", lane);
    if (!tensor_map_decode(global_pointer(w, map_at, 128, false, lane), op.map)) {
        w.fail(fault::kLaunchFailure, "the tensor map operand holds no encoded tensor map", lane);
    }
    const int need = c.rows4 ? 2 : c.rank;
    if (op.map.rank != need) {
        w.fail(fault::kLaunchFailure,
               "the tensor map has rank " + std::to_string(op.map.rank) +
                   ", the instruction names " + std::to_string(need) + " dimensions",
               lane);
    }
    int32_t coords[5] = {};
    for (int d = 0; d < (c.rows4 ? 5 : c.rank); ++d) {
        coords[d] = static_cast<int32_t>(w.u32(c.coords[d])[lane]);
    }
    const auto keep = [&](const TensorRow& row) { op.rows.push_back(row); };
    if (c.rows4) {
        visit_rows4(op.map, coords, keep);
    } else {
        visit_box(op.map, coords, keep);
    }
    op.bytes = static_cast<uint64_t>(op.rows.size()) * op.map.row_bytes();
    for (const TensorRow& row : op.rows) {
        if (row.valid != 0) {
            global_pointer(w, row.address, valid_span(op.map, row).bytes, c.kind == BulkKind::store,
                           lane);
        }
    }
}

void issue_plain(Warp& w, const BulkCode& c, BulkOp& op, int lane) {
    op.bytes = w.u32(c.size)[lane];
    if (op.bytes % 16 != 0) {
        w.fail(fault::kLaunchFailure,
               "bulk copy of " + std::to_string(op.bytes) + " bytes: no multiple of 16", lane);
    }
    if (c.kind == BulkKind::shared_to_shared) {
        op.source = shared_address(w, c.src.at(w, lane), lane);
        need_aligned(w, op.source, 16, "bulk copy source", lane);
        shared_pointer(w, op.source, op.bytes, lane);
        check_shared_read(w, w.here(), op.source, op.bytes);
        return;
    }
    op.global = (c.kind == BulkKind::store ? c.dst : c.src).at(w, lane);
    need_aligned(w, op.global, 16, "bulk copy global address", lane);
    global_pointer(w, op.global, op.bytes, c.kind == BulkKind::store, lane);
}

// Calls visit(address, bytes) for the global memory that the operation touches.
template <class Visit>
void visit_global(const BulkOp& op, Visit visit) {
    if (!op.code.tensor) {
        visit(op.global, op.bytes);
        return;
    }
    for (const TensorRow& row : op.rows) {
        if (row.valid != 0) {
            visit(row.address, static_cast<uint64_t>(valid_span(op.map, row).bytes));
        }
    }
}

void note_shared(check::ClusterRaces& races, const check::AsyncOp& race, check::Op kind,
                 uint32_t shared, uint64_t bytes) {
    races.shared_range(race, kind, shared, bytes);
}

void add_targets(Warp& w, const BulkCode& c, BulkOp& op, int lane) {
    op.shared = shared_address(w, c.dst.at(w, lane), lane);
    uint32_t barrier = shared_address(w, c.barrier.at(w, lane), lane);
    need_aligned(w, op.shared, c.tensor ? 128 : 16, "bulk copy shared destination", lane);
    need_aligned(w, barrier, 8, "mbarrier", lane);
    uint32_t ranks = 1u << rank_of(op.shared);
    if (c.multicast) {
        ranks = w.u32(c.cta_mask)[lane] & 0xffff;
    }
    for (uint32_t m = ranks; m != 0; m &= m - 1) {
        const uint32_t rank = static_cast<uint32_t>(__builtin_ctz(m));
        BulkOp::Target t;
        t.shared = with_rank(op.shared, rank);
        // Multicast signals the barrier at the same offset in each destination CTA; .cta_group::2
        // keeps the named one's pair.
        t.barrier = c.multicast && !c.pair_barrier ? with_rank(barrier, rank)
                    : c.multicast ? with_rank(barrier, (rank & ~1u) | (rank_of(barrier) & 1))
                                  : barrier;
        shared_pointer(w, t.shared, op.bytes, lane);
        barrier_word(w, t.barrier, lane);
        BarrierState& state = barrier_state(*w.cluster, t.barrier);
        t.generation = barrier_copy_issued(*w.cluster, t.barrier, op.bytes);
        check_shared_written(*w.cluster, t.shared, op.bytes);
        if (check::ClusterRaces* races = races_of(*w.cluster)) {
            t.race = races->begin(w.agent, state.sync.channel, w.here(), check::Proxy::Async,
                                  1u << lane);
            note_shared(*races, t.race, check::Op::Write, t.shared, op.bytes);
            if (c.kind == BulkKind::load) {
                visit_global(op, [&](uint64_t a, uint64_t n) {
                    races->global_range(t.race, check::Op::Read, a, n);
                });
            } else {
                note_shared(*races, t.race, check::Op::Read, op.source, op.bytes);
            }
        }
        op.targets.push_back(t);
    }
}

void add_store(Warp& w, const BulkCode& c, const std::shared_ptr<BulkOp>& op, int lane) {
    op->shared = shared_address(w, c.src.at(w, lane), lane);
    need_aligned(w, op->shared, c.tensor ? 128 : 16, "bulk copy shared source", lane);
    shared_pointer(w, op->shared, op->bytes, lane);
    check_shared_read(w, w.here(), op->shared, op->bytes);
    op->byte_mask = c.byte_mask == kNoRef ? 0xffff : w.u32(c.byte_mask)[lane];
    BulkGroups& groups = w.slots.get<BulkGroups>(kSlotBulk);
    if (check::ClusterRaces* races = races_of(*w.cluster)) {
        if (!groups.opened) {
            races->open(groups.reads);
            races->open(groups.writes);
            groups.writes.may_outlive = true;
            groups.opened = true;
        }
        op->read_race =
            races->begin(w.agent, groups.reads, w.here(), check::Proxy::Async, 1u << lane);
        note_shared(*races, op->read_race, check::Op::Read, op->shared, op->bytes);
        op->write_race =
            races->begin(w.agent, groups.writes, w.here(), check::Proxy::Async, 1u << lane);
        const check::Op kind = c.reduces ? check::Op::Atomic : check::Op::Write;
        visit_global(
            *op, [&](uint64_t a, uint64_t n) { races->global_range(op->write_race, kind, a, n); });
    }
    groups.lanes[lane].open.push_back(op);
}

void run_bulk(Warp& w, const Instr& i, uint32_t active) {
    const auto& c = *static_cast<const BulkCode*>(i.ext);
    for_lanes(active, [&](int lane) {
        auto op = std::make_shared<BulkOp>();
        op->kind = AsyncKind::bulk;
        op->issuer = &w;
        op->pc = w.here();
        op->lane_mask = 1u << lane;
        op->code = c;
        if (c.tensor) {
            issue_tensor(w, c, *op, lane);
        } else {
            issue_plain(w, c, *op, lane);
        }
        if (c.kind == BulkKind::prefetch) {
            return;  // a hint: only its addresses are checked
        }
        if (c.kind == BulkKind::store) {
            add_store(w, c, op, lane);
        } else {
            add_targets(w, c, *op, lane);
        }
        if (w.counters && c.kind != BulkKind::shared_to_shared) {
            visit_global(*op, [&](uint64_t a, uint64_t n) {
                c.kind == BulkKind::store ? w.counters->async_store(a, n)
                                          : w.counters->async_load(a, n);
            });
        }
        w.cluster->async.submit(*w.cluster, op);
    });
}

void run_commit(Warp& w, const Instr&, uint32_t active) {
    BulkGroups& groups = w.slots.get<BulkGroups>(kSlotBulk);
    for_lanes(active, [&](int lane) {
        BulkGroups::Lane& l = groups.lanes[lane];
        l.groups.push_back(std::move(l.open));
        l.open.clear();
    });
}

// imm: number of groups that may stay; small: 1 for .read.
void run_wait(Warp& w, const Instr& i, uint32_t active) {
    BulkGroups& groups = w.slots.get<BulkGroups>(kSlotBulk);
    const bool read = i.small != 0;
    if (w.counters) {
        ++w.counters->async_waits;
    }
    for_lanes(active, [&](int lane) {
        BulkGroups::Lane& l = groups.lanes[lane];
        const size_t keep = static_cast<size_t>(i.imm),
                     done = l.groups.size() > keep ? l.groups.size() - keep : 0;
        for (size_t g = 0; g < done; ++g) {
            for (const std::shared_ptr<BulkOp>& op : l.groups[g]) {
                if (read) {
                    op->read_source(*w.cluster);
                } else if (!op->done) {
                    w.cluster->async.finish(*w.cluster, *op);
                }
                if (check::ClusterRaces* races = races_of(*w.cluster)) {
                    races->wait(w.agent, groups.reads, op->read_race.epoch);
                    if (!read) {
                        races->wait(w.agent, groups.writes, op->write_race.epoch);
                    }
                }
            }
        }
        if (!read) {
            l.groups.erase(l.groups.begin(), l.groups.begin() + static_cast<long>(done));
        }
    });
}

}  // namespace

void BulkOp::load(Cluster& cluster) {
    std::vector<uint8_t> row(code.tensor ? map.row_bytes() : 0);
    for (const Target& t : targets) {
        if (!code.tensor) {
            std::memcpy(host(cluster, t.shared), reinterpret_cast<const void*>(global), bytes);
            continue;
        }
        const uint64_t fill = tensor_fill(map);
        const size_t element = static_cast<size_t>(std::max(1, tensor_type_bits(map.type) / 8));
        for (const TensorRow& r : rows) {
            const Span span = valid_span(map, r);
            if (span.bytes != row.size()) {
                for (size_t at = 0; at < row.size(); at += element) {
                    std::memcpy(row.data() + at, &fill, element);
                }
            }
            if (span.bytes != 0) {
                std::memcpy(row.data() + span.offset, reinterpret_cast<const void*>(r.address),
                            span.bytes);
                flush_row(map, row.data(), static_cast<uint32_t>(row.size()));
            }
            swizzled_pieces(
                cluster, t.shared + static_cast<uint32_t>(r.box_offset), map.swizzle,
                static_cast<uint32_t>(row.size()),
                [&](uint8_t* to, uint32_t at, uint32_t n) { std::memcpy(to, row.data() + at, n); });
        }
    }
}

void BulkOp::copy_between_ctas(Cluster& cluster) {
    const uint8_t* from = host(cluster, source);
    for (const Target& t : targets) {
        uint8_t* to = host(cluster, t.shared);
        if (!code.reduces) {
            std::memmove(to, from, bytes);
            continue;
        }
        const uint64_t step = static_cast<uint64_t>(reduce_type_bytes(code.type));
        for (uint64_t at = 0; at < bytes; at += step) {
            reduce_element(code.reduce, code.type, to + at, from + at);
        }
    }
}

void BulkOp::read_source(Cluster& cluster) {
    if (source_read || code.kind != BulkKind::store) {
        return;
    }
    source_read = true;
    data.resize(bytes);
    if (!code.tensor) {
        std::memcpy(data.data(), host(cluster, shared), bytes);
    } else {
        for (const TensorRow& r : rows) {
            swizzled_pieces(cluster, shared + static_cast<uint32_t>(r.box_offset), map.swizzle,
                            map.row_bytes(), [&](const uint8_t* from, uint32_t at, uint32_t n) {
                                std::memcpy(data.data() + r.box_offset + at, from, n);
                            });
        }
    }
    if (check::ClusterRaces* races = races_of(cluster)) {
        races->finish(read_race);
    }
}

void BulkOp::write_global(Cluster& cluster) {
    read_source(cluster);
    const auto put = [&](uint64_t address, const uint8_t* from, uint64_t count) {
        uint8_t* to = reinterpret_cast<uint8_t*>(address);
        if (code.reduces) {
            const uint64_t step = static_cast<uint64_t>(reduce_type_bytes(code.type));
            for (uint64_t at = 0; at + step <= count; at += step) {
                reduce_element(code.reduce, code.type, to + at, from + at);
            }
        } else if (byte_mask == 0xffff) {
            std::memcpy(to, from, count);
        } else {
            for (uint64_t at = 0; at < count; ++at) {
                if (byte_mask >> (at % 16) & 1) {
                    to[at] = from[at];
                }
            }
        }
    };
    if (!code.tensor) {
        put(global, data.data(), bytes);
    } else {
        for (const TensorRow& r : rows) {
            const Span span = valid_span(map, r);
            if (span.bytes != 0) {
                put(r.address, data.data() + r.box_offset + span.offset, span.bytes);
            }
        }
    }
    if (check::ClusterRaces* races = races_of(cluster)) {
        races->finish(write_race);
    }
}

void BulkOp::complete(Cluster& cluster) {
    if (code.kind == BulkKind::store) {
        write_global(cluster);
        return;
    }
    if (code.kind == BulkKind::load) {
        load(cluster);
    } else {
        copy_between_ctas(cluster);
    }
    for (const Target& t : targets) {
        if (check::ClusterRaces* races = races_of(cluster)) {
            races->finish(t.race);
        }
        barrier_bytes_landed(*issuer, pc, t.barrier, static_cast<uint32_t>(bytes), t.generation);
    }
}

std::string BulkOp::describe() const {
    const char* what = code.kind == BulkKind::store ? "bulk store of " : "bulk load of ";
    return what + std::to_string(bytes) + " bytes";
}

// ---- decoding

namespace {

bool is_space(std::string_view p) {
    return p == "global" || p == "shared::cta" || p == "shared::cluster";
}

// Reduction element types of the tensor forms come from the map.
ReduceType map_reduce_type(TensorType t) {
    switch (t) {
        case TensorType::s32:
            return ReduceType::s32;
        case TensorType::u64:
            return ReduceType::u64;
        case TensorType::s64:
            return ReduceType::s64;
        case TensorType::f16:
            return ReduceType::f16;
        case TensorType::bf16:
            return ReduceType::bf16;
        case TensorType::f64:
            return ReduceType::f64;
        case TensorType::u32:
            return ReduceType::u32;
        default:
            return ReduceType::f32;
    }
}

void run_tensor_reduce(Warp& w, const Instr& i, uint32_t active) {
    // The type is known only with the map: one decoded copy per issue keeps run_bulk simple.
    const auto& c = *static_cast<const BulkCode*>(i.ext);
    for_lanes(active, [&](int lane) {
        TensorMap map;
        BulkCode typed = c;
        if (tensor_map_decode(global_pointer(w, c.map.at(w, lane), 128, false, lane), map)) {
            typed.type = map_reduce_type(map.type);
        }
        Instr one = i;
        one.ext = &typed;
        run_bulk(w, one, 1u << lane);
    });
}

void decode_tensor_address(DecodeContext& ctx, const ptx::Operand& o, BulkCode& c) {
    if (o.kind != ptx::Operand::Kind::address || o.items.size() < 2) {
        ctx.fail("a tensor address [map, {coordinates}] is expected");
    }
    c.map = decode_address(ctx, o, ptx::Space::global);
    const std::vector<ptx::Operand>& coords = o.items[1].items;
    const size_t need = c.rows4 ? 5 : static_cast<size_t>(c.rank);
    if (coords.size() != need) {
        ctx.fail(std::to_string(need) + " tensor coordinates are expected");
    }
    for (size_t d = 0; d < need; ++d) {
        c.coords[d] = ctx.source(coords[d], ptx::Type::s32);
    }
}

Instr decode_copy(const ptx::Statement& s, DecodeContext& ctx, bool reduces) {
    BulkCode c;
    c.reduces = reduces;
    std::vector<std::string_view> spaces;
    bool cache_hint = false, byte_mask = false, have_op = false, have_type = false, barrier = false;
    const bool prefetch = s.has("prefetch");
    for (size_t k = reduces ? 4 : 3; k < s.parts.size(); ++k) {
        const std::string_view p = s.parts[k];
        const std::string text(p);
        if (is_space(p)) {
            spaces.push_back(p);
        } else if (p == "tensor") {
            c.tensor = true;
        } else if (p.size() == 2 && p[1] == 'd' && p[0] >= '1' && p[0] <= '5') {
            c.rank = p[0] - '0';
        } else if (p == "tile::gather4" || p == "tile::scatter4") {
            c.rows4 = true;
        } else if (p == "multicast::cluster") {
            c.multicast = true;
        } else if (p == "L2::cache_hint") {
            cache_hint = true;
        } else if (p == "cta_group::2") {
            c.pair_barrier = true;
        } else if (p == "cp_mask") {
            byte_mask = true;
        } else if (p == "mbarrier::complete_tx::bytes") {
            barrier = true;
        } else if (p.substr(0, 6) == "im2col") {
            ctx.fail("im2col tensor copies are not emulated; .tile is");
        } else if (reduces && !have_op && reduce_op_from_text(text.c_str(), c.reduce)) {
            have_op = true;
        } else if (reduces && have_op && !have_type &&
                   reduce_type_from_text(text.c_str(), c.type)) {
            have_type = true;
        } else if (p != "tile" && p != "bulk_group" && p != "cta_group::1" && p != "noftz" &&
                   p != "prefetch" && p != "L2") {
            ctx.unknown(p);
        }
    }
    size_t k = 0;
    if (prefetch) {
        c.kind = BulkKind::prefetch;
        if (c.tensor) {
            decode_tensor_address(ctx, ctx.operand(k++), c);
        } else {
            c.src = decode_address(ctx, ctx.operand(k++), ptx::Space::global);
            c.size = ctx.source(ctx.operand(k++), ptx::Type::b32);
        }
    } else {
        if (spaces.size() != 2) {
            ctx.fail("a destination and a source state space are expected");
        }
        const bool from_global = spaces[1] == "global", to_global = spaces[0] == "global";
        c.kind = to_global     ? BulkKind::store
                 : from_global ? BulkKind::load
                               : BulkKind::shared_to_shared;
        if (to_global == barrier) {
            ctx.fail(to_global ? "stores complete on .bulk_group"
                               : "loads complete on .mbarrier::complete_tx::bytes");
        }
        const ptx::Space src = from_global ? ptx::Space::global : ptx::Space::shared;
        if (to_global && c.tensor) {
            decode_tensor_address(ctx, ctx.operand(k++), c);
        } else {
            c.dst = decode_address(ctx, ctx.operand(k++),
                                   to_global ? ptx::Space::global : ptx::Space::shared);
        }
        if (from_global && c.tensor) {
            decode_tensor_address(ctx, ctx.operand(k++), c);
        } else {
            c.src = decode_address(ctx, ctx.operand(k++), src);
        }
        if (!c.tensor) {
            c.size = ctx.source(ctx.operand(k++), ptx::Type::b32);
        }
        if (barrier) {
            c.barrier = decode_address(ctx, ctx.operand(k++), ptx::Space::shared);
        }
        if (c.multicast) {
            c.cta_mask = ctx.source(ctx.operand(k++), ptx::Type::b16);
        }
    }
    k += cache_hint;
    if (byte_mask) {
        c.byte_mask = ctx.source(ctx.operand(k++), ptx::Type::b16);
    }
    if (k != ctx.operands()) {
        ctx.fail("unexpected number of operands");
    }
    ctx.kind = Class::async_copy;
    Instr i;
    i.run = c.tensor && reduces ? run_tensor_reduce : run_bulk;
    i.ext = ctx.own(c);
    return i;
}

// cp.async.mbarrier.arrive{.noinc}: the barrier receives an arrival of each lane when its earlier
// cp.async have completed.
struct CpArrive : AsyncOp {
    uint32_t barrier = 0;
    int lane = 0;
    uint64_t mark = 0;
    check::Channel* channel = nullptr;
    uint32_t epoch = 0;  // of the last copy that the arrival stands for
    void complete(Cluster& cluster) override {
        if (cp_async_hooks().finish) {
            cp_async_hooks().finish(*issuer, lane, mark);
        }
        if (check::ClusterRaces* races = races_of(cluster); races && channel) {
            races->arrive_channel(barrier_state(cluster, barrier).sync, *channel, epoch);
        }
        barrier_arrival_landed(*issuer, pc, barrier, 1);
    }
    std::string describe() const override { return "cp.async.mbarrier.arrive"; }
};

void run_cp_arrive(Warp& w, const Instr& i, uint32_t active) {
    const auto& address = *static_cast<const AddressRef*>(i.ext);
    for_lanes(active, [&](int lane) {
        auto op = std::make_shared<CpArrive>();
        op->kind = AsyncKind::other;
        op->issuer = &w;
        op->pc = w.here();
        op->lane_mask = 1u << lane;
        op->lane = lane;
        op->barrier = shared_address(w, address.at(w, lane), lane);
        op->mark = cp_async_hooks().mark ? cp_async_hooks().mark(w, lane) : 0;
        op->channel = cp_async_hooks().channel ? cp_async_hooks().channel(w) : nullptr;
        op->epoch = op->channel ? op->channel->begun : 0;
        if (i.small == 0) {
            barrier_apply(w, op->barrier, lane, BarrierOp::raise_pending, 1);
        }
        w.cluster->async.submit(*w.cluster, op);
    });
}

}  // namespace

Instr decode_cp_bulk(const ptx::Statement& s, DecodeContext& ctx) {
    if (s.parts.size() > 4 && s.parts[1] == "reduce" && s.parts[2] == "async" &&
        s.parts[3] == "bulk") {
        return decode_copy(s, ctx, true);
    }
    if (s.parts.size() < 4 || s.parts[1] != "async") {
        ctx.fail("unknown form of cp");
    }
    ctx.kind = Class::async_copy;
    Instr i;
    if (s.parts[2] == "mbarrier" && s.parts[3] == "arrive") {
        i.run = run_cp_arrive;
        i.small = s.has("noinc");
        i.ext = ctx.own(decode_address(ctx, ctx.operand(0), ptx::Space::shared));
        return i;
    }
    if (s.parts[2] != "bulk") {
        ctx.unknown(s.parts[2]);
    }
    if (s.parts[3] == "commit_group") {
        i.run = run_commit;
        return i;
    }
    if (s.parts[3] == "wait_group") {
        i.run = run_wait;
        i.small = s.has("read");
        i.imm = ctx.integer(ctx.operand(0));
        return i;
    }
    return decode_copy(s, ctx, false);
}

}  // namespace emu
