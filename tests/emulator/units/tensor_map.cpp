// SPDX-License-Identifier: BSD-3-Clause
#include "tensor_map.h"

#include <cstring>

namespace emu {
namespace {

constexpr uint64_t kMagic = 0x50414d5f55544d45;  // "EMTU_MAP"

struct Encoded {
    uint64_t magic, address, strides[4];
    uint32_t dims[5];  // minus one: 2^32 is allowed
    uint16_t box[5];
    uint8_t steps[5], type, rank, swizzle, l2_promotion, nan_fill;
    uint8_t pad[26];
    uint64_t check;
};
static_assert(sizeof(Encoded) == 128);

uint64_t checksum(const Encoded& e) {
    uint64_t words[15], sum = kMagic;
    std::memcpy(words, &e, sizeof words);
    for (const uint64_t w : words) {
        sum = (sum ^ w) * 0x9e3779b97f4a7c15ull;
        sum ^= sum >> 29;
    }
    return sum;
}

Swizzle swizzle_of(uint32_t mode) {
    switch (mode) {
        case 1:
            return {32, 16, false};
        case 2:
            return {64, 16, false};
        case 3:
            return {128, 16, false};
        case 4:
            return {128, 32, false};
        case 5:
            return {128, 32, true};
        case 6:
            return {128, 64, false};
        default:
            return {};
    }
}

bool is_float_type(TensorType t) {
    switch (t) {
        case TensorType::f16:
        case TensorType::f32:
        case TensorType::f64:
        case TensorType::bf16:
        case TensorType::f32_ftz:
        case TensorType::tf32:
        case TensorType::tf32_ftz:
            return true;
        default:
            return false;
    }
}

std::string at(const char* name, uint32_t i, uint64_t value) {
    return std::string(name) + "[" + std::to_string(i) + "] = " + std::to_string(value);
}

}  // namespace

const char* tensor_type_name(TensorType t) {
    static constexpr const char* kNames[] = {
        "UINT8",        "UINT16",       "UINT32",        "INT32",        "UINT64",      "INT64",
        "FLOAT16",      "FLOAT32",      "FLOAT64",       "BFLOAT16",     "FLOAT32_FTZ", "TFLOAT32",
        "TFLOAT32_FTZ", "16U4_ALIGN8B", "16U4_ALIGN16B", "16U6_ALIGN16B"};
    return kNames[static_cast<int>(t)];
}

int tensor_map_encode_tiled(void* out, uint32_t type, uint32_t rank, void* address,
                            const uint64_t* dims, const uint64_t* strides, const uint32_t* box,
                            const uint32_t* steps, uint32_t interleave, uint32_t swizzle,
                            uint32_t l2_promotion, uint32_t oob_fill, std::string& error) {
    const auto refuse = [&error](const std::string& text) {
        error = "cuTensorMapEncodeTiled: " + text;
        return 1;
    };
    if (out == nullptr || reinterpret_cast<uintptr_t>(out) % 64 != 0) {
        return refuse("tensorMap must be aligned to 64 bytes");
    }
    if (type > 15) {
        return refuse("tensorDataType " + std::to_string(type) + " is no CUtensorMapDataType");
    }
    const TensorType t = static_cast<TensorType>(type);
    if (t == TensorType::u4x16_align16 || t == TensorType::u6x16_align16) {
        return refuse(std::string("tensorDataType ") + tensor_type_name(t) +
                      " is not emulated; 16U4_ALIGN8B is");
    }
    if (rank < 1 || rank > 5) {
        return refuse("tensorRank " + std::to_string(rank) + " is outside 1..5");
    }
    if (interleave != 0) {
        return refuse("interleave " + std::to_string(interleave) +
                      " is not emulated; INTERLEAVE_NONE is");
    }
    if (dims == nullptr || box == nullptr || steps == nullptr || (rank > 1 && strides == nullptr)) {
        return refuse("a null array of dimensions, strides, boxDim or elementStrides");
    }
    if (address == nullptr || reinterpret_cast<uintptr_t>(address) % 16 != 0) {
        return refuse("globalAddress must be non-null and aligned to 16 bytes");
    }
    if (swizzle > 6 || l2_promotion > 3 || oob_fill > 1) {
        return refuse("swizzle, l2Promotion or oobFill is outside its enumeration");
    }
    if (oob_fill == 1 && !is_float_type(t)) {
        return refuse(std::string("NaN fill needs a floating-point type, got ") +
                      tensor_type_name(t));
    }
    TensorMap m;
    m.type = t;
    m.rank = static_cast<int>(rank);
    m.address = reinterpret_cast<uint64_t>(address);
    for (uint32_t i = 0; i < rank; ++i) {
        if (dims[i] == 0 || dims[i] > (1ull << 32)) {
            return refuse(at("globalDim", i, dims[i]) + " is outside 1..2^32");
        }
        if (box[i] == 0 || box[i] > 256) {
            return refuse(at("boxDim", i, box[i]) + " is outside 1..256");
        }
        if (steps[i] == 0 || steps[i] > 8) {
            return refuse(at("elementStrides", i, steps[i]) + " is outside 1..8");
        }
        if (i > 0 && (strides[i - 1] % 16 != 0 || strides[i - 1] >= (1ull << 40))) {
            return refuse(at("globalStrides", i - 1, strides[i - 1]) +
                          " is no multiple of 16 below 2^40");
        }
        m.dims[i] = dims[i];
        m.box[i] = box[i];
        m.steps[i] = steps[i];
        m.strides[i] = i > 0 ? strides[i - 1] : 0;
    }
    if (t == TensorType::u4x16_align8 && dims[0] % 2 != 0) {
        return refuse("globalDim[0] must be even for 16U4_ALIGN8B");
    }
    const uint64_t row_bits =
        static_cast<uint64_t>(box[0]) * static_cast<uint64_t>(tensor_type_bits(t));
    if (row_bits % 128 != 0) {
        return refuse(at("boxDim", 0, box[0]) + " is " + std::to_string(row_bits / 8) +
                      " bytes, no multiple of 16");
    }
    m.swizzle = swizzle_of(swizzle);
    m.swizzle_mode = swizzle;
    if (m.swizzle.span != 0 && row_bits / 8 > m.swizzle.span) {
        return refuse(at("boxDim", 0, box[0]) + " is " + std::to_string(row_bits / 8) +
                      " bytes, more than the swizzle's " + std::to_string(m.swizzle.span));
    }
    m.l2_promotion = l2_promotion;
    m.nan_fill = oob_fill == 1;
    tensor_map_write(m, out);
    return 0;
}

int tensor_map_replace_address(void* map, void* address, std::string& error) {
    TensorMap m;
    if (!tensor_map_decode(map, m)) {
        error = "cuTensorMapReplaceAddress: tensorMap holds no encoded tensor map";
        return 1;
    }
    if (address == nullptr || reinterpret_cast<uintptr_t>(address) % 16 != 0) {
        error = "cuTensorMapReplaceAddress: globalAddress must be non-null and aligned to 16 bytes";
        return 1;
    }
    m.address = reinterpret_cast<uint64_t>(address);
    tensor_map_write(m, map);
    return 0;
}

void tensor_map_write(const TensorMap& m, void* out) {
    Encoded e{};
    e.magic = kMagic;
    e.address = m.address;
    for (int i = 0; i < 5; ++i) {
        e.dims[i] = static_cast<uint32_t>(m.dims[static_cast<size_t>(i)] - 1);
        e.box[i] = static_cast<uint16_t>(m.box[static_cast<size_t>(i)]);
        e.steps[i] = static_cast<uint8_t>(m.steps[static_cast<size_t>(i)]);
        if (i > 0) {
            e.strides[i - 1] = m.strides[static_cast<size_t>(i)];
        }
    }
    e.type = static_cast<uint8_t>(m.type);
    e.rank = static_cast<uint8_t>(m.rank);
    e.swizzle = static_cast<uint8_t>(m.swizzle_mode);
    e.l2_promotion = static_cast<uint8_t>(m.l2_promotion);
    e.nan_fill = m.nan_fill;
    e.check = checksum(e);
    std::memcpy(out, &e, sizeof e);
}

bool tensor_map_decode(const void* map, TensorMap& m) {
    Encoded e;
    std::memcpy(&e, map, sizeof e);
    if (e.magic != kMagic || e.check != checksum(e)) {
        return false;
    }
    m.type = static_cast<TensorType>(e.type);
    m.rank = e.rank;
    m.address = e.address;
    for (size_t i = 0; i < 5; ++i) {
        m.dims[i] = static_cast<uint64_t>(e.dims[i]) + 1;
        m.box[i] = e.box[i];
        m.steps[i] = e.steps[i];
        m.strides[i] = i > 0 ? e.strides[i - 1] : 0;
    }
    m.swizzle_mode = e.swizzle;
    m.swizzle = swizzle_of(e.swizzle);
    m.l2_promotion = e.l2_promotion;
    m.nan_fill = e.nan_fill;
    return true;
}

uint64_t tensor_fill(const TensorMap& m) {
    if (!m.nan_fill) {
        return 0;
    }
    switch (tensor_type_bits(m.type)) {
        case 16:
            return 0x7fff;
        case 32:
            return 0x7fffffff;
        default:
            return 0x7fffffffffffffff;
    }
}

}  // namespace emu
