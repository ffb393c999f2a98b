// SPDX-License-Identifier: BSD-3-Clause
#include "exec/async_support.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

namespace emu {
namespace {

struct BarrierTable {
    std::unordered_map<uint32_t, BarrierState> states;
};

std::string barrier_name(uint32_t address) {
    char text[64];
    std::snprintf(text, sizeof text, "mbarrier at shared+0x%x of CTA rank %u",
                  address & kSharedOffsetMask, rank_of(address));
    return text;
}

std::string misuse(MbarrierError error, uint32_t address, const Mbarrier& b, uint32_t count,
                   uint32_t tx) {
    const std::string name = barrier_name(address);
    switch (error) {
        case MbarrierError::not_initialised:
            return name + " is used but not initialised";
        case MbarrierError::bad_count:
            return name + ": count " + std::to_string(count) + " is outside 1.." +
                   std::to_string(Mbarrier::kMaxCount);
        case MbarrierError::too_many_arrivals:
            return name + ": " + std::to_string(count) + " arrivals where " +
                   std::to_string(b.pending) + " of " + std::to_string(b.expected) +
                   " are pending in this phase";
        case MbarrierError::tx_range:
            return name + ": tx-count " + std::to_string(b.tx) + " changed by " +
                   std::to_string(tx) + " bytes leaves -(2^20-1)..2^20-1";
        default:
            return name;
    }
}

MbarrierResult perform(uint64_t& word, BarrierOp op, uint32_t count, uint32_t tx) {
    switch (op) {
        case BarrierOp::init:
            return mbarrier_init(word, count);
        case BarrierOp::arrive:
            return mbarrier_arrive(word, count, tx);
        case BarrierOp::arrive_drop:
            return mbarrier_arrive(word, count, tx, true);
        case BarrierOp::expect_tx:
            return mbarrier_expect_tx(word, tx);
        case BarrierOp::complete_tx:
            return mbarrier_complete_tx(word, tx);
        case BarrierOp::raise_pending:
            return mbarrier_raise_pending(word, count);
        case BarrierOp::invalidate:
            word = 0;
            return {};
    }
    return {};
}

std::string early_end(uint32_t address, uint64_t bytes) {
    return barrier_name(address) + ": its phase ended while " + std::to_string(bytes) +
           " bytes of copies issued in it have not landed: the expected tx-count is too small";
}

void phase_ended(Cluster& cluster, BarrierState& state) {
    ++state.generation;
    state.in_flight = 0;
    if (check::ClusterRaces* races = races_of(cluster)) {
        races->complete(state.sync);
    }
}

}  // namespace

AddressRef decode_address(DecodeContext& ctx, const ptx::Operand& operand, ptx::Space space) {
    const DecodeContext::Address a = ctx.address(operand, space);
    return {a.base, a.wide, a.offset};
}

uint32_t shared_address(Warp& w, uint64_t address, int lane) {
    const bool generic = address >= kSharedWindow && address < kLocalWindow;
    if (!generic && address >> 32 != 0) {
        char text[80];
        std::snprintf(text, sizeof text, "address 0x%llx is not in shared memory",
                      static_cast<unsigned long long>(address));
        w.fail(fault::kIllegalAddress, text, lane);
    }
    return static_cast<uint32_t>(address);
}

uint8_t* shared_pointer(Warp& w, uint32_t address, uint64_t bytes, int lane) {
    return w.cluster->shared(w, address, bytes, lane);
}

uint8_t* global_pointer(Warp& w, uint64_t address, uint64_t bytes, bool write, int lane) {
    if (address >= kSharedWindow || address == 0) {
        char text[80];
        std::snprintf(text, sizeof text, "address 0x%llx is not in global memory",
                      static_cast<unsigned long long>(address));
        w.fail(fault::kIllegalAddress, text, lane);
    }
    check_global_range(w, w.here(), address, bytes, write, lane);
    check_global_range(w, w.here(), address, bytes, write, lane);
    return reinterpret_cast<uint8_t*>(address);
}

BarrierState& barrier_state(Cluster& cluster, uint32_t address) {
    BarrierState& state = cluster.slots.get<BarrierTable>(kSlotMbarrier).states[address];
    if (!state.opened) {
        if (check::ClusterRaces* races = races_of(cluster)) {
            races->open(state.sync);
            state.opened = true;
        }
    }
    return state;
}

uint64_t barrier_word(Warp& w, uint32_t address, int lane) {
    if (address % 8 != 0) {
        w.fail(fault::kMisalignedAddress, barrier_name(address) + " is not aligned to 8 bytes",
               lane);
    }
    uint64_t word;
    std::memcpy(&word, shared_pointer(w, address, 8, lane), 8);
    return word;
}

MbarrierResult barrier_apply(Warp& w, uint32_t address, int lane, BarrierOp op, uint32_t count,
                             uint32_t tx, bool release) {
    uint64_t word = barrier_word(w, address, lane);
    const MbarrierResult result = perform(word, op, count, tx);
    if (result.error != MbarrierError::none) {
        w.fail(fault::kLaunchFailure,
               misuse(result.error, address, Mbarrier::unpack(word), count, tx), lane);
    }
    std::memcpy(shared_pointer(w, address, 8, lane), &word, 8);
    BarrierState& state = barrier_state(*w.cluster, address);
    if (op == BarrierOp::init) {
        check_shared_written(*w.cluster, address, 8);
        state.generation = 0;
        state.in_flight = 0;
        state.sync.pending.clear();
        state.sync.completed.clear();
    } else if (release && (op == BarrierOp::arrive || op == BarrierOp::arrive_drop)) {
        if (check::ClusterRaces* races = races_of(*w.cluster)) {
            races->arrive(w.agent, state.sync, 1u << lane);
        }
    }
    if (result.completed) {
        if (state.in_flight != 0 && (w.checks & kCheckBarriers)) {
            w.fail(fault::kLaunchFailure, early_end(address, state.in_flight), lane);
        }
        phase_ended(*w.cluster, state);
    }
    return result;
}

uint64_t barrier_copy_issued(Cluster& cluster, uint32_t address, uint64_t bytes) {
    BarrierState& state = barrier_state(cluster, address);
    state.in_flight += bytes;
    return state.generation;
}

namespace {

void landed(Warp& issuer, uint32_t pc, uint32_t address, BarrierOp op, uint32_t count, uint32_t tx,
            const uint64_t* issued) {
    Cta* cta = issuer.cluster->cta_of(address);
    const uint32_t offset = address & kSharedOffsetMask;
    if (cta == nullptr || offset % 8 != 0 || offset + 8 > cta->shared.size()) {
        fail_at(issuer, pc, fault::kIllegalAddress,
                barrier_name(address) + " lies outside shared memory");
    }
    uint64_t word;
    std::memcpy(&word, cta->shared.data() + offset, 8);
    BarrierState& state = barrier_state(*issuer.cluster, address);
    if (issued && *issued != state.generation && (issuer.checks & kCheckBarriers) &&
        Mbarrier::unpack(word).valid) {
        fail_at(issuer, pc, fault::kLaunchFailure,
                barrier_name(address) + ": " + std::to_string(tx) + " bytes landed " +
                    std::to_string(state.generation - *issued) +
                    " phase(s) after the copy was issued: the tx-count expected in that phase was "
                    "too small");
    }
    if (op == BarrierOp::complete_tx) {
        state.in_flight -= std::min<uint64_t>(state.in_flight, tx);
    }
    const MbarrierResult result = perform(word, op, count, tx);
    if (result.error != MbarrierError::none) {
        fail_at(issuer, pc, fault::kLaunchFailure,
                misuse(result.error, address, Mbarrier::unpack(word), count, tx));
    }
    std::memcpy(cta->shared.data() + offset, &word, 8);
    if (result.completed) {
        if (state.in_flight != 0 && (issuer.checks & kCheckBarriers)) {
            fail_at(issuer, pc, fault::kLaunchFailure, early_end(address, state.in_flight));
        }
        phase_ended(*issuer.cluster, state);
    }
}

}  // namespace

void barrier_bytes_landed(Warp& issuer, uint32_t pc, uint32_t address, uint32_t bytes,
                          uint64_t issued) {
    landed(issuer, pc, address, BarrierOp::complete_tx, 0, bytes, &issued);
}

void barrier_arrival_landed(Warp& issuer, uint32_t pc, uint32_t address, uint32_t count) {
    landed(issuer, pc, address, BarrierOp::arrive, count, 0, nullptr);
}

void fail_at(Warp& issuer, uint32_t pc, int error, const std::string& text, int lane) {
    throw check::fault_at(error, text, info_of(issuer), site_of(issuer, pc, lane));
}

}  // namespace emu
