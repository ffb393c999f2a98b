// SPDX-License-Identifier: BSD-3-Clause
// The same C++ is compiled for the host and for the emulated device: results must have equal bits.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "expect.h"

constexpr int kResults = 24;
using Words = uint64_t[kResults];

template <class T>
__host__ __device__ uint64_t bits(T value) {
    if (value != value) {
        return 0x7ff8;  // NaN: the payloads of host and device differ
    }
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    return word;
}

// Unsigned types wrap; signed division never meets the overflowing case.
template <class S, class U>
__host__ __device__ void integers(uint64_t first, uint64_t second, Words& out) {
    const U a = static_cast<U>(first), b = static_cast<U>(second), d = b == 0 ? 1 : b;
    const S x = static_cast<S>(a), y = static_cast<S>(d);
    const bool overflows = y == S{-1};
    const int width = 8 * sizeof(S), n = static_cast<int>(b % width);
    int i = 0;
    for (U v : {U(a + b), U(a - b), U(a * b), U(a / d), U(a % d), U(a << n), U(a >> n), U(a & b),
                U(a | ~b), U(a ^ b), U(a < b ? a : b), U(a > b ? a : b), U(a * 3 + b)}) {
        out[i++] = v;
    }
    for (S v : {S(overflows ? 0 : x / y), S(overflows ? 0 : x % y), S(x >> n), S(x < y ? x : y),
                S(x > y ? x : y), S(x < 0), S(static_cast<int8_t>(x)), S(static_cast<int16_t>(x)),
                S(static_cast<int32_t>(x))}) {
        out[i++] = static_cast<uint64_t>(static_cast<int64_t>(v));
    }
    uint32_t ones = 0;
    for (int k = 0; k < width; ++k) {
        ones += a >> k & 1;
    }
    out[i++] = ones;
    out[i++] = static_cast<uint64_t>(static_cast<uint8_t>(a)) * static_cast<uint16_t>(b);
}

template <class F>
__host__ __device__ void floats(F a, F b, F c, Words& out) {
    int i = 0;
    for (F v : {a + b, a - b, a * b, a / b, std::sqrt(a), std::fma(a, b, c), std::fabs(a), -a,
                std::floor(a), std::ceil(a), std::trunc(a), std::rint(a), std::copysign(a, b)}) {
        out[i++] = bits(v);
    }
    out[i++] = a < b;
    out[i++] = a >= b;
    out[i++] = a == b;
    const F small = std::fabs(a) < F(1e9) ? a : F(7);
    out[i++] = static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(small)));
    out[i++] = static_cast<uint64_t>(static_cast<int64_t>(small));
    out[i++] = bits(static_cast<float>(a));
    out[i++] = bits(static_cast<double>(a));
    const auto whole = static_cast<int64_t>(bits(b) * 0x9e3779b97f4a7c15u);
    out[i++] = bits(static_cast<F>(whole));
    out[i++] = bits(static_cast<F>(static_cast<uint64_t>(whole)));
    out[i++] = bits(static_cast<F>(static_cast<int32_t>(whole)));
    out[i++] = bits(static_cast<F>(static_cast<uint32_t>(whole)));
}

struct Input {
    uint64_t a, b;
    float f[3];
    double d[3];
};

enum Kind { kInt64, kInt32, kFloat, kDouble, kKinds };

__host__ __device__ void evaluate(int kind, const Input& in, Words& out) {
    switch (kind) {
        case kInt64:
            integers<int64_t, uint64_t>(in.a, in.b, out);
            break;
        case kInt32:
            integers<int32_t, uint32_t>(in.a, in.b, out);
            break;
        case kFloat:
            floats(in.f[0], in.f[1], in.f[2], out);
            break;
        default:
            floats(in.d[0], in.d[1], in.d[2], out);
            break;
    }
}

__global__ void run(const Input* in, Words* out, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        for (int kind = 0; kind < kKinds; ++kind) {
            evaluate(kind, in[i], out[i * kKinds + kind]);
        }
    }
}

// Bit patterns of every sort: zeros, subnormals, infinities, NaN, nearby and distant exponents.
template <class F, class U>
F draw(std::mt19937_64& rng) {
    constexpr int kMantissa = sizeof(F) == 4 ? 23 : 52, kBias = sizeof(F) == 4 ? 127 : 1023;
    U u = static_cast<U>(rng());
    switch (rng() % 8) {
        case 0:
            u &= ~(U(2 * kBias + 1) << kMantissa);
            break;
        case 1:
            u = rng() % 2 ? 0 : U(2 * kBias + 1) << kMantissa;
            break;
        case 2:
            break;
        default: {
            u &= ~(U(2 * kBias + 1) << kMantissa);
            u |= U(kBias - 20 + rng() % 44) << kMantissa;
        }
    }
    F f;
    memcpy(&f, &u, sizeof f);
    return f;
}

int main() {
    constexpr int kCount = 3000;
    std::mt19937_64 rng(11);
    std::vector<Input> in(kCount);
    for (Input& x : in) {
        x.a = rng() >> rng() % 64;
        x.b = rng() % 3 ? rng() >> rng() % 64 : ~(rng() >> (32 + rng() % 32));
        for (int k = 0; k < 3; ++k) {
            x.f[k] = draw<float, uint32_t>(rng);
            x.d[k] = draw<double, uint64_t>(rng);
        }
    }
    Input* device_in;
    Words* device_out;
    const size_t bytes = sizeof(Words) * kCount * kKinds;
    OK(cudaMalloc(&device_in, sizeof(Input) * kCount));
    OK(cudaMalloc(&device_out, bytes));
    OK(cudaMemset(device_out, 0, bytes));
    OK(cudaMemcpy(device_in, in.data(), sizeof(Input) * kCount, cudaMemcpyHostToDevice));
    run<<<(kCount + 95) / 96, 96>>>(device_in, device_out, kCount);
    std::vector<uint64_t> got(bytes / 8);
    OK(cudaMemcpy(got.data(), device_out, bytes, cudaMemcpyDeviceToHost));
    for (int i = 0; i < kCount; ++i) {
        for (int kind = 0; kind < kKinds; ++kind) {
            Words want = {};
            evaluate(kind, in[i], want);
            for (int k = 0; k < kResults; ++k) {
                const uint64_t have = got[(size_t{kKinds} * i + kind) * kResults + k];
                if (have != want[k]) {
                    std::printf("input %d kind %d result %d: %llx, the host has %llx\n", i, kind, k,
                                static_cast<unsigned long long>(have),
                                static_cast<unsigned long long>(want[k]));
                    return 1;
                }
            }
        }
    }
    std::puts("ok");
    return 0;
}
