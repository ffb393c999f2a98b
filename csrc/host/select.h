// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <iterator>

#include "limelight/status.h"
#include "sm80/fwd_tiles.h"

namespace limelight {

// The tiles of csrc/sm80 that the current device runs; refuses devices older than sm_80.
Status select_sm80_tiles(sm80::Tiles* tiles);

// The launcher of the smallest row that holds `headdim`; the checks keep headdim below the last
// row.
template <class Row, size_t kRows>
auto select_launch(const Row (&rows)[kRows], int headdim, sm80::Tiles tiles) {
    const auto row = std::find_if(std::begin(rows), std::end(rows),
                                  [&](const Row& row) { return row.headdim >= headdim; });
    return tiles == sm80::Tiles::kLarge ? row->large : row->small;
}

}  // namespace limelight
