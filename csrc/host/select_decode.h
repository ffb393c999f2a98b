// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda_runtime_api.h>

#include "decode/params.h"
#include "sm80/mla_tiles.h"

namespace limelight {

using LaunchDecode = Status (*)(const DecodeCall&, cudaStream_t);

// The decode kernel of a call and what the host must know of its tile.
struct ChosenDecode {
    LaunchDecode launch;
    int rows;          // packed rows of the tile
    int slot_columns;  // of a partial O
    size_t smem_bytes;
};

// The smallest kernel that holds `headdim` on the current device, of the tile for few rows or the
// other; the checks keep headdim below the last row.
Status select_decode(int headdim, bool few_rows, ChosenDecode* chosen);

}  // namespace limelight
