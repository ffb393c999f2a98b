// SPDX-License-Identifier: BSD-3-Clause
// nvcuda::wmma products of small integers, exact in every type; strides larger than the matrices.
#include <mma.h>

#include "expect.h"

using namespace nvcuda;

template <int M, int N, int K, class T, class Sum, class LayoutA, class LayoutB>
__global__ void product(const T* a, const T* b, Sum* c, int lda, int ldb, int ldc) {
    wmma::fragment<wmma::matrix_a, M, N, K, T, LayoutA> fa;
    wmma::fragment<wmma::matrix_b, M, N, K, T, LayoutB> fb;
    wmma::fragment<wmma::accumulator, M, N, K, Sum> fc;
    wmma::load_matrix_sync(fa, a, lda);
    wmma::load_matrix_sync(fb, b, ldb);
    wmma::load_matrix_sync(fc, c, ldc, wmma::mem_row_major);
    wmma::mma_sync(fc, fa, fb, fc);
    wmma::store_matrix_sync(c, fc, ldc, wmma::mem_row_major);
}

template <int M, int N, int K, class T, class Sum, class LayoutA, class LayoutB>
void check() {
    constexpr bool kColA = std::is_same_v<LayoutA, wmma::col_major>,
                   kColB = std::is_same_v<LayoutB, wmma::col_major>;
    constexpr int kLda = (kColA ? M : K) + 16, kLdb = (kColB ? K : N) + 16, kLdc = N + 8,
                  kSize = 64 * 64;
    T *a, *b;
    Sum* c;
    OK(cudaMallocManaged(&a, kSize * sizeof(T)));
    OK(cudaMallocManaged(&b, kSize * sizeof(T)));
    OK(cudaMallocManaged(&c, kSize * sizeof(Sum)));
    for (int i = 0; i < kSize; ++i) {
        a[i] = static_cast<T>(static_cast<float>(i * 7 % 11));
        b[i] = static_cast<T>(static_cast<float>(i * 5 % 13));
        c[i] = static_cast<Sum>(1.f);
    }
    product<M, N, K, T, Sum, LayoutA, LayoutB><<<1, 32>>>(a, b, c, kLda, kLdb, kLdc);
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < M; ++i) {
        for (int j = 0; j < N; ++j) {
            float sum = 1.f;
            for (int k = 0; k < K; ++k) {
                sum += static_cast<float>(a[kColA ? k * kLda + i : i * kLda + k]) *
                       static_cast<float>(b[kColB ? j * kLdb + k : k * kLdb + j]);
            }
            EXPECT(static_cast<float>(c[i * kLdc + j]) == sum);
        }
        EXPECT(static_cast<float>(c[i * kLdc + N]) == 1.f);
    }
}

int main() {
    using Row = wmma::row_major;
    using Col = wmma::col_major;
    check<16, 16, 16, half, float, Row, Col>();
    check<16, 16, 16, half, half, Col, Row>();
    check<32, 8, 16, half, float, Row, Row>();
    check<8, 32, 16, half, float, Col, Col>();
    check<16, 16, 16, signed char, int, Row, Col>();
    check<32, 8, 16, unsigned char, int, Row, Col>();
    check<8, 8, 4, double, double, Row, Col>();
    std::puts("ok");
}
