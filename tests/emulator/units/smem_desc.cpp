// SPDX-License-Identifier: BSD-3-Clause
#include "smem_desc.h"

#include "tile.h"

namespace emu {
namespace {

void fields(uint64_t bits, SmemDesc& d) {
    d.start = static_cast<uint32_t>(bits & 0x3fff) << 4;
    d.leading = static_cast<uint32_t>((bits >> 16) & 0x3fff) << 4;
    d.stride = static_cast<uint32_t>((bits >> 32) & 0x3fff) << 4;
    d.base = static_cast<uint32_t>((bits >> 49) & 7);
}

void unpack(Elem type, const void* src, float* dst, int count) {
    unpack_floats(type, src, dst, count);
}
void unpack(Elem type, const void* src, int32_t* dst, int count) {
    unpack_ints(type, src, dst, count);
}

constexpr int kPermuted[8] = {0, 4, 1, 5, 2, 6, 3, 7};

template <class T>
bool load(const SmemDesc& desc, bool mn_major, Elem type, int mn, int k, const uint8_t* shared,
          uint32_t bytes, const TileLayout& layout, T* tile, uint32_t* bad) {
    const int elem_bytes = elem_bits(type) / 8, per_piece = 16 / elem_bytes;
    const auto column = [&](int i) {
        return (layout.permute_mn ? (i & ~7) + kPermuted[i & 7] : i) * layout.mn_step;
    };
    const int outer = mn_major ? k : mn, inner = mn_major ? mn : k;
    for (int o = 0; o < outer; ++o) {
        for (int i = 0; i < inner; i += per_piece) {
            const uint32_t at =
                operand_address(desc, mn_major, elem_bytes, mn_major ? i : o, mn_major ? o : i);
            if (at + 16 > bytes) {
                *bad = at;
                return false;
            }
            T piece[16];
            unpack(type, shared + at, piece, per_piece);
            if (mn_major) {
                for (int j = 0; j < per_piece; ++j) {
                    tile[column(i + j) + o * layout.k_step] = piece[j];
                }
            } else {
                T* to = tile + column(o) + i * layout.k_step;
                for (int j = 0; j < per_piece; ++j) {
                    to[j * layout.k_step] = piece[j];
                }
            }
        }
    }
    return true;
}

}  // namespace

SmemDesc decode_wgmma_descriptor(uint64_t bits) {
    SmemDesc d;
    fields(bits, d);
    constexpr uint16_t kSpans[4] = {0, 128, 64, 32};
    d.swizzle.span = kSpans[bits >> 62];
    return d;
}

SmemDesc decode_tcgen05_descriptor(uint64_t bits) {
    SmemDesc d;
    fields(bits, d);
    switch (bits >> 61) {
        case 0:
            break;
        case 1:
            d.swizzle = {128, 32, false};
            break;
        case 2:
            d.swizzle.span = 128;
            break;
        case 4:
            d.swizzle.span = 64;
            break;
        case 6:
            d.swizzle.span = 32;
            break;
        default:
            d.valid = false;
    }
    const bool version = ((bits >> 46) & 3) == 1, absolute_leading = (bits >> 52) & 1;
    d.valid = d.valid && version && !absolute_leading;
    return d;
}

uint32_t operand_address(const SmemDesc& d, bool mn_major, int elem_bytes, int mn, int k) {
    const uint32_t span = d.swizzle.span, m = static_cast<uint32_t>(mn),
                   n = static_cast<uint32_t>(k);
    const uint32_t size = static_cast<uint32_t>(elem_bytes);
    uint32_t linear;
    if (!mn_major) {
        const uint32_t along = n * size;
        linear = span == 0
                     ? (m % 8) * 16 + (m / 8) * d.stride + (along / 16) * d.leading + along % 16
                     : (m % 8) * span + (m / 8) * d.stride + along;
    } else {
        const uint32_t along = m * size;
        linear =
            span == 0
                ? along % 16 + (along / 16) * d.stride + (n % 8) * 16 + (n / 8) * d.leading
                : along % span + (along / span) * d.leading + (n % 8) * span + (n / 8) * d.stride;
    }
    return swizzle_address(d.start + linear, d.swizzle, d.base);
}

bool load_operand(const SmemDesc& desc, bool mn_major, Elem type, int mn, int k,
                  const uint8_t* shared, uint32_t bytes, const TileLayout& layout, float* tile,
                  uint32_t* bad) {
    return load(desc, mn_major, type, mn, k, shared, bytes, layout, tile, bad);
}
bool load_operand(const SmemDesc& desc, bool mn_major, Elem type, int mn, int k,
                  const uint8_t* shared, uint32_t bytes, const TileLayout& layout, int32_t* tile,
                  uint32_t* bad) {
    return load(desc, mn_major, type, mn, k, shared, bytes, layout, tile, bad);
}

}  // namespace emu
