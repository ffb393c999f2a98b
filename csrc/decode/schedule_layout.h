// SPDX-License-Identifier: BSD-3-Clause
// How a schedule lies in its int32 tensor: header, records [max_ctas], ends [batch], tickets
// [max_ctas].
#pragma once

#include <cstdint>

namespace limelight {

struct ScheduleHeader {
    int64_t total;  // units of all tiles
    int32_t ctas;   // thread blocks that have work
    uint32_t key;   // of the plan that the schedule was made for
};

// Where a thread block starts: the tile that holds its first unit.
struct ScheduleRecord {
    int32_t batch;
    int32_t head;
    int32_t m_tile;
    int32_t unused;
    int64_t tile_start;  // first unit of the tile
};

constexpr int64_t schedule_bytes(int64_t max_ctas, int64_t batch) {
    return sizeof(ScheduleHeader) + (sizeof(ScheduleRecord) + sizeof(int32_t)) * max_ctas +
           sizeof(int64_t) * batch;
}

}  // namespace limelight
