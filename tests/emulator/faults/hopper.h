// SPDX-License-Identifier: BSD-3-Clause
// The few Hopper instructions that the planted-fault programs use.
#pragma once
#include "fault.h"

__device__ inline void mbarrier_init(uint64_t* bar, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_of(bar)), "r"(count)
                 : "memory");
}
// Makes initialised mbarriers known to the other threads (with a barrier after it) and to the async
// proxy.
__device__ inline void fence_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void arrive(uint64_t* bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_of(bar)) : "memory");
}
__device__ inline void arrive_expect_tx(uint64_t* bar, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_of(bar)),
                 "r"(bytes)
                 : "memory");
}
__device__ inline void wait_parity(uint64_t* bar, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "WAIT:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
        "@!p bra WAIT;\n"
        "}\n" ::"r"(shared_of(bar)),
        "r"(parity)
        : "memory");
}
__device__ inline void bulk_load(void* shared, const void* global, uint32_t bytes, uint64_t* bar) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(shared_of(shared)),
        "l"(global), "r"(bytes), "r"(shared_of(bar))
        : "memory");
}
__device__ inline void bulk_store(void* global, const void* shared, uint32_t bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
                 "r"(shared_of(shared)), "r"(bytes)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
__device__ inline void bulk_wait() {
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

enum Swizzle : uint64_t { kNone = 0, k128B = 1, k64B = 2, k32B = 3 };
// Shared-memory matrix descriptor: start, leading and stride byte offsets in units of 16 bytes,
// swizzle in bits 62-63.
__device__ inline uint64_t descriptor(const void* tile, uint32_t leading, uint32_t stride,
                                      Swizzle swizzle) {
    const auto field = [](uint32_t bytes) { return uint64_t((bytes & 0x3ffff) >> 4); };
    return field(shared_of(tile)) | field(leading) << 16 | field(stride) << 32 |
           uint64_t(swizzle) << 62;
}
__device__ inline void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
__device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
// d (64 x 8, fp32) += A (64 x 16) B (16 x 8), both K-major fp16 in shared memory.
__device__ inline void wgmma_m64n8k16(float (&d)[4], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "l"(a), "l"(b));
}
// The row and column of accumulator element i of the calling thread of the warpgroup.
__device__ inline int d_row(int i) {
    return threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4 + i / 2 * 8;
}
__device__ inline int d_column(int i) {
    return threadIdx.x % 4 * 2 + i % 2;
}
