// SPDX-License-Identifier: BSD-3-Clause
// Descriptors, wgmma fragments, tensor maps and mbarriers against layouts stated here anew.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "units/ldmatrix.h"
#include "units/mbarrier.h"
#include "units/numeric.h"
#include "units/smem_desc.h"
#include "units/tensor_map.h"
#include "units/wgmma.h"

using namespace emu;

namespace {

std::mt19937 rng(7);

uint64_t descriptor(uint32_t start, uint32_t leading, uint32_t stride, int span) {
    const uint64_t type = span == 128 ? 1 : span == 64 ? 2 : span == 32 ? 3 : 0;
    return (start >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
           static_cast<uint64_t>(stride >> 4) << 32 | type << 62;
}

// Where a 16-bit element lies when TMA or a program writes the canonical layouts (span bytes a row,
// 8-row atoms).
uint32_t k_major_at(int span, int mn, int k) {
    const int piece = k / 8, pieces = span / 16;
    const int row = mn % 8, xored = piece ^ ((row * span / 128) % pieces);
    return static_cast<uint32_t>((mn / 8) * 8 * span + row * span + xored * 16 + (k % 8) * 2);
}

void descriptors() {
    for (int span : {128, 64, 32}) {
        // K-major: every k-step of 16 elements advances the start address by 32 bytes inside the
        // span.
        for (int step = 0; step < span / 32; ++step) {
            const SmemDesc d =
                decode_wgmma_descriptor(descriptor(2048 + 32 * static_cast<uint32_t>(step), 16,
                                                   8 * static_cast<uint32_t>(span), span));
            for (int mn = 0; mn < 64; ++mn) {
                for (int k = 0; k < 16; ++k) {
                    CHECK_EQ(operand_address(d, false, 2, mn, k),
                             2048 + k_major_at(span, mn, k + 16 * step));
                }
            }
        }
        // MN-major: rows of span bytes along mn, 8 k per atom; atoms along mn `leading` apart,
        // along k `stride` apart.
        const int per_row = span / 2;
        const uint32_t leading = 8 * static_cast<uint32_t>(span),
                       stride = leading * static_cast<uint32_t>(128 / per_row);
        const SmemDesc d = decode_wgmma_descriptor(descriptor(1024, leading, stride, span));
        for (int mn = 0; mn < 128; ++mn) {
            for (int k = 0; k < 16; ++k) {
                const uint32_t atom = static_cast<uint32_t>(mn / per_row) * leading +
                                      static_cast<uint32_t>(k / 8) * stride;
                CHECK_EQ(operand_address(d, true, 2, mn, k),
                         1024 + atom + k_major_at(span, k % 8, mn % per_row));
            }
        }
    }
    // No swizzle: 8x8 core matrices of 128 contiguous bytes.
    const SmemDesc k_major = decode_wgmma_descriptor(descriptor(0, 128, 256, 0));
    CHECK_EQ(operand_address(k_major, false, 2, 9, 13), 256u + 128 + 16 + 10);
    const SmemDesc mn_major = decode_wgmma_descriptor(descriptor(0, 256, 128, 0));
    CHECK_EQ(operand_address(mn_major, true, 2, 9, 13), 128u + 256 + 5 * 16 + 2);
    CHECK_TRUE(!decode_tcgen05_descriptor(0).valid);
    CHECK_EQ(decode_tcgen05_descriptor(uint64_t{1} << 46 | uint64_t{2} << 61).swizzle.span, 128);
}

void wgmma(int n, Elem d_type, bool mn_major, bool scale) {
    const WgmmaSpec s{n, Elem::f16, Elem::f16, d_type, false};
    std::vector<float> a(64 * 16), b(static_cast<size_t>(16 * n));
    std::vector<uint8_t> shared(65536);
    const int span = 64;
    const uint32_t a_at = 1024, b_at = 16384;
    const uint32_t leading = 8 * span, stride = static_cast<uint32_t>(leading * 8);
    const SmemDesc da = decode_wgmma_descriptor(descriptor(a_at, 0, leading, span));
    const SmemDesc db = decode_wgmma_descriptor(
        descriptor(b_at, mn_major ? leading : 0, mn_major ? stride : leading, span));
    const auto put = [&](uint32_t at, float v) {
        const uint16_t h = num::f32_to_f16(v);
        std::memcpy(&shared[at], &h, 2);
    };
    for (int k = 0; k < 16; ++k) {
        for (int i = 0; i < 64; ++i) {
            put(operand_address(da, false, 2, i, k),
                a[static_cast<size_t>(i * 16 + k)] =
                    static_cast<float>(static_cast<int>(rng() % 7) - 3));
        }
        for (int j = 0; j < n; ++j) {
            put(operand_address(db, mn_major, 2, j, k),
                b[static_cast<size_t>(k * n + j)] =
                    static_cast<float>(static_cast<int>(rng() % 7) - 3));
        }
    }
    std::vector<float> ta(64 * 16), tb(static_cast<size_t>(16 * n));
    uint32_t bad = 0;
    CHECK_TRUE(
        load_operand(da, false, Elem::f16, 64, 16, shared.data(), 65536, {16, 1}, ta.data(), &bad));
    CHECK_TRUE(load_operand(db, mn_major, Elem::f16, n, 16, shared.data(), 65536, {1, n, true},
                            tb.data(), &bad));
    CHECK_TRUE(!load_operand(db, mn_major, Elem::f16, n, 16, shared.data(), 16400, {1, n, true},
                             tb.data(), &bad));
    CHECK_TRUE(load_operand(db, mn_major, Elem::f16, n, 16, shared.data(), 65536, {1, n, true},
                            tb.data(), &bad));
    std::vector<uint32_t> planes(static_cast<size_t>(4 * s.d_regs() * 32));
    std::vector<uint32_t*> regs(static_cast<size_t>(4 * s.d_regs()));
    uint32_t* const* warps[4];
    for (int w = 0; w < 4; ++w) {
        for (int r = 0; r < s.d_regs(); ++r) {
            regs[static_cast<size_t>(w * s.d_regs() + r)] =
                &planes[static_cast<size_t>((w * s.d_regs() + r) * 32)];
        }
        warps[w] = &regs[static_cast<size_t>(w * s.d_regs())];
    }
    for (uint32_t& p : planes) {
        p = d_type == Elem::f16 ? 0x3c003c00 : 0x3f800000;
    }
    wgmma_run(s, ta.data(), tb.data(), warps, scale, false, false);
    for (int w = 0; w < 4; ++w) {
        for (int r = 0; r < s.d_regs(); ++r) {
            for (int lane = 0; lane < 32; ++lane) {
                for (int i = 0; i < (d_type == Elem::f16 ? 2 : 1); ++i) {
                    const Cell at = wgmma_cell_d(d_type, w, lane, r, i);
                    float want = scale ? 1.0f : 0.0f;
                    for (int k = 0; k < 16; ++k) {
                        want += a[static_cast<size_t>(at.row * 16 + k)] *
                                b[static_cast<size_t>(k * n + at.col)];
                    }
                    const uint32_t word = warps[w][r][lane];
                    CHECK_EQ(d_type == Elem::f16
                                 ? num::f16_to_f32(static_cast<uint16_t>(word >> (16 * i)))
                                 : num::bits_f32(word),
                             want);
                }
            }
        }
    }
}

void tensor_maps() {
    alignas(64) uint8_t map[128];
    std::vector<uint8_t> memory(1 << 16);
    const uint64_t base = (reinterpret_cast<uint64_t>(memory.data()) + 255) & ~uint64_t{255};
    const uint64_t dims[3] = {20, 6, 3}, strides[2] = {48, 320};
    const uint32_t box[3] = {16, 4, 2}, ones[3] = {1, 1, 1}, steps[3] = {1, 2, 1};
    std::string error;
    void* address = reinterpret_cast<void*>(base);
    const auto encode = [&](uint32_t type, uint32_t rank, const uint32_t* bx, const uint32_t* st,
                            uint32_t interleave, uint32_t swizzle, uint32_t oob) {
        return tensor_map_encode_tiled(map, type, rank, address, dims, strides, bx, st, interleave,
                                       swizzle, 0, oob, error);
    };
    CHECK_EQ(encode(6, 3, box, ones, 0, 0, 1), 0);
    TensorMap m;
    CHECK_TRUE(tensor_map_decode(map, m));
    CHECK_EQ(m.box_bytes(), 16u * 4 * 2 * 2);
    CHECK_EQ(tensor_fill(m), 0x7fffu);
    // Corner box: x from 12 (8 of 16 inside), y from -1 (first row outside), z from 2 (second slice
    // outside).
    const int32_t coords[3] = {12, -1, 2};
    int row = 0;
    visit_box(m, coords, [&](const TensorRow& r) {
        const int y = row % 4 - 1, z = row / 4 + 2;
        const bool inside = y >= 0 && z < 3;
        CHECK_EQ(r.box_offset, static_cast<uint64_t>(row) * 32);
        CHECK_EQ(r.valid, inside ? 8u : 0u);
        if (inside) {
            CHECK_EQ(r.first, 0u);
            CHECK_EQ(r.address,
                     base + 24 + static_cast<uint64_t>(y) * 48 + static_cast<uint64_t>(z) * 320);
        }
        ++row;
    });
    CHECK_EQ(row, 8);
    const int32_t left[3] = {-5, 0, 0};
    row = 0;
    visit_box(m, left, [&](const TensorRow& r) {
        CHECK_EQ(r.first, 5u);
        CHECK_EQ(r.valid, 11u);
        row += r.address == base;
    });
    CHECK_EQ(row, 1);
    CHECK_EQ(encode(6, 3, box, steps, 0, 0, 0), 0);
    CHECK_TRUE(tensor_map_decode(map, m));
    CHECK_EQ(m.box_bytes(), 16u * 2 * 2 * 2);
    CHECK_TRUE(tensor_map_replace_address(map, address, error) == 0);
    map[9] ^= 1;
    CHECK_TRUE(!tensor_map_decode(map, m));
    const uint32_t odd[3] = {7, 1, 1}, wide[3] = {32, 1, 1};
    CHECK_EQ(encode(6, 3, odd, ones, 0, 0, 0), 1);
    CHECK_EQ(encode(6, 3, wide, ones, 0, 1, 0), 1);
    CHECK_EQ(encode(6, 3, wide, ones, 0, 2, 0), 0);
    CHECK_EQ(encode(6, 6, box, ones, 0, 0, 0), 1);
    CHECK_EQ(encode(0, 3, box, ones, 0, 0, 1), 1);
    CHECK_EQ(encode(6, 3, box, ones, 1, 0, 0), 1);
    CHECK_EQ(encode(16, 3, box, ones, 0, 0, 0), 1);
    CHECK_EQ(swizzle_address(1024 + 3 * 128 + 16, {128, 16, false}),
             1024u + 3 * 128 + 16 * (1 ^ 3));
    CHECK_EQ(swizzle_address(128 + 40, {128, 32, true}), 128u + ((32 ^ 32) | (8 ^ 8)));
}

void mbarriers() {
    uint64_t word = 0x1234;
    CHECK_TRUE(mbarrier_arrive(word, 1).error == MbarrierError::not_initialised);
    CHECK_TRUE(mbarrier_init(word, 0).error == MbarrierError::bad_count);
    CHECK_TRUE(mbarrier_init(word, 2).error == MbarrierError::none);
    CHECK_TRUE(mbarrier_test_parity(
        word, 1));  // a fresh barrier: the phase before the first counts as complete
    CHECK_TRUE(!mbarrier_test_parity(word, 0));
    const MbarrierResult first = mbarrier_arrive(word, 1, 100);
    CHECK_TRUE(!first.completed);
    CHECK_EQ(mbarrier_pending_count(first.state), 2u);
    CHECK_TRUE(!mbarrier_arrive(word, 1).completed);
    CHECK_TRUE(mbarrier_arrive(word, 1).error == MbarrierError::too_many_arrivals);
    CHECK_TRUE(!mbarrier_complete_tx(word, 60).completed);
    CHECK_TRUE(!mbarrier_test_state(word, first.state));
    CHECK_TRUE(mbarrier_complete_tx(word, 40).completed);
    CHECK_TRUE(mbarrier_test_state(word, first.state));
    CHECK_TRUE(mbarrier_test_parity(word, 0));
    CHECK_TRUE(!mbarrier_test_parity(word, 1));
    CHECK_TRUE(mbarrier_expect_tx(word, 1 << 20).error == MbarrierError::tx_range);
    mbarrier_complete_tx(word, 8);  // bytes may land before they are expected
    CHECK_TRUE(!mbarrier_arrive(word, 1, 8).completed);
    CHECK_TRUE(mbarrier_arrive(word, 1, 0, true).completed);
    CHECK_EQ(Mbarrier::unpack(word).pending, 1u);
}

void matrices() {
    uint16_t rows[8][8], back[8][8];
    for (int r = 0; r < 8; ++r) {
        for (int c = 0; c < 8; ++c) {
            rows[r][c] = static_cast<uint16_t>(16 * r + c);
        }
    }
    uint32_t plane[32];
    for (bool trans : {false, true}) {
        ldmatrix_plane(rows, trans, plane);
        for (int lane = 0; lane < 32; ++lane) {
            const int i = lane / 4, j = 2 * (lane % 4);
            CHECK_EQ(plane[lane] & 0xffff, trans ? rows[j][i] : rows[i][j]);
            CHECK_EQ(plane[lane] >> 16, trans ? rows[j + 1][i] : rows[i][j + 1]);
        }
        stmatrix_rows(plane, trans, back);
        CHECK_EQ(std::memcmp(rows, back, sizeof rows), 0);
    }
}

}  // namespace

int main() {
    descriptors();
    for (int n : {8, 24, 64, 128, 256}) {
        for (Elem d : {Elem::f32, Elem::f16}) {
            wgmma(n, d, false, true);
            if (n % 32 == 0) {
                wgmma(n, d, true, false);
            }
        }
    }
    tensor_maps();
    mbarriers();
    matrices();
    return test::finish("async_units_test");
}
