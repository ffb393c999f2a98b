// SPDX-License-Identifier: BSD-3-Clause
#include "mbarrier.h"

namespace emu {
namespace {

MbarrierResult finish(uint64_t& word, Mbarrier b, uint64_t before) {
    MbarrierResult result;
    result.state = before;
    if (b.pending == 0 && b.tx == 0) {
        b.pending = b.expected;
        b.phase = !b.phase;
        result.completed = true;
    }
    word = b.pack();
    return result;
}
MbarrierResult refuse(MbarrierError error) {
    MbarrierResult result;
    result.error = error;
    return result;
}
bool add_tx(Mbarrier& b, int64_t delta) {
    const int64_t tx = b.tx + delta;
    if (tx > Mbarrier::kMaxTx || tx < -Mbarrier::kMaxTx) {
        return false;
    }
    b.tx = static_cast<int32_t>(tx);
    return true;
}

}  // namespace

MbarrierResult mbarrier_init(uint64_t& word, uint32_t count) {
    if (count == 0 || count > Mbarrier::kMaxCount) {
        return refuse(MbarrierError::bad_count);
    }
    Mbarrier b;
    b.expected = b.pending = count;
    word = b.pack();
    return {};
}

MbarrierResult mbarrier_arrive(uint64_t& word, uint32_t count, uint32_t tx, bool drop) {
    Mbarrier b = Mbarrier::unpack(word);
    if (!b.valid) {
        return refuse(MbarrierError::not_initialised);
    }
    if (count == 0 || count > Mbarrier::kMaxCount) {
        return refuse(MbarrierError::bad_count);
    }
    if (!add_tx(b, tx)) {
        return refuse(MbarrierError::tx_range);
    }
    if (count > b.pending || (drop && count > b.expected)) {
        return refuse(MbarrierError::too_many_arrivals);
    }
    b.pending -= count;
    b.expected -= drop ? count : 0;
    return finish(word, b, word);
}

MbarrierResult mbarrier_expect_tx(uint64_t& word, uint32_t tx) {
    Mbarrier b = Mbarrier::unpack(word);
    if (!b.valid) {
        return refuse(MbarrierError::not_initialised);
    }
    if (!add_tx(b, tx)) {
        return refuse(MbarrierError::tx_range);
    }
    return finish(word, b, word);
}

MbarrierResult mbarrier_complete_tx(uint64_t& word, uint32_t tx) {
    Mbarrier b = Mbarrier::unpack(word);
    if (!b.valid) {
        return refuse(MbarrierError::not_initialised);
    }
    if (!add_tx(b, -static_cast<int64_t>(tx))) {
        return refuse(MbarrierError::tx_range);
    }
    return finish(word, b, word);
}

MbarrierResult mbarrier_raise_pending(uint64_t& word, uint32_t count) {
    Mbarrier b = Mbarrier::unpack(word);
    if (!b.valid) {
        return refuse(MbarrierError::not_initialised);
    }
    if (b.pending + count > Mbarrier::kMaxCount) {
        return refuse(MbarrierError::bad_count);
    }
    b.pending += count;
    const uint64_t before = word;
    word = b.pack();
    MbarrierResult result;
    result.state = before;
    return result;
}

}  // namespace emu
