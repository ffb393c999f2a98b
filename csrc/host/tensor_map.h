// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda.h>

#include "attention/params.h"

namespace limelight {

// A (batch, rows, heads, columns) tensor in memory; strides in elements.
struct TensorExtents {
    Dtype dtype;
    const void* data;
    int64_t batch;
    int64_t rows;
    int64_t heads;
    int64_t columns;
    TensorStrides strides;
};

// What no tensor map expresses, by name: strides that are negative, no multiple of 16 bytes, 2^40
// bytes or more, or 0 between rows. Heads and batches may be expanded (stride 0).
Status check_tensor_map(const char* name, const TensorExtents& tensor);

// Elements that one copy moves.
struct TensorBox {
    int columns;
    int rows;
    int heads = 1;
    int batch = 1;
};

// The tensor map with the dimensions (columns, rows, heads, batch), swizzled over the whole row of
// a box. An expanded dimension has extent 1 in it.
Status encode_tensor_map(const TensorExtents& tensor, const TensorBox& box, CUtensorMap* map);

// The same with the dimensions (columns, heads, rows, batch) and boxes of box_columns x box_heads x
// box_rows.
Status encode_heads_map(const TensorExtents& tensor, int box_columns, int box_heads, int box_rows,
                        CUtensorMap* map);

}  // namespace limelight
