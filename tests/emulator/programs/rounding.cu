// SPDX-License-Identifier: BSD-3-Clause
// Directed rounding of fp32 and fp64 arithmetic and conversions against the host's rounding modes.
#include <cfenv>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "expect.h"

constexpr int kSingles = 19, kDoubles = 9;

__global__ void run(const float* f, const double* d, const long long* n, float* single,
                    double* wide, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) {
        return;
    }
    const float a = f[3 * i], b = f[3 * i + 1], c = f[3 * i + 2];
    const double x = d[3 * i], y = d[3 * i + 1], z = d[3 * i + 2];
    float* s = single + i * kSingles;
    s[0] = __fadd_rz(a, b), s[1] = __fadd_ru(a, b), s[2] = __fadd_rd(a, b);
    s[3] = __fmul_rz(a, b), s[4] = __fmul_ru(a, b), s[5] = __fmul_rd(a, b);
    s[6] = __fmaf_rz(a, b, c), s[7] = __fmaf_ru(a, b, c), s[8] = __fmaf_rd(a, b, c);
    s[9] = __fdiv_rz(a, b), s[10] = __fsqrt_ru(fabsf(a)), s[11] = __frcp_rd(a);
    s[12] = __double2float_rz(x), s[13] = __double2float_ru(x), s[14] = __double2float_rd(x);
    s[15] = __ll2float_rz(n[i]), s[16] = __ll2float_ru(n[i]);
    s[17] = __int2float_rd(static_cast<int>(n[i])), s[18] = __saturatef(a);
    double* w = wide + i * kDoubles;
    w[0] = __dadd_rz(x, y), w[1] = __dadd_ru(x, y), w[2] = __dadd_rd(x, y);
    w[3] = __dmul_rz(x, y), w[4] = __fma_ru(x, y, z), w[5] = __ddiv_rd(x, y);
    w[6] = __dsqrt_rz(fabs(x)), w[7] = __ll2double_ru(n[i]), w[8] = __drcp_rz(x);
}

template <class T, class F>
T rounded(int mode, F f) {
    std::fesetround(mode);
    volatile T value = f();
    std::fesetround(FE_TONEAREST);
    return value;
}

template <class T>
void same(const char* what, int i, int k, T got, T want) {
    if (std::memcmp(&got, &want, sizeof got) != 0 && !(got != got && want != want)) {
        std::printf("%s %d of input %d: %a, the host has %a\n", what, k, i, double(got),
                    double(want));
        std::exit(1);
    }
}

int main() {
    constexpr int kCount = 2000, Z = FE_TOWARDZERO, U = FE_UPWARD, D = FE_DOWNWARD;
    std::mt19937_64 rng(5);
    std::vector<float> f(3 * kCount);
    std::vector<double> d(3 * kCount);
    std::vector<long long> n(kCount);
    for (float& v : f) {
        v = std::ldexp(float(int(rng() >> 33) - (1 << 30)), int(rng() % 60) - 50);
    }
    for (int i = 0; i < kCount; i += 7) {
        f[3 * i + 1] = -f[3 * i];  // exact cancellation: the sign of zero depends on the mode
    }
    for (double& v : d) {
        v = std::ldexp(double(static_cast<long long>(rng())), int(rng() % 40) - 80);
    }
    for (long long& v : n) {
        v = static_cast<long long>(rng()) >> rng() % 60;
    }
    float *df, *ds;
    double *dd, *dw;
    long long* dn;
    OK(cudaMalloc(&df, f.size() * 4));
    OK(cudaMalloc(&dd, d.size() * 8));
    OK(cudaMalloc(&dn, n.size() * 8));
    OK(cudaMalloc(&ds, kCount * kSingles * 4));
    OK(cudaMalloc(&dw, kCount * kDoubles * 8));
    OK(cudaMemcpy(df, f.data(), f.size() * 4, cudaMemcpyHostToDevice));
    OK(cudaMemcpy(dd, d.data(), d.size() * 8, cudaMemcpyHostToDevice));
    OK(cudaMemcpy(dn, n.data(), n.size() * 8, cudaMemcpyHostToDevice));
    run<<<(kCount + 63) / 64, 64>>>(df, dd, dn, ds, dw, kCount);
    std::vector<float> single(kCount * kSingles);
    std::vector<double> wide(kCount * kDoubles);
    OK(cudaMemcpy(single.data(), ds, single.size() * 4, cudaMemcpyDeviceToHost));
    OK(cudaMemcpy(wide.data(), dw, wide.size() * 8, cudaMemcpyDeviceToHost));
    for (int i = 0; i < kCount; ++i) {
        volatile float a = f[3 * i], b = f[3 * i + 1], c = f[3 * i + 2];
        volatile double x = d[3 * i], y = d[3 * i + 1], z = d[3 * i + 2];
        volatile long long q = n[i];
        const auto r = [](int mode, auto expression) { return rounded<float>(mode, expression); };
        const auto e = [](int mode, auto expression) { return rounded<double>(mode, expression); };
        const auto add = [&] { return a + b; };
        const auto mul = [&] { return a * b; };
        const auto fma = [&] { return std::fma(a, b, c); };
        const auto narrow = [&] { return float(x); };
        const auto whole = [&] { return float(q); };
        const float want[kSingles] = {r(Z, add),
                                      r(U, add),
                                      r(D, add),
                                      r(Z, mul),
                                      r(U, mul),
                                      r(D, mul),
                                      r(Z, fma),
                                      r(U, fma),
                                      r(D, fma),
                                      r(Z, [&] { return a / b; }),
                                      r(U, [&] { return std::sqrt(std::fabs(a)); }),
                                      r(D, [&] { return 1.0f / a; }),
                                      r(Z, narrow),
                                      r(U, narrow),
                                      r(D, narrow),
                                      r(Z, whole),
                                      r(U, whole),
                                      r(D, [&] { return float(int(q)); }),
                                      a > 0 ? (a < 1 ? float(a) : 1.0f) : 0.0f};
        for (int k = 0; k < kSingles; ++k) {
            same("fp32", i, k, single[i * kSingles + k], want[k]);
        }
        const auto sum = [&] { return x + y; };
        const double doubles[kDoubles] = {e(Z, sum),
                                          e(U, sum),
                                          e(D, sum),
                                          e(Z, [&] { return x * y; }),
                                          e(U, [&] { return std::fma(x, y, z); }),
                                          e(D, [&] { return x / y; }),
                                          e(Z, [&] { return std::sqrt(std::fabs(x)); }),
                                          e(U, [&] { return double(q); }),
                                          e(Z, [&] { return 1.0 / x; })};
        for (int k = 0; k < kDoubles; ++k) {
            same("fp64", i, k, wide[i * kDoubles + k], doubles[k]);
        }
    }
    std::puts("ok");
    return 0;
}
