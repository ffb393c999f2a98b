// SPDX-License-Identifier: BSD-3-Clause
// clusterlaunchcontrol: the request to cancel a cluster that has not started always comes back
// refused, which a program must handle; every cluster of the grid is launched and does its own
// work.
#include <cstring>

#include "exec/async_support.h"

namespace emu {
namespace {

struct RequestCode {
    AddressRef response, barrier;
    bool multicast = false;
};

// 16 bytes of zeros: not cancelled.
struct RequestOp : AsyncOp {
    std::vector<std::pair<uint32_t, uint32_t>> targets;  // response, barrier
    std::vector<uint64_t> generations;
    void complete(Cluster& cluster) override {
        for (size_t k = 0; k < targets.size(); ++k) {
            const auto [response, barrier] = targets[k];
            std::memset(cluster.cta_of(response)->shared.data() + (response & kSharedOffsetMask), 0,
                        16);
            check_shared_written(cluster, response, 16);
            barrier_bytes_landed(*issuer, pc, barrier, 16, generations[k]);
        }
    }
    std::string describe() const override { return "clusterlaunchcontrol.try_cancel"; }
};

void run_request(Warp& w, const Instr& i, uint32_t active) {
    const auto& c = *static_cast<const RequestCode*>(i.ext);
    for_lanes(active, [&](int lane) {
        auto op = std::make_shared<RequestOp>();
        op->issuer = &w;
        op->pc = w.here();
        op->lane_mask = 1u << lane;
        const uint32_t response = shared_address(w, c.response.at(w, lane), lane);
        const uint32_t barrier = shared_address(w, c.barrier.at(w, lane), lane);
        const uint32_t first = c.multicast ? 0 : rank_of(response);
        const uint32_t last =
            c.multicast ? static_cast<uint32_t>(w.cluster->ctas.size()) - 1 : first;
        for (uint32_t rank = first; rank <= last; ++rank) {
            const uint32_t to = with_rank(response, rank);
            const uint32_t signal = c.multicast ? with_rank(barrier, rank) : barrier;
            if (to % 16 != 0) {
                w.fail(fault::kMisalignedAddress,
                       "clusterlaunchcontrol.try_cancel: the response is not aligned to 16 bytes",
                       lane);
            }
            shared_pointer(w, to, 16, lane);
            barrier_word(w, signal, lane);
            op->targets.emplace_back(to, signal);
            op->generations.push_back(barrier_copy_issued(*w.cluster, signal, 16));
        }
        w.cluster->async.submit(*w.cluster, op);
    });
}

void run_is_canceled(Warp& w, const Instr& i, uint32_t active) {
    const uint64_t* words = w.u64(i.r[1]);
    uint32_t bits = 0;
    for_lanes(active, [&](int lane) { bits |= static_cast<uint32_t>(words[lane] & 1) << lane; });
    w.set_pred(i.p[0], bits, active);
}

// The ISA leaves the first CTA's coordinates undefined for a refused request.
void run_first_cta(Warp& w, const Instr& i, uint32_t active) {
    for (int k = 0; k < 3; ++k) {
        if (i.r[k] != kNoRef) {
            for_lanes(active, [&](int lane) { w.u32(i.r[k])[lane] = 0; });
        }
    }
}

Instr decode(const ptx::Statement& s, DecodeContext& ctx) {
    Instr i;
    ctx.kind = Class::other;
    if (s.parts.size() > 1 && s.parts[1] == "try_cancel") {
        RequestCode c;
        c.response = decode_address(ctx, ctx.operand(0), ptx::Space::shared);
        c.barrier = decode_address(ctx, ctx.operand(1), ptx::Space::shared);
        c.multicast = s.has("multicast::cluster::all");
        i.run = run_request;
        i.ext = ctx.own(c);
        return i;
    }
    if (s.parts.size() < 3 || s.parts[1] != "query_cancel") {
        ctx.unknown(s.parts.size() > 1 ? s.parts[1] : s.parts[0]);
    }
    if (s.parts[2] == "is_canceled") {
        i.run = run_is_canceled;
        i.p[0] = ctx.predicate_target(ctx.operand(0));
        i.r[1] = ctx.source(ctx.operand(1), ptx::Type::b128);
        return i;
    }
    i.run = run_first_cta;
    const ptx::Operand& out = ctx.operand(0);
    if (out.kind == ptx::Operand::Kind::vector) {
        for (size_t k = 0; k < 3 && k < out.items.size(); ++k) {
            i.r[k] = ctx.target(out.items[k], ptx::Type::b32);
        }
    } else {
        i.r[0] = ctx.target(out, ptx::Type::b32);
    }
    return i;
}

const RegisterFamily family_cluster_launch("clusterlaunchcontrol", decode);

}  // namespace
}  // namespace emu
