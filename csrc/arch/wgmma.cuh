// SPDX-License-Identifier: BSD-3-Clause
// wgmma m64nNk16 (16-bit) and m64nNk32 (e4m3) with fp32 accumulators; PTX ISA, "Asynchronous
// Warpgroup Level Matrix Instructions". B comes from shared memory, A from shared memory (K-major)
// or registers.
//
// Lane l of warp w of the warpgroup owns, with g = l / 4 and t = l % 4:
//   d[4 j + e]  row 16 w + g + 8 (e / 2), column 8 j + 2 t + e % 2   (mma.m16n8's accumulators)
//   a[0..3]     rows g, g+8, g, g+8; k = 2t, 2t, 2t+8, 2t+8 (pairs); of e4m3 k = 4t, 4t, 4t+16,
//               4t+16 (fours)
#pragma once

#include <cuda_fp8.h>

#include <type_traits>

#include "arch/base.cuh"

namespace limelight {

LIMELIGHT_DEVICE void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
LIMELIGHT_DEVICE void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// Waits for all groups but the newest kPending.
template <int kPending>
LIMELIGHT_DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving work on these registers across a fence or a wait: it does not know
// that wgmma goes on reading and writing them.
template <int kCount>
LIMELIGHT_DEVICE void wgmma_hold(float (&registers)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
        asm volatile("" : "+f"(registers[i])::"memory");
    }
}
template <int kCount>
LIMELIGHT_DEVICE void wgmma_hold(uint32_t (&registers)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
        asm volatile("" : "+r"(registers[i])::"memory");
    }
}

// Swizzle of an operand's rows, as the descriptor names it.
template <int kRowBytes>
constexpr uint64_t kWgmmaSwizzle = kRowBytes == 128  ? 1
                                   : kRowBytes == 64 ? 2
                                                     : 3;

// Descriptor of an operand in rows of kRowBytes, swizzled over the whole row, at an address aligned
// to eight of its rows. Moving on by n bytes adds n / 16.
//   K-major:  row = one row of A or column of B; `leading` is not used
//   MN-major: row = one k; `leading` bytes to the next kRowBytes of columns
// Eight rows lie 8 * kRowBytes apart.
template <int kRowBytes>
LIMELIGHT_DEVICE uint64_t wgmma_descriptor(uint32_t smem, uint32_t leading) {
    constexpr uint64_t kStride = 8 * kRowBytes / 16;
    return (smem >> 4) | uint64_t{leading >> 4} << 16 | kStride << 32 |
           kWgmmaSwizzle<kRowBytes> << 62;
}

// d = A B + (accumulate ? d : 0), asynchronous.
//   ss: A and B K-major in shared memory, by descriptor
//   rs: A in registers, B MN-major in shared memory; of e4m3 K-major, the only order it has
template <int kN, class Element>
struct Wgmma;

#define LIMELIGHT_F8(d, i)                                                                      \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define LIMELIGHT_F4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define LIMELIGHT_R8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define LIMELIGHT_F8_(d) LIMELIGHT_F8(d, 0)
#define LIMELIGHT_R16 LIMELIGHT_R8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define LIMELIGHT_F16_(d) LIMELIGHT_F8_(d), LIMELIGHT_F8(d, 8)
#define LIMELIGHT_R24 LIMELIGHT_R16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define LIMELIGHT_F24_(d) LIMELIGHT_F16_(d), LIMELIGHT_F8(d, 16)
#define LIMELIGHT_R32 LIMELIGHT_R24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define LIMELIGHT_F32_(d) LIMELIGHT_F24_(d), LIMELIGHT_F8(d, 24)
#define LIMELIGHT_R36 LIMELIGHT_R32 ", %32, %33, %34, %35"
#define LIMELIGHT_F36_(d) LIMELIGHT_F32_(d), LIMELIGHT_F4(d, 32)
#define LIMELIGHT_R40 LIMELIGHT_R32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define LIMELIGHT_F40_(d) LIMELIGHT_F32_(d), LIMELIGHT_F8(d, 32)
#define LIMELIGHT_R48 LIMELIGHT_R40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define LIMELIGHT_F48_(d) LIMELIGHT_F40_(d), LIMELIGHT_F8(d, 40)
#define LIMELIGHT_R56 LIMELIGHT_R48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define LIMELIGHT_F56_(d) LIMELIGHT_F48_(d), LIMELIGHT_F8(d, 48)
#define LIMELIGHT_R64 LIMELIGHT_R56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define LIMELIGHT_F64_(d) LIMELIGHT_F56_(d), LIMELIGHT_F8(d, 56)
#define LIMELIGHT_R68 LIMELIGHT_R64 ", %64, %65, %66, %67"
#define LIMELIGHT_F68_(d) LIMELIGHT_F64_(d), LIMELIGHT_F4(d, 64)
#define LIMELIGHT_R72 LIMELIGHT_R64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define LIMELIGHT_F72_(d) LIMELIGHT_F64_(d), LIMELIGHT_F8(d, 64)
#define LIMELIGHT_R80 LIMELIGHT_R72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define LIMELIGHT_F80_(d) LIMELIGHT_F72_(d), LIMELIGHT_F8(d, 72)
#define LIMELIGHT_R88 LIMELIGHT_R80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define LIMELIGHT_F88_(d) LIMELIGHT_F80_(d), LIMELIGHT_F8(d, 80)
#define LIMELIGHT_R96 LIMELIGHT_R88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define LIMELIGHT_F96_(d) LIMELIGHT_F88_(d), LIMELIGHT_F8(d, 88)
#define LIMELIGHT_R104 LIMELIGHT_R96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define LIMELIGHT_F104_(d) LIMELIGHT_F96_(d), LIMELIGHT_F8(d, 96)
#define LIMELIGHT_R112 LIMELIGHT_R104 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define LIMELIGHT_F112_(d) LIMELIGHT_F104_(d), LIMELIGHT_F8(d, 104)
#define LIMELIGHT_R120 LIMELIGHT_R112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define LIMELIGHT_F120_(d) LIMELIGHT_F112_(d), LIMELIGHT_F8(d, 112)
#define LIMELIGHT_R128 LIMELIGHT_R120 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define LIMELIGHT_F128_(d) LIMELIGHT_F120_(d), LIMELIGHT_F8(d, 120)

// A0.. are the numbers of the operands after the accumulators.
#define LIMELIGHT_WGMMA(N, K, TYPE, NAME, SS, RS, COUNT, A0, A1, A2, A3, A4, A5)               \
    template <>                                                                                \
    struct Wgmma<N, TYPE> {                                                                    \
        LIMELIGHT_DEVICE static void ss(float (&d)[COUNT], uint64_t a, uint64_t b,             \
                                        bool accumulate) {                                     \
            asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #A2                                \
                         ", 0;\n"                                                              \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k" #K ".f32." NAME "." NAME   \
                         " {" LIMELIGHT_R##COUNT "}, %" #A0 ", %" #A1 ", p, 1, 1" SS "; }\n"   \
                         : LIMELIGHT_F##COUNT##_(d)                                            \
                         : "l"(a), "l"(b), "r"(int{accumulate}));                              \
        }                                                                                      \
        LIMELIGHT_DEVICE static void rs(float (&d)[COUNT], const uint32_t (&a)[4], uint64_t b, \
                                        bool accumulate) {                                     \
            asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #A5                                \
                         ", 0;\n"                                                              \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k" #K ".f32." NAME "." NAME   \
                         " {" LIMELIGHT_R##COUNT "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3     \
                                                 "}, %" #A4 ", p, 1, 1" RS "; }\n"             \
                         : LIMELIGHT_F##COUNT##_(d)                                            \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),                 \
                           "r"(int{accumulate}));                                              \
        }                                                                                      \
    };
#define LIMELIGHT_WGMMA_16_BIT(N, COUNT, ...)                                  \
    LIMELIGHT_WGMMA(N, 16, __half, "f16", ", 0, 0", ", 1", COUNT, __VA_ARGS__) \
    LIMELIGHT_WGMMA(N, 16, __nv_bfloat16, "bf16", ", 0, 0", ", 1", COUNT, __VA_ARGS__)
#define LIMELIGHT_WGMMA_8_BIT(N, COUNT, ...) \
    LIMELIGHT_WGMMA(N, 32, __nv_fp8_e4m3, "e4m3", "", "", COUNT, __VA_ARGS__)

LIMELIGHT_WGMMA_16_BIT(16, 8, 8, 9, 10, 11, 12, 13)
LIMELIGHT_WGMMA_16_BIT(64, 32, 32, 33, 34, 35, 36, 37)
LIMELIGHT_WGMMA_16_BIT(72, 36, 36, 37, 38, 39, 40, 41)
LIMELIGHT_WGMMA_16_BIT(80, 40, 40, 41, 42, 43, 44, 45)
LIMELIGHT_WGMMA_16_BIT(96, 48, 48, 49, 50, 51, 52, 53)
LIMELIGHT_WGMMA_16_BIT(112, 56, 56, 57, 58, 59, 60, 61)
LIMELIGHT_WGMMA_16_BIT(128, 64, 64, 65, 66, 67, 68, 69)
LIMELIGHT_WGMMA_16_BIT(136, 68, 68, 69, 70, 71, 72, 73)
LIMELIGHT_WGMMA_16_BIT(144, 72, 72, 73, 74, 75, 76, 77)
LIMELIGHT_WGMMA_16_BIT(160, 80, 80, 81, 82, 83, 84, 85)
LIMELIGHT_WGMMA_16_BIT(176, 88, 88, 89, 90, 91, 92, 93)
LIMELIGHT_WGMMA_16_BIT(192, 96, 96, 97, 98, 99, 100, 101)
LIMELIGHT_WGMMA_16_BIT(256, 128, 128, 129, 130, 131, 132, 133)

LIMELIGHT_WGMMA_8_BIT(64, 32, 32, 33, 34, 35, 36, 37)
LIMELIGHT_WGMMA_8_BIT(72, 36, 36, 37, 38, 39, 40, 41)
LIMELIGHT_WGMMA_8_BIT(128, 64, 64, 65, 66, 67, 68, 69)
LIMELIGHT_WGMMA_8_BIT(136, 68, 68, 69, 70, 71, 72, 73)

#undef LIMELIGHT_WGMMA_8_BIT
#undef LIMELIGHT_WGMMA_16_BIT
#undef LIMELIGHT_WGMMA
#undef LIMELIGHT_F8
#undef LIMELIGHT_F4
#undef LIMELIGHT_R68
#undef LIMELIGHT_F68_
#undef LIMELIGHT_R8
#undef LIMELIGHT_F8_
#undef LIMELIGHT_R16
#undef LIMELIGHT_F16_
#undef LIMELIGHT_R24
#undef LIMELIGHT_F24_
#undef LIMELIGHT_R32
#undef LIMELIGHT_F32_
#undef LIMELIGHT_R36
#undef LIMELIGHT_F36_
#undef LIMELIGHT_R40
#undef LIMELIGHT_F40_
#undef LIMELIGHT_R48
#undef LIMELIGHT_F48_
#undef LIMELIGHT_R56
#undef LIMELIGHT_F56_
#undef LIMELIGHT_R64
#undef LIMELIGHT_F64_
#undef LIMELIGHT_R72
#undef LIMELIGHT_F72_
#undef LIMELIGHT_R80
#undef LIMELIGHT_F80_
#undef LIMELIGHT_R88
#undef LIMELIGHT_F88_
#undef LIMELIGHT_R96
#undef LIMELIGHT_F96_
#undef LIMELIGHT_R104
#undef LIMELIGHT_F104_
#undef LIMELIGHT_R112
#undef LIMELIGHT_F112_
#undef LIMELIGHT_R120
#undef LIMELIGHT_F120_
#undef LIMELIGHT_R128
#undef LIMELIGHT_F128_

}  // namespace limelight
