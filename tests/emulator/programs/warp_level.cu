// SPDX-License-Identifier: BSD-3-Clause
// Exchange inside a warp, block-wide votes, atomics of every type.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <vector>

#include "expect.h"

namespace cg = cooperative_groups;
constexpr unsigned kAll = 0xffffffffu;
constexpr int kForms = 13;

__global__ void exchange(int* out) {
    const int t = threadIdx.x, lane = t % 32;
    int* o = out + t * kForms;
    o[0] = __shfl_up_sync(kAll, t, 3, 8);
    o[1] = __shfl_down_sync(kAll, t, 2, 16);
    o[2] = __shfl_sync(kAll, 2 * t, t + 5, 4);
    o[3] = __shfl_xor_sync(kAll, t, 5);
    o[4] = __match_any_sync(kAll, lane / 5);
    int all = 7;
    o[5] = __match_all_sync(kAll, t / 32, &all);
    o[6] = all;
    o[7] = __reduce_add_sync(kAll, lane) + __reduce_min_sync(kAll, lane - 9) +
           __reduce_xor_sync(kAll, lane);
    o[8] = __ballot_sync(kAll, lane % 3 == 1);
    o[9] = __any_sync(kAll, lane == 7) + 2 * __all_sync(kAll, lane < 40);
    o[10] = lane & 2 ? __activemask() : 0;
    o[11] = __syncthreads_count(t % 3 == 0) + 100 * __syncthreads_or(t == 5) +
            1000 * __syncthreads_and(t < 99);
    const auto tile = cg::tiled_partition<16>(cg::this_thread_block());
    o[12] = cg::reduce(tile, t, cg::plus<int>());  // two tiles of a warp, each with its own mask
}

struct Totals {
    int add, sub, low, high, bits_or, bits_xor, bits_and;
    unsigned inc, dec, top;
    float f;
    double d;
    unsigned long long q, qmax;
    __half2 h;
    __nv_bfloat162 b;
    int in_shared[4];
    float loop;
};

__global__ void atomics(Totals* t) {
    __shared__ int s[4];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (threadIdx.x < 4) {
        s[threadIdx.x] = threadIdx.x == 1 ? 1 << 20 : 0;
    }
    __syncthreads();
    atomicAdd(&t->add, i);
    atomicSub(&t->sub, i);
    atomicMin(&t->low, i * 7 % 101 - 50);
    atomicMax(&t->high, i * 7 % 101 - 50);
    atomicOr(&t->bits_or, 1 << (i & 31));
    atomicXor(&t->bits_xor, i);
    atomicAnd(&t->bits_and, ~(1 << (i & 15)));
    atomicInc(&t->inc, 10);
    atomicDec(&t->dec, 10);
    atomicMax(&t->top, 77u * i);
    atomicAdd(&t->f, 0.25f);
    atomicAdd(&t->d, 0.5);
    atomicAdd(&t->q, static_cast<unsigned long long>(i) << 32);
    atomicMax(&t->qmax, static_cast<unsigned long long>(i) << 33);
    atomicAdd(&t->h, __floats2half2_rn(1.0f, 0.5f));
    atomicAdd(&t->b, __floats2bfloat162_rn(1.0f, 1.0f));
    atomicAdd(&s[0], 1);
    atomicMin(&s[1], i);
    atomicMax(&s[2], i);
    atomicCAS(&s[3], 0, 5);
    float old = t->loop, expected;
    do {
        expected = old;
        old = __int_as_float(atomicCAS(reinterpret_cast<int*>(&t->loop), __float_as_int(expected),
                                       __float_as_int(expected + 2.0f)));
    } while (__float_as_int(old) != __float_as_int(expected));
    __syncthreads();
    if (threadIdx.x < 4) {
        atomicAdd(&t->in_shared[threadIdx.x], s[threadIdx.x]);
    }
}

int main() {
    int* device;
    std::vector<int> o(64 * kForms);
    OK(cudaMalloc(&device, o.size() * 4));
    exchange<<<1, 64>>>(device);
    OK(cudaMemcpy(o.data(), device, o.size() * 4, cudaMemcpyDeviceToHost));
    for (int t = 0; t < 64; ++t) {
        const int* v = &o[t * kForms];
        const int lane = t % 32;
        unsigned same = 0;
        int tile = 0;
        for (int k = 0; k < 32; ++k) {
            same |= static_cast<unsigned>(k / 5 == lane / 5) << k;
            tile += k < 16 ? t / 16 * 16 + k : 0;
        }
        EXPECT(v[0] == (t % 8 >= 3 ? t - 3 : t));
        EXPECT(v[1] == (t % 16 < 14 ? t + 2 : t));
        EXPECT(v[2] == 2 * ((t & ~3) | ((t + 5) & 3)));
        EXPECT(v[3] == (t ^ 5));
        EXPECT(v[4] == static_cast<int>(same));
        EXPECT(v[5] == -1 && v[6] == 1);
        EXPECT(v[7] == 496 - 9 + 0);
        EXPECT(v[8] == static_cast<int>(0x92492492u));
        EXPECT(v[9] == 3);
        EXPECT(v[10] == (lane & 2 ? static_cast<int>(0xccccccccu) : 0));
        EXPECT(v[11] == 22 + 100 + 1000);
        EXPECT(v[12] == tile);
    }
    constexpr int kCount = 288;
    Totals host = {};
    host.bits_and = -1;
    Totals* totals;
    OK(cudaMalloc(&totals, sizeof host));
    OK(cudaMemcpy(totals, &host, sizeof host, cudaMemcpyHostToDevice));
    atomics<<<3, 96>>>(totals);
    OK(cudaMemcpy(&host, totals, sizeof host, cudaMemcpyDeviceToHost));
    int low = 0, high = 0, parity = 0;
    unsigned inc = 0, dec = 0;
    for (int i = 0; i < kCount; ++i) {
        low = std::min(low, i * 7 % 101 - 50);
        high = std::max(high, i * 7 % 101 - 50);
        parity ^= i;
        inc = inc >= 10 ? 0 : inc + 1;
        dec = dec == 0 || dec > 10 ? 10 : dec - 1;
    }
    constexpr int kSum = kCount * (kCount - 1) / 2;
    EXPECT(host.add == kSum && host.sub == -kSum && host.low == low && host.high == high);
    EXPECT(host.bits_or == -1 && host.bits_xor == parity &&
           host.bits_and == static_cast<int>(0xffff0000u));
    EXPECT(host.inc == inc && host.dec == dec && host.top == 77u * (kCount - 1));
    EXPECT(host.f == 72.0f && host.d == 144.0 && host.loop == 2.0f * kCount);
    EXPECT(host.q == static_cast<unsigned long long>(kSum) << 32);
    EXPECT(host.qmax == static_cast<unsigned long long>(kCount - 1) << 33);
    EXPECT(__low2float(host.h) == 288.0f && __high2float(host.h) == 144.0f);
    EXPECT(__low2float(host.b) == 256.0f);  // bf16 stops counting at 256: 256 + 1 rounds to 256
    EXPECT(host.in_shared[0] == kCount && host.in_shared[1] == 0 + 96 + 192);
    EXPECT(host.in_shared[2] == 95 + 191 + 287 && host.in_shared[3] == 15);
    std::puts("ok");
    return 0;
}
