// SPDX-License-Identifier: BSD-3-Clause
// Even division of all keys of all tiles over a fixed number of thread blocks, on the device.
//
// Tiles (sequence, kv head, M tile) lie one after the other on a line, each as long as it has units
// of work; thread block c owns [c T / C, (c + 1) T / C) of the T units:
//
//   tiles   |---- 0 ----|- 1 -|-------------- 2 --------------|--- 3 ---|
//   blocks  |    0    |    1    |    2    |    3    |    4    |    5    |
//
// Block 1 ends tile 0, does all of tile 1 and begins tile 2: at most two partials a block, so the
// workspace has a fixed size. The thread blocks of one tile are consecutive; the last one to finish
// (a ticket per block in which a tile begins that goes on) merges their partials in that order.
#pragma once

#include "decode/schedule_layout.h"
#include "decode/sequence.cuh"

namespace limelight {

// The parts of the int32 tensor that holds a schedule.
struct Schedule {
    ScheduleHeader* header;
    ScheduleRecord* records;  // [max_ctas]
    int64_t* ends;            // [batch] units of the sequences up to and with this one
    int32_t* tickets;         // [max_ctas] zero between calls

    LIMELIGHT_DEVICE Schedule(int32_t* memory, int max_ctas, int batch)
        : header(reinterpret_cast<ScheduleHeader*>(memory)),
          records(reinterpret_cast<ScheduleRecord*>(header + 1)),
          ends(reinterpret_cast<int64_t*>(records + max_ctas)),
          tickets(reinterpret_cast<int32_t*>(ends + batch)) {}
};

LIMELIGHT_DEVICE int64_t first_unit(const ScheduleHeader& header, int cta) {
    return cta * header.total / header.ctas;
}
// The thread block that owns a unit.
LIMELIGHT_DEVICE int owner_of(const ScheduleHeader& header, int64_t unit) {
    return static_cast<int>(((unit + 1) * header.ctas - 1) / header.total);
}

// Walks the tiles of one thread block. All members are equal in all threads.
struct WorkCursor {
    ScheduleHeader header;
    int64_t first;  // units of this thread block
    int64_t last;
    int64_t tile_start;
    int batch;
    int head;
    int m_tile;

    LIMELIGHT_DEVICE WorkCursor(const DecodeCall& call, const Schedule& schedule)
        : header(*schedule.header) {
        const int cta = static_cast<int>(blockIdx.x);
        first = last = tile_start = 0;
        batch = call.batch;
        head = m_tile = 0;
        if (header.key != call.plan.key) {
            start_alone(call);
        } else if (cta < header.ctas && header.total > 0) {
            const ScheduleRecord record = schedule.records[cta];
            first = first_unit(header, cta);
            last = first_unit(header, cta + 1);
            tile_start = record.tile_start;
            batch = record.batch;
            head = record.head;
            m_tile = record.m_tile;
        }
    }

    // A schedule of another call is not used: one thread block does everything, slow and right.
    LIMELIGHT_DEVICE void start_alone(const DecodeCall& call) {
        header = {INT64_MAX, 0, header.key};
        if (blockIdx.x == 0) {
            last = INT64_MAX;
            batch = -1;
            next_sequence(call);
        }
    }
    LIMELIGHT_DEVICE bool alone() const { return header.ctas == 0; }

    LIMELIGHT_DEVICE bool done(const DecodeCall& call) const {
        return batch >= call.batch || tile_start >= last;
    }

    // To the tile after one of so many units in a sequence of so many M tiles.
    LIMELIGHT_DEVICE void advance(const DecodeCall& call, int units, int tiles) {
        tile_start += units;
        if (++m_tile < tiles) {
            return;
        }
        m_tile = 0;
        if (++head < call.heads_kv) {
            return;
        }
        head = 0;
        next_sequence(call);
    }

    LIMELIGHT_DEVICE void next_sequence(const DecodeCall& call) {
        do {
            ++batch;
        } while (batch < call.batch && m_tiles(call, sequence_of(call, batch)) == 0);
    }
};

}  // namespace limelight
