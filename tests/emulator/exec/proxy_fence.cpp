// SPDX-License-Identifier: BSD-3-Clause
// fence.proxy.*, fence.mbarrier_init, st.async, red.async, tensormap.replace.
#include <cstring>

#include "exec/async_families.h"
#include "exec/async_support.h"
#include "units/reduce.h"
#include "units/tensor_map.h"

namespace emu {
namespace {

void run_nothing(Warp&, const Instr&, uint32_t) {}

void run_fence_async(Warp& w, const Instr&, uint32_t) {
    if (check::ClusterRaces* races = races_of(*w.cluster)) {
        races->fence_proxy_async(w.agent);
    }
}

// st.async / red.async: a remote store or reduction that completes bytes on a remote mbarrier.
struct RemoteCode {
    AddressRef dst, barrier;
    Ref values[4] = {kNoRef, kNoRef, kNoRef, kNoRef};
    int count = 1, bytes = 4;  // elements and bytes of one
    bool reduces = false;
    ReduceOp op = ReduceOp::add;
    ReduceType type = ReduceType::u32;
};

struct RemoteOp : AsyncOp {
    const RemoteCode* code = nullptr;
    uint32_t dst = 0, barrier = 0;
    uint8_t data[32] = {};
    uint64_t generation = 0;
    check::AsyncOp race;
    void complete(Cluster& cluster) override {
        uint8_t* to = cluster.cta_of(dst)->shared.data() + (dst & kSharedOffsetMask);
        const uint32_t total = static_cast<uint32_t>(code->count * code->bytes);
        if (code->reduces) {
            reduce_element(code->op, code->type, to, data);
        } else {
            std::memcpy(to, data, total);
        }
        check_shared_written(cluster, dst, total);
        if (check::ClusterRaces* races = races_of(cluster)) {
            races->finish(race);
        }
        barrier_bytes_landed(*issuer, pc, barrier, total, generation);
    }
    std::string describe() const override { return code->reduces ? "red.async" : "st.async"; }
};

void run_remote(Warp& w, const Instr& i, uint32_t active) {
    const auto& c = *static_cast<const RemoteCode*>(i.ext);
    const uint32_t total = static_cast<uint32_t>(c.count * c.bytes);
    for_lanes(active, [&](int lane) {
        auto op = std::make_shared<RemoteOp>();
        op->kind = AsyncKind::other;
        op->issuer = &w;
        op->pc = w.here();
        op->lane_mask = 1u << lane;
        op->code = &c;
        op->dst = shared_address(w, c.dst.at(w, lane), lane);
        op->barrier = shared_address(w, c.barrier.at(w, lane), lane);
        if (op->dst % total != 0) {
            w.fail(fault::kMisalignedAddress,
                   i.small ? "red.async destination is misaligned"
                           : "st.async destination is misaligned",
                   lane);
        }
        if (rank_of(op->dst) != rank_of(op->barrier)) {
            w.fail(fault::kLaunchFailure,
                   "st.async / red.async: destination and mbarrier lie in different CTAs", lane);
        }
        shared_pointer(w, op->dst, total, lane);
        barrier_word(w, op->barrier, lane);
        for (int k = 0; k < c.count; ++k) {
            if (c.bytes == 8) {
                std::memcpy(op->data + 8 * k, &w.u64(c.values[k])[lane], 8);
            } else {
                std::memcpy(op->data + 4 * k, &w.u32(c.values[k])[lane], 4);
            }
        }
        BarrierState& state = barrier_state(*w.cluster, op->barrier);
        op->generation = barrier_copy_issued(*w.cluster, op->barrier, total);
        if (check::ClusterRaces* races = races_of(*w.cluster)) {
            op->race = races->begin(w.agent, state.sync.channel, w.here(), check::Proxy::Generic);
            races->shared_range(op->race, c.reduces ? check::Op::Atomic : check::Op::Write, op->dst,
                                total);
        }
        w.cluster->async.submit(*w.cluster, op);
    });
}

ptx::Type bits_type(int bytes) {
    return bytes == 8 ? ptx::Type::b64 : ptx::Type::b32;
}

Instr decode_remote(const ptx::Statement& s, DecodeContext& ctx, bool reduces) {
    RemoteCode c;
    c.reduces = reduces;
    bool have_op = false;
    for (size_t k = 2; k < s.parts.size(); ++k) {
        const std::string_view p = s.parts[k];
        const std::string text(p);
        if (p == "v2" || p == "v4") {
            c.count = p[1] - '0';
        } else if (reduces && !have_op && reduce_op_from_text(text.c_str(), c.op)) {
            have_op = true;
        } else if (reduce_type_from_text(text.c_str(), c.type)) {
            c.bytes = reduce_type_bytes(c.type);
        } else if (p != "shared::cluster" && p != "mbarrier::complete_tx::bytes" && p != "weak" &&
                   p != "relaxed" && p != "cluster" && p != "f32" && p != "f64") {
            ctx.unknown(p);
        }
    }
    ctx.kind = Class::async_copy;
    c.dst = decode_address(ctx, ctx.operand(0), ptx::Space::shared);
    const ptx::Operand& value = ctx.operand(1);
    if (c.count > 1) {
        if (value.items.size() != static_cast<size_t>(c.count)) {
            ctx.fail("a vector of " + std::to_string(c.count) + " values is expected");
        }
        for (int k = 0; k < c.count; ++k) {
            c.values[k] = ctx.source(value.items[static_cast<size_t>(k)], bits_type(c.bytes));
        }
    } else {
        c.values[0] = ctx.source(value, bits_type(c.bytes));
    }
    c.barrier = decode_address(ctx, ctx.operand(2), ptx::Space::shared);
    Instr i;
    i.run = run_remote;
    i.small = reduces;
    i.ext = ctx.own(c);
    return i;
}

// tensormap.replace.tile.<field>.{global,shared::cta}.b1024.{b32,b64} [addr], {ord,} value
enum class MapField : uint8_t { address, rank, box, dim, stride, step };
struct ReplaceCode {
    AddressRef map;
    MapField field;
    bool shared = false, wide = false;
    int64_t ordinal = 0;
    Ref value = kNoRef;
};

void run_replace(Warp& w, const Instr& i, uint32_t active) {
    const auto& c = *static_cast<const ReplaceCode*>(i.ext);
    for_lanes(active, [&](int lane) {
        const uint64_t at = c.map.at(w, lane);
        uint8_t* bytes = c.shared ? shared_pointer(w, shared_address(w, at, lane), 128, lane)
                                  : global_pointer(w, at, 128, true, lane);
        TensorMap m;
        if (!tensor_map_decode(bytes, m)) {
            w.fail(fault::kLaunchFailure,
                   "tensormap.replace on memory that holds no encoded tensor map", lane);
        }
        const uint64_t v = c.wide ? w.u64(c.value)[lane] : w.u32(c.value)[lane];
        const size_t o = static_cast<size_t>(c.ordinal);
        switch (c.field) {
            case MapField::address:
                m.address = v;
                break;
            case MapField::rank:
                m.rank = static_cast<int>(v) + 1;
                break;
            case MapField::box:
                m.box[o] = static_cast<uint32_t>(v);
                break;
            case MapField::dim:
                m.dims[o] = v;
                break;
            case MapField::stride:
                m.strides[o + 1] = v;
                break;
            case MapField::step:
                m.steps[o] = static_cast<uint32_t>(v);
                break;
        }
        tensor_map_write(m, bytes);
    });
}

Instr decode_tensormap(const ptx::Statement& s, DecodeContext& ctx) {
    if (s.parts.size() < 5 || s.parts[1] != "replace" || s.parts[2] != "tile") {
        ctx.unknown(s.parts.size() > 1 ? s.parts[1] : s.parts[0]);
    }
    ReplaceCode c;
    const std::string_view field = s.parts[3];
    bool ordinal = true;
    if (field == "global_address") {
        c.field = MapField::address;
        ordinal = false;
    } else if (field == "rank") {
        c.field = MapField::rank;
        ordinal = false;
    } else if (field == "box_dim") {
        c.field = MapField::box;
    } else if (field == "global_dim") {
        c.field = MapField::dim;
    } else if (field == "global_stride") {
        c.field = MapField::stride;
    } else if (field == "element_stride") {
        c.field = MapField::step;
    } else {
        ctx.fail("tensormap.replace of ." + std::string(field) +
                 " is not emulated; global_address, rank, box_dim, global_dim, global_stride and "
                 "element_stride are");
    }
    c.shared = s.has("shared::cta");
    c.wide = s.has("b64");
    c.map = decode_address(ctx, ctx.operand(0), c.shared ? ptx::Space::shared : ptx::Space::global);
    size_t k = 1;
    if (ordinal) {
        c.ordinal = ctx.integer(ctx.operand(k++));
        if (c.ordinal < 0 || c.ordinal > (c.field == MapField::stride ? 3 : 4)) {
            ctx.fail("tensormap.replace: ordinal " + std::to_string(c.ordinal) +
                     " is outside the tensor");
        }
    }
    c.value = ctx.source(ctx.operand(k), c.wide ? ptx::Type::b64 : ptx::Type::b32);
    ctx.kind = Class::other;
    Instr i;
    i.run = run_replace;
    i.ext = ctx.own(c);
    return i;
}

const RegisterFamily family_tensormap("tensormap", decode_tensormap);

}  // namespace

Instr decode_fence_proxy(const ptx::Statement& s, DecodeContext& ctx) {
    ctx.kind = Class::fence;
    Instr i;
    i.run = run_nothing;
    if (s.parts[1] == "mbarrier_init") {
        return i;
    }
    const std::string_view kind = s.parts.size() > 2 ? s.parts[2] : std::string_view();
    if (kind == "async" || kind == "async::generic") {
        i.run = run_fence_async;
    } else if (kind != "alias" && kind != "tensormap::generic") {
        ctx.unknown(kind);
    }
    return i;
}

Instr decode_st_async(const ptx::Statement& s, DecodeContext& ctx) {
    return decode_remote(s, ctx, false);
}
Instr decode_red_async(const ptx::Statement& s, DecodeContext& ctx) {
    return decode_remote(s, ctx, true);
}

}  // namespace emu
