// SPDX-License-Identifier: BSD-3-Clause
// ldmatrix and stmatrix: one 8x8 matrix of 16-bit elements between eight 16-byte rows and a
// register plane. Matrix i of .x1/.x2/.x4 takes its row addresses from lanes 8i .. 8i+7 and lands
// in register i.
#pragma once

#include <cstdint>
#include <cstring>

namespace emu {

// rows: eight rows of eight halves. Lane l gets row l/4, columns 2(l%4), 2(l%4)+1; trans: column
// l/4, those rows.
inline void ldmatrix_plane(const uint16_t (&rows)[8][8], bool trans, uint32_t* plane) {
    if (!trans) {
        std::memcpy(plane, rows, sizeof rows);
        return;
    }
    for (int lane = 0; lane < 32; ++lane) {
        const int column = lane / 4, row = 2 * (lane % 4);
        plane[lane] = rows[row][column] | static_cast<uint32_t>(rows[row + 1][column]) << 16;
    }
}

inline void stmatrix_rows(const uint32_t* plane, bool trans, uint16_t (&rows)[8][8]) {
    if (!trans) {
        std::memcpy(rows, plane, sizeof rows);
        return;
    }
    for (int lane = 0; lane < 32; ++lane) {
        const int column = lane / 4, row = 2 * (lane % 4);
        rows[row][column] = static_cast<uint16_t>(plane[lane]);
        rows[row + 1][column] = static_cast<uint16_t>(plane[lane] >> 16);
    }
}

}  // namespace emu
