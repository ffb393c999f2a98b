// SPDX-License-Identifier: BSD-3-Clause
// A warp's copies of keys and values into the shared ring of the decode kernels.
#pragma once

#include "arch/cp_async.cuh"
#include "decode/pages.cuh"
#include "sm80/decode_config.h"

namespace limelight::sm80 {

// K and V tiles of blocks of kBlockKV keys, in the order K, V, K, V, ...: one slot and one commit
// group each, issued even when empty, so that waits count the same everywhere. A warp copies
// kLoadRows of its group's keys; whole 16-byte chunks of a row by neighbouring lanes.
template <class Config>
struct KvStream {
    using Layout = typename Config::Layout;
    static constexpr int kLanesPerRow = Layout::kGroup;
    static constexpr int kRowsPerPass = kWarpSize / kLanesPerRow;
    static constexpr int kPasses = ceil_div(Config::kLoadRows, kRowsPerPass);
    static_assert(Config::kLoadRows % kRowsPerPass == 0);

    const DecodeCall& call;
    const KvPlaces& places;
    const int& head;
    KvPlace place;    // of this lane's key in the block in flight
    KvPlace next;     // and in the block after it
    uint32_t target;  // this lane's chunk of slot 0

    LIMELIGHT_DEVICE KvStream(const DecodeCall& call, const KvPlaces& places, const int& head,
                              char* ring, int block)
        : call(call), places(places), head(head) {
        const int lane = threadIdx.x % kWarpSize;
        const int warp = threadIdx.x / kWarpSize;
        target = smem_address(ring) + Layout::offset(warp * Config::kLoadRows + lane / kLanesPerRow,
                                                     lane % kLanesPerRow);
        next = places.look_up(key_of(block));
    }

    // K or V of a block into a slot, if there is such a block; K first, blocks in order.
    template <bool kIsK>
    LIMELIGHT_DEVICE void issue(int block, int end, int slot) {
        if (block < end) {
            if constexpr (kIsK) {
                place = next;
                next = places.look_up(key_of(block + 1));
                copy(call.k, call.k_strides, call.headdim, slot);
            } else {
                copy(call.v, call.v_strides, call.headdim_v, slot);
            }
        }
        cp_async_commit();
    }

  private:
    // The key of a block whose place this lane looks up.
    LIMELIGHT_DEVICE static int key_of(int block) {
        const int lane = threadIdx.x % kWarpSize;
        const int warp = threadIdx.x / kWarpSize;
        return block * Config::kBlockKV + warp * Config::kLoadRows + lane % Config::kLoadRows;
    }

    LIMELIGHT_DEVICE void copy(const void* tensor, const TensorStrides& strides, int columns,
                               int slot) const {
        const int lane = threadIdx.x % kWarpSize;
        const int bytes_left = columns * Config::kKvBytes - lane % kLanesPerRow * 16;
        const char* const chunks = static_cast<const char*>(tensor) +
                                   head * strides.head * Config::kKvBytes +
                                   lane % kLanesPerRow * 16;
        const int64_t offset = offset_of(place, strides);
        const uint32_t to = target + slot * Config::kSlotBytes;
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            const int64_t row = shuffle(offset, pass * kRowsPerPass + lane / kLanesPerRow);
            const char* const from = chunks + row * Config::kKvBytes;
            // Four rows further on, the swizzle turns bit 2 of the chunk.
            const uint32_t row_to = (kRowsPerPass == 4 && pass % 2 == 1 ? to ^ 64u : to) +
                                    pass * kRowsPerPass * Layout::kPitchBytes;
#pragma unroll
            for (int group = 0; group < Layout::kChunks; group += kLanesPerRow) {
                cp_async_16(row_to + group * 16, from + group * 16,
                            row >= 0 && group * 16 < bytes_left);
            }
        }
    }
};

}  // namespace limelight::sm80
