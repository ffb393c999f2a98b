// SPDX-License-Identifier: BSD-3-Clause
// ldmatrix, cp.async, wmma: forms that need memory.
#include <mma.h>
__device__ inline uint32_t shared_at(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

#define LDMATRIX(NAME, FORM, N, REGS)                                                 \
    extern "C" __global__ void NAME(const uint32_t* in, uint32_t* out) {              \
        __shared__ __align__(16) uint32_t rows[128];                                  \
        const int l = threadIdx.x;                                                    \
        for (int i = l; i < 128; i += 32) rows[i] = in[i];                            \
        __syncthreads();                                                              \
        uint32_t r[4];                                                                \
        asm volatile("ldmatrix.sync.aligned.m8n8." FORM ".shared.b16 " REGS ", [%4];" \
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                 \
                     : "r"(shared_at(rows + 4 * (l % (8 * N)))));                     \
        for (int i = 0; i < N; ++i) out[32 * i + l] = r[i];                           \
    }
LDMATRIX(ldmatrix_x1, "x1", 1, "{%0}")
LDMATRIX(ldmatrix_x1_trans, "x1.trans", 1, "{%0}")
LDMATRIX(ldmatrix_x2, "x2", 2, "{%0,%1}")
LDMATRIX(ldmatrix_x2_trans, "x2.trans", 2, "{%0,%1}")
LDMATRIX(ldmatrix_x4, "x4", 4, "{%0,%1,%2,%3}")
LDMATRIX(ldmatrix_x4_trans, "x4.trans", 4, "{%0,%1,%2,%3}")

template <int Bytes>
__device__ void copy_lane(const uint32_t* in, uint32_t* out, int valid) {
    __shared__ __align__(16) uint32_t buffer[128];
    const int l = threadIdx.x, n = Bytes / 4;
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_at(buffer + n * l)),
                 "l"(in + n * l), "n"(Bytes), "r"(valid)
                 : "memory");
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    for (int i = l; i < 32 * n; i += 32) {
        out[i] = buffer[i];
    }
}
extern "C" __global__ void cp_async_ca_4(const uint32_t* in, uint32_t* out) {
    copy_lane<4>(in, out, 4);
}
extern "C" __global__ void cp_async_ca_8(const uint32_t* in, uint32_t* out) {
    copy_lane<8>(in, out, 8);
}
extern "C" __global__ void cp_async_ca_16(const uint32_t* in, uint32_t* out) {
    copy_lane<16>(in, out, 16);
}
extern "C" __global__ void cp_async_zfill(const uint32_t* in, uint32_t* out) {
    copy_lane<16>(in, out, 4);
}

// A ring of three stages, two copies in flight.
extern "C" __global__ void cp_async_groups(const uint32_t* in, uint32_t* out) {
    __shared__ uint32_t ring[3][32];
    const int l = threadIdx.x;
    for (int k = 0; k < 10; ++k) {
        if (k < 8) {
            asm volatile(
                "cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_at(&ring[k % 3][l])),
                "l"(in + 32 * k + l)
                : "memory");
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        if (k >= 2) {
            asm volatile("cp.async.wait_group 2;" ::: "memory");
            out[32 * (k - 2) + l] = ring[(k - 2) % 3][l];
        }
    }
}

// in: A, B, C one after another, each in words; out: D row-major. Layouts of A and B as given.
template <int M, int N, int K, class T, class Acc, class Ld, class La, class Lb>
__device__ void wmma_product(const uint32_t* in, uint32_t* out, int words_a, int words_b) {
    using namespace nvcuda::wmma;
    fragment<matrix_a, M, N, K, T, La> a;
    fragment<matrix_b, M, N, K, T, Lb> b;
    fragment<accumulator, M, N, K, Acc> c;
    load_matrix_sync(a, reinterpret_cast<const Ld*>(in), std::is_same_v<La, row_major> ? K : M);
    load_matrix_sync(b, reinterpret_cast<const Ld*>(in + words_a),
                     std::is_same_v<Lb, row_major> ? N : K);
    load_matrix_sync(c, reinterpret_cast<const Acc*>(in + words_a + words_b), N, mem_row_major);
    mma_sync(c, a, b, c);
    for (int i = 0; i < c.num_elements; ++i) {
        c.x[i] = c.x[i] + c.x[i];
    }
    store_matrix_sync(reinterpret_cast<Acc*>(out), c, N, mem_row_major);
}
using nvcuda::wmma::col_major;
using nvcuda::wmma::row_major;
#define WMMA(NAME, M, N, K, T, ACC, LD, LA, LB)                                         \
    extern "C" __global__ void NAME(const uint32_t* in, uint32_t* out) {                \
        wmma_product<M, N, K, T, ACC, LD, LA, LB>(in, out, M * K * int(sizeof(LD)) / 4, \
                                                  K * N * int(sizeof(LD)) / 4);         \
    }
WMMA(wmma_m16n16k16_f32_f16, 16, 16, 16, half, float, half, row_major, col_major)
WMMA(wmma_m16n16k16_f16_f16, 16, 16, 16, half, half, half, row_major, row_major)
WMMA(wmma_m32n8k16_f32_f16, 32, 8, 16, half, float, half, col_major, row_major)
WMMA(wmma_m8n32k16_f32_bf16, 8, 32, 16, __nv_bfloat16, float, __nv_bfloat16, row_major, col_major)
WMMA(wmma_m16n16k16_s32_s8, 16, 16, 16, signed char, int, signed char, row_major, col_major)
WMMA(wmma_m16n16k8_f32_tf32, 16, 16, 8, nvcuda::wmma::precision::tf32, float, float, row_major,
     col_major)
