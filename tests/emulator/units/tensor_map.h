// SPDX-License-Identifier: BSD-3-Clause
// Tensor maps (CUtensorMap): this emulator's own 128-byte encoding, and the walk from a box to
// element addresses.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "smem_desc.h"

namespace emu {

// Values of CUtensorMapDataType.
enum class TensorType : uint32_t {
    u8,
    u16,
    u32,
    s32,
    u64,
    s64,
    f16,
    f32,
    f64,
    bf16,
    f32_ftz,
    tf32,
    tf32_ftz,
    u4x16_align8,
    u4x16_align16,
    u6x16_align16
};
constexpr int tensor_type_bits(TensorType t) {
    constexpr int kBits[] = {8, 16, 32, 32, 64, 64, 16, 32, 64, 16, 32, 32, 32, 4, 4, 6};
    return kBits[static_cast<int>(t)];
}
const char* tensor_type_name(TensorType t);

struct TensorMap {
    TensorType type = TensorType::u8;
    int rank = 1;
    uint64_t address = 0;
    std::array<uint64_t, 5> dims{1, 1, 1, 1, 1};
    std::array<uint64_t, 5> strides{0, 0, 0, 0, 0};  // bytes; [i] is of dimension i, [0] unused
    std::array<uint32_t, 5> box{1, 1, 1, 1, 1};
    std::array<uint32_t, 5> steps{1, 1, 1, 1, 1};  // elementStrides
    Swizzle swizzle;
    uint32_t swizzle_mode = 0;  // value of CUtensorMapSwizzle
    uint32_t l2_promotion = 0;
    bool nan_fill = false;

    uint32_t count(int dim) const {
        return dim == 0 ? box[0] : (box[dim] + steps[dim] - 1) / steps[dim];
    }
    uint32_t row_bytes() const {
        return static_cast<uint32_t>(box[0] * static_cast<uint32_t>(tensor_type_bits(type)) / 8);
    }
    // Bytes that one box moves, out-of-bounds elements included: what complete_tx counts.
    uint64_t box_bytes() const {
        uint64_t rows = 1;
        for (int i = 1; i < rank; ++i) {
            rows *= count(i);
        }
        return rows * row_bytes();
    }
};

// cuTensorMapEncodeTiled: 0 (CUDA_SUCCESS) or 1 (CUDA_ERROR_INVALID_VALUE) with the broken rule in
// `error`.
int tensor_map_encode_tiled(void* map, uint32_t type, uint32_t rank, void* address,
                            const uint64_t* dims, const uint64_t* strides, const uint32_t* box,
                            const uint32_t* steps, uint32_t interleave, uint32_t swizzle,
                            uint32_t l2_promotion, uint32_t oob_fill, std::string& error);
// cuTensorMapReplaceAddress.
int tensor_map_replace_address(void* map, void* address, std::string& error);
// False when the 128 bytes are no tensor map that encode wrote.
bool tensor_map_decode(const void* map, TensorMap& out);
// tensormap.replace and tests: writes a map back.
void tensor_map_write(const TensorMap& map, void* out);

// One row of a box: box[0] elements that are adjacent in both memories. Elements [first, first +
// valid) lie inside the tensor, the rest is filled on loads and skipped on stores.
struct TensorRow {
    uint64_t address;       // of element `first` of the row; meaningless when valid == 0
    uint64_t box_offset;    // bytes from the box's start, before swizzling
    uint32_t first, valid;  // elements
};
template <class Visit>
void visit_box(const TensorMap& map, const int32_t* coords, Visit visit);
// .tile::gather4 / .tile::scatter4: four rows coords[1..4] of a rank-2 map at column coords[0].
template <class Visit>
void visit_rows4(const TensorMap& map, const int32_t* coords, Visit visit);

// Fill value of one element, as it lies in memory.
uint64_t tensor_fill(const TensorMap& map);

namespace detail {
inline TensorRow tensor_row(const TensorMap& map, int64_t x, bool inside, uint64_t base,
                            uint64_t box_offset) {
    const int64_t width = map.box[0], low = x < 0 ? -x : 0;
    const int64_t high = x + width > static_cast<int64_t>(map.dims[0])
                             ? static_cast<int64_t>(map.dims[0]) - x
                             : width;
    TensorRow row{0, box_offset, 0, 0};
    if (inside && low < high) {
        row.first = static_cast<uint32_t>(low);
        row.valid = static_cast<uint32_t>(high - low);
        row.address = base + static_cast<uint64_t>(x + low) *
                                 static_cast<uint64_t>(tensor_type_bits(map.type)) / 8;
    }
    return row;
}
}  // namespace detail

template <class Visit>
void visit_box(const TensorMap& map, const int32_t* coords, Visit visit) {
    uint32_t index[5] = {};
    uint64_t offset = 0;
    for (;;) {
        uint64_t base = map.address;
        bool inside = true;
        for (int i = 1; i < map.rank; ++i) {
            const int64_t at =
                static_cast<int64_t>(coords[i]) + static_cast<int64_t>(index[i]) * map.steps[i];
            inside = inside && at >= 0 && at < static_cast<int64_t>(map.dims[i]);
            base += static_cast<uint64_t>(at) * map.strides[i];
        }
        visit(detail::tensor_row(map, coords[0], inside, base, offset));
        offset += map.row_bytes();
        int i = 1;
        for (; i < map.rank && ++index[i] == map.count(i); ++i) {
            index[i] = 0;
        }
        if (i >= map.rank) {
            return;
        }
    }
}

template <class Visit>
void visit_rows4(const TensorMap& map, const int32_t* coords, Visit visit) {
    for (int r = 0; r < 4; ++r) {
        const int64_t at = coords[1 + r];
        const bool inside = at >= 0 && at < static_cast<int64_t>(map.dims[1]);
        visit(detail::tensor_row(map, coords[0], inside,
                                 map.address + static_cast<uint64_t>(at) * map.strides[1],
                                 static_cast<uint64_t>(r) * map.row_bytes()));
    }
}

}  // namespace emu
