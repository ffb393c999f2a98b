// SPDX-License-Identifier: BSD-3-Clause
// The mbarrier object: its 64-bit word in shared memory and the operations on it.
#pragma once

#include <cstdint>

namespace emu {

// pending arrivals and tx-count of the current phase; a phase ends when both are zero, then pending
// = expected.
struct Mbarrier {
    uint32_t expected = 0, pending = 0;  // 0 .. 2^20 - 1
    int32_t tx = 0;                      // -(2^20 - 1) .. 2^20 - 1
    bool phase = false;                  // parity of the current, incomplete phase
    bool valid = false;                  // initialised and not overwritten by plain stores

    static constexpr uint32_t kMaxCount = (1u << 20) - 1;
    static constexpr int32_t kMaxTx = (1 << 20) - 1;

    static Mbarrier unpack(uint64_t word) {
        Mbarrier b;
        b.expected = static_cast<uint32_t>(word & kMaxCount);
        b.pending = static_cast<uint32_t>((word >> 20) & kMaxCount);
        b.tx = static_cast<int32_t>((word >> 40) & 0x1fffff) - kMaxTx;
        b.phase = (word >> 61) & 1;
        b.valid = (word >> 62) == 2 && b.expected + b.pending != 0;
        return b;
    }
    uint64_t pack() const {
        return static_cast<uint64_t>(expected) | static_cast<uint64_t>(pending) << 20 |
               static_cast<uint64_t>(static_cast<uint32_t>(tx + kMaxTx)) << 40 |
               static_cast<uint64_t>(phase) << 61 | uint64_t{2} << 62;
    }
};

enum class MbarrierError : uint8_t {
    none,
    not_initialised,
    bad_count,
    too_many_arrivals,
    tx_range
};

struct MbarrierResult {
    MbarrierError error = MbarrierError::none;
    bool completed = false;  // this operation ended the phase
    uint64_t state = 0;      // what mbarrier.arrive returns: the word before the arrival
};

MbarrierResult mbarrier_init(uint64_t& word, uint32_t count);
// arrive{.expect_tx}: expect_tx first (tx >= 0), then `count` arrivals. drop also lowers the
// expected count.
MbarrierResult mbarrier_arrive(uint64_t& word, uint32_t count, uint32_t tx = 0, bool drop = false);
MbarrierResult mbarrier_expect_tx(uint64_t& word, uint32_t tx);
MbarrierResult mbarrier_complete_tx(uint64_t& word, uint32_t tx);
// cp.async.mbarrier.arrive without .noinc raises the pending count when it is issued.
MbarrierResult mbarrier_raise_pending(uint64_t& word, uint32_t count);
// True when the phase of `parity` (or of the token `state`) has completed.
inline bool mbarrier_test_parity(uint64_t word, uint32_t parity) {
    return Mbarrier::unpack(word).phase != static_cast<bool>(parity & 1);
}
inline bool mbarrier_test_state(uint64_t word, uint64_t state) {
    return Mbarrier::unpack(word).phase != Mbarrier::unpack(state).phase;
}
inline uint32_t mbarrier_pending_count(uint64_t state) {
    return Mbarrier::unpack(state).pending;
}

}  // namespace emu
