// SPDX-License-Identifier: BSD-3-Clause
#include "check/races.h"

#include <cstring>

#include "check/races_state.h"

namespace emu::check {
namespace {

// Two active lanes with equal addresses but different values, or false.
template <class Address>
bool lanes_disagree(const Address* address, uint32_t mask, uint32_t bytes, const uint8_t* values,
                    int* first, int* second) {
    bool ascending = true;
    Address previous = 0;
    for (uint32_t m = mask; m != 0; m &= m - 1) {
        const Address a = address[__builtin_ctz(m)];
        ascending &= m == mask || a > previous;
        previous = a;
    }
    if (ascending) {
        return false;
    }
    constexpr uint32_t kSlots = 64;
    int8_t table[kSlots];
    std::memset(table, -1, sizeof table);
    for (uint32_t m = mask; m != 0; m &= m - 1) {
        const int lane = __builtin_ctz(m);
        uint32_t slot = static_cast<uint32_t>(address[lane] * 0x9e3779b1u) >> 26;
        for (; table[slot] >= 0; slot = (slot + 1) % kSlots) {
            const int other = table[slot];
            if (address[other] == address[lane]) {
                if (std::memcmp(values + other * bytes, values + lane * bytes, bytes) != 0) {
                    *first = other;
                    *second = lane;
                    return true;
                }
                break;
            }
        }
        table[slot] = static_cast<int8_t>(lane);
    }
    return false;
}

template <class Address>
void note_footprint(Record& r, const Address* address, uint32_t mask, uint32_t bytes) {
    const int first = __builtin_ctz(mask);
    r.mask = mask;
    r.bytes = static_cast<uint16_t>(bytes);
    r.first = address[first];
    r.stride = 0;
    if ((mask & (mask - 1)) == 0) {
        return;
    }
    const int second = __builtin_ctz(mask & (mask - 1));
    const int64_t origin = static_cast<int64_t>(address[first]);
    const int64_t stride = (static_cast<int64_t>(address[second]) - origin) / (second - first);
    bool affine = stride > -(1 << 30) && stride < (1 << 30);
    for (int lane = 0; lane < 32; ++lane) {
        const bool active = (mask >> lane) & 1;
        affine &=
            !active || static_cast<int64_t>(address[lane]) == origin + stride * (lane - first);
    }
    r.stride = affine ? static_cast<int32_t>(stride) : Record::kNoStride;
}

}  // namespace

namespace {

// Calls touch(cell, byte_mask, byte address, lane) for each word of each active lane, unless
// repeat(cells) did the lane. Lanes side by side in one word are merged.
template <uint32_t kWords, class Address, class CellAt, class Touch>
void each_lane(const Address* address, uint32_t mask, const ShadowEngine::Memo& memo,
               CellAt cell_at, Touch touch) {
    for (uint32_t m = mask; m != 0; m &= m - 1) {
        const int lane = __builtin_ctz(m);
        Cell* cells = cell_at(address[lane]);
        if (ShadowEngine::repeat<kWords>(cells, memo)) {
            continue;
        }
        for (uint32_t w = 0; w < kWords; ++w) {
            touch(cells[w], 15u, address[lane] + 4 * w, lane);
        }
    }
}

template <class Address, class CellAt, class Touch>
void each_word(const Address* address, uint32_t mask, uint32_t bytes,
               const ShadowEngine::Memo& memo, CellAt cell_at, Touch touch) {
    switch (bytes) {
        case 4:
            return each_lane<1>(address, mask, memo, cell_at, touch);
        case 8:
            return each_lane<2>(address, mask, memo, cell_at, touch);
        case 16:
            return each_lane<4>(address, mask, memo, cell_at, touch);
        case 32:
            return each_lane<8>(address, mask, memo, cell_at, touch);
        default:
            break;
    }
    const uint32_t ones = (1u << bytes) - 1;
    Address word = 0;
    uint32_t byte_mask = 0;
    int first_lane = 0;
    for (uint32_t m = mask; m != 0; m &= m - 1) {
        const int lane = __builtin_ctz(m);
        const Address a = address[lane];
        if (byte_mask != 0 && (a & ~Address{3}) != word) {
            touch(*cell_at(word), byte_mask, word, first_lane);
            byte_mask = 0;
        }
        if (byte_mask == 0) {
            word = a & ~Address{3};
            first_lane = lane;
        }
        byte_mask |= ones << (a & 3);
    }
    if (byte_mask != 0) {
        touch(*cell_at(word), byte_mask, word, first_lane);
    }
}

template <class Touch>
void each_word_of_range(Cell* cells, uint64_t address, uint64_t bytes, Touch touch) {
    const uint64_t end = address + bytes;
    for (uint64_t word = address & ~uint64_t{3}; word < end; word += 4, ++cells) {
        uint32_t mask = 15;
        if (word < address) {
            mask &= 15u << (address - word);
        }
        if (end - word < 4) {
            mask &= 15u >> (4 - (end - word));
        }
        touch(*cells, mask, word, kNoLane);
    }
}

}  // namespace

ClusterRaces::ClusterRaces(const LaunchInfo& launch, GlobalShadow& global,
                           std::vector<uint64_t> ctas, uint32_t warps_per_cta,
                           uint64_t shared_bytes)
    : launch_(launch), global_(global), warps_per_cta_(warps_per_cta) {
    const size_t ranks = ctas.size();
    const uint32_t warps = static_cast<uint32_t>(ranks) * warps_per_cta;
    state_ = std::make_unique<State>(global, global.enroll(std::move(ctas)), warps_per_cta, warps);
    State& s = *state_;
    s.agents_made = 2 * warps;  // a warp's single lanes have a place in the clocks of their own
    s.agents.resize(warps);
    for (uint32_t i = 0; i < warps; ++i) {
        s.agents[i].clocks.c.local.reserve(2 * s.agents_made + 64);
        s.agents[i].clocks.c.local.assign(s.agents_made, 0);
    }
    s.lanes = std::make_unique<WarpLanes>(warps, ranks, shared_bytes, kRankShift);
    s.cells.resize(ranks);
    for (auto& cells : s.cells) {
        cells.resize(shared_bytes / 4 + 8);
    }
}

ClusterRaces::~ClusterRaces() = default;

// --- accesses

template <class Address>
void ClusterRaces::check_lane_order(const View& v, const Address* address, uint32_t mask,
                                    uint32_t bytes) const {
    WarpLanes::Clash c;
    WarpLanes& lanes = *state_->lanes;
    const bool bad = v.self.op == Op::Read
                         ? lanes.read(v.self.agent, v.self.pc, address, mask, bytes, &c)
                         : lanes.write(v.self.agent, v.self.pc, address, mask, bytes, &c);
    if (bad) {
        throw lane_order_clash(v, c);
    }
}

template <class Address>
void ClusterRaces::shared_access(const Access& access, const Address* address, uint32_t mask,
                                 uint32_t bytes, const void* values) {
    if (mask == 0) {
        return;
    }
    View v = state_->view(access, mask);
    note_footprint(v.self, address, mask, bytes);
    if (values != nullptr && access.op == Op::Write) {
        check_lanes(v, address, mask, bytes, static_cast<const uint8_t*>(values), true);
    }
    if (access.scope == Scope::None && access.op != Op::Atomic) {
        check_lane_order(v, address, mask, bytes);
    }
    const uint32_t id =
        state_->record(state_->shared_engine, state_->agents[access.agent].shared_records, v);
    shared_words(v, id, address, mask, bytes);
}

void ClusterRaces::shared(const Access& access, const uint32_t* address, uint32_t mask,
                          uint32_t bytes, const void* values) {
    shared_access(access, address, mask, bytes, values);
}

void ClusterRaces::shared(const Access& access, const uint64_t* address, uint32_t mask,
                          uint32_t bytes, const void* values) {
    shared_access(access, address, mask, bytes, values);
}

void ClusterRaces::global(const Access& access, const uint64_t* address, uint32_t mask,
                          uint32_t bytes, const void* values) {
    if (mask == 0) {
        return;
    }
    View v = state_->view(access, mask);
    note_footprint(v.self, address, mask, bytes);
    if (values != nullptr && access.op == Op::Write) {
        check_lanes(v, address, mask, bytes, static_cast<const uint8_t*>(values), false);
    }
    const uint32_t id =
        state_->record(state_->global_engine, state_->agents[access.agent].global_records, v);
    global_words(v, id, address, mask, bytes);
}

void ClusterRaces::shared_range(const Access& access, uint32_t address, uint64_t bytes) {
    View v = state_->view(access);
    shared_words_of_range(
        v, state_->record(state_->shared_engine, state_->agents[access.agent].shared_records, v),
        address, bytes);
}

void ClusterRaces::global_range(const Access& access, uint64_t address, uint64_t bytes) {
    View v = state_->view(access);
    global_words_of_range(
        v, state_->record(state_->global_engine, state_->agents[access.agent].global_records, v),
        address, bytes);
}

void ClusterRaces::shared(const AsyncOp& op, Op kind, const uint32_t* address, uint32_t mask,
                          uint32_t bytes) {
    if (mask == 0) {
        return;
    }
    View v = state_->view(op, kind);
    note_footprint(v.self, address, mask, bytes);
    shared_words(v, state_->shared_engine.add_record(v.self), address, mask, bytes);
}

void ClusterRaces::global(const AsyncOp& op, Op kind, const uint64_t* address, uint32_t mask,
                          uint32_t bytes) {
    if (mask == 0) {
        return;
    }
    View v = state_->view(op, kind);
    note_footprint(v.self, address, mask, bytes);
    global_words(v, state_->global_engine.add_record(v.self), address, mask, bytes);
}

void ClusterRaces::shared_range(const AsyncOp& op, Op kind, uint32_t address, uint64_t bytes) {
    View v = state_->view(op, kind);
    shared_words_of_range(v, state_->record(op, state_->shared_engine, v, 0), address, bytes);
}

void ClusterRaces::global_range(const AsyncOp& op, Op kind, uint64_t address, uint64_t bytes) {
    View v = state_->view(op, kind);
    global_words_of_range(v, state_->record(op, state_->global_engine, v, 1), address, bytes);
}

template <class Address>
void ClusterRaces::shared_words(const View& v, uint32_t id, const Address* address, uint32_t mask,
                                uint32_t bytes) {
    State& s = *state_;
    ShadowEngine::Memo memo;
    each_word(
        address, mask, bytes, memo,
        [&](Address a) { return s.cells[a >> kRankShift].data() + ((a & kOffsetMask) >> 2); },
        [&](Cell& cell, uint32_t byte_mask, Address at, int lane) {
            try {
                s.shared_engine.touch(v, id, cell, byte_mask, memo);
            } catch (const ShadowEngine::Clash& c) {
                throw clash(v, lane, at + c.byte, c.other, c.kind, true);
            }
        });
}

void ClusterRaces::shared_words_of_range(const View& v, uint32_t id, uint32_t address,
                                         uint64_t bytes) {
    State& s = *state_;
    ShadowEngine::Memo memo;
    each_word_of_range(s.cells[address >> kRankShift].data() + ((address & kOffsetMask) >> 2),
                       address, bytes, [&](Cell& cell, uint32_t byte_mask, uint64_t at, int lane) {
                           try {
                               s.shared_engine.touch(v, id, cell, byte_mask, memo);
                           } catch (const ShadowEngine::Clash& c) {
                               throw clash(v, lane, at + c.byte, c.other, c.kind, true);
                           }
                       });
}

void ClusterRaces::global_words(const View& v, uint32_t id, const uint64_t* address, uint32_t mask,
                                uint32_t bytes) {
    State& s = *state_;
    ShadowEngine::Memo memo;
    // Lanes are taken page by page, so that a page is locked once.
    for (uint32_t left = mask; left != 0;) {
        const uint64_t number = address[__builtin_ctz(left)] / GlobalShadow::kPageBytes;
        uint32_t here = 0;
        for (uint32_t m = left; m != 0; m &= m - 1) {
            const int lane = __builtin_ctz(m);
            here |= uint32_t{address[lane] / GlobalShadow::kPageBytes == number} << lane;
        }
        left &= ~here;
        GlobalShadow::Page& page = s.page(global_, number);
        const GlobalShadow::PageLock lock(page);
        each_word(
            address, here, bytes, memo,
            [&](uint64_t a) { return page.cells + (a % GlobalShadow::kPageBytes >> 2); },
            [&](Cell& cell, uint32_t byte_mask, uint64_t at, int lane) {
                try {
                    s.global_engine.touch(v, id, cell, byte_mask, memo);
                } catch (const ShadowEngine::Clash& c) {
                    throw clash(v, lane, at + c.byte, c.other, c.kind, false);
                }
            });
    }
}

void ClusterRaces::global_words_of_range(const View& v, uint32_t id, uint64_t address,
                                         uint64_t bytes) {
    State& s = *state_;
    ShadowEngine::Memo memo;
    while (bytes != 0) {
        const uint64_t inside = address % GlobalShadow::kPageBytes;
        const uint64_t n = std::min(bytes, GlobalShadow::kPageBytes - inside);
        GlobalShadow::Page& page = s.page(global_, address / GlobalShadow::kPageBytes);
        const GlobalShadow::PageLock lock(page);
        each_word_of_range(page.cells + (inside >> 2), address, n,
                           [&](Cell& cell, uint32_t byte_mask, uint64_t at, int lane) {
                               try {
                                   s.global_engine.touch(v, id, cell, byte_mask, memo);
                               } catch (const ShadowEngine::Clash& c) {
                                   throw clash(v, lane, at + c.byte, c.other, c.kind, false);
                               }
                           });
        address += n;
        bytes -= n;
    }
}

template <class Address>
void ClusterRaces::check_lanes(const View& v, const Address* address, uint32_t mask, uint32_t bytes,
                               const uint8_t* values, bool in_shared) const {
    int first = 0, second = 0;
    if (lanes_disagree(address, mask, bytes, values, &first, &second)) {
        throw lanes_clash(v, first, second, address[second], in_shared);
    }
}

}  // namespace emu::check
