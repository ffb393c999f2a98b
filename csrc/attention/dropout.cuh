// SPDX-License-Identifier: BSD-3-Clause
// The dropout mask: Philox4x32-10 (Salmon et al., SC'11) of seed, offset and element position.
// docs/numerics.md, "Dropout", states the mapping.
#pragma once

#include "arch/base.cuh"
#include "attention/params.h"

namespace limelight {

LIMELIGHT_DEVICE uint4 philox4x32(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64_t even = uint64_t{0xD2511F53u} * counter.x;
        const uint64_t odd = uint64_t{0xCD9E8D57u} * counter.z;
        counter = make_uint4(
            static_cast<uint32_t>(odd >> 32) ^ counter.y ^ key.x, static_cast<uint32_t>(odd),
            static_cast<uint32_t>(even >> 32) ^ counter.w ^ key.y, static_cast<uint32_t>(even));
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// The mask of one sequence and query head. Seed and offset are read where the mask is made, so that
// a kernel without dropout keeps no register for them.
struct Dropout {
    uint2 key;
    uint32_t unit;
    uint32_t offset;
    uint32_t threshold;  // of 16 random bits: smaller ones drop their element

    LIMELIGHT_DEVICE Dropout(const FwdParams& params, int batch, int head)
        : threshold(params.dropout_threshold) {
        const uint64_t seed = params.rng_state[0];
        const uint64_t start = params.rng_state[1];
        key = make_uint2(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
        unit = static_cast<uint32_t>(batch * params.heads_q + head) ^
               static_cast<uint32_t>(start >> 32);
        offset = static_cast<uint32_t>(start);
    }

    // The random bits of 8 elements of the 16 x 16 tile at (row, column), both multiples of 16:
    // those of rows lane / 4 (+ 8) and columns 2 * (lane % 4) (+ 8) and their neighbours.
    // Component 2 * (row half) + column half holds two columns, the even one in its low half.
    LIMELIGHT_DEVICE uint4 words(int row, int column, int lane) const {
        return philox4x32(
            make_uint4(2u * static_cast<uint32_t>(column) + static_cast<uint32_t>(lane),
                       static_cast<uint32_t>(row) / 16, unit, offset),
            key);
    }

    LIMELIGHT_DEVICE bool keeps_even(uint32_t word) const { return (word & 0xffff) >= threshold; }
    LIMELIGHT_DEVICE bool keeps_odd(uint32_t word) const { return word >> 16 >= threshold; }
};

// All bits of the halves of a pair of 16-bit elements that stay.
LIMELIGHT_DEVICE uint32_t pair_mask(bool low, bool high) {
    return (low ? 0x0000ffffu : 0u) | (high ? 0xffff0000u : 0u);
}

}  // namespace limelight
