// SPDX-License-Identifier: BSD-3-Clause
// Where keys and values lie: dense rows, packed sequences, or pages of any size.
#pragma once

#include "decode/sequence.cuh"

namespace limelight {

// Place of one key: page and row inside it (paged), or batch row and token; row < 0: no such key.
struct KvPlace {
    int page;
    int row;
};

// The keys of a tile. The page of a key is looked up once by one lane, a step before its copy is
// issued, so that the latency of the table is hidden; other lanes get the offset by shuffles. Keys
// outside [begin, end) are never looked up and never read.
struct KvPlaces {
    const int32_t* table;  // row of block_table; null: not paged
    int page_size;
    int page;  // not paged: batch row
    int first_row;
    int begin;
    int end;

    LIMELIGHT_DEVICE KvPlaces(const DecodeCall& call, const DecodeSequence& sequence, int batch,
                              const TileKeys& keys)
        : table(call.block_table == nullptr ? nullptr
                                            : call.block_table + batch * call.block_table_stride),
          page_size(call.page_size),
          page(static_cast<int>(sequence.k_batch)),
          first_row(static_cast<int>(sequence.k_row)),
          begin(keys.begin),
          end(keys.end) {}

    LIMELIGHT_DEVICE KvPlace look_up(int key) const {
        if (key < begin || key >= end) {
            return {0, -1};
        }
        if (table == nullptr) {
            return {page, first_row + key};
        }
        const int index = key / page_size;
        return {table[index], key - index * page_size};
    }
};

// Offset of a place in a tensor, -1 for no key.
LIMELIGHT_DEVICE int64_t offset_of(const KvPlace& place, const TensorStrides& strides) {
    return place.row < 0 ? -1 : place.page * strides.batch + place.row * strides.row;
}

LIMELIGHT_DEVICE int64_t shuffle(int64_t x, int lane) {
    return __shfl_sync(0xffffffffu, static_cast<long long>(x), lane);
}

}  // namespace limelight
