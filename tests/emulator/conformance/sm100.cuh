// SPDX-License-Identifier: BSD-3-Clause
// Helpers of the tcgen05 kernels, which cases_sm100.py makes.
__device__ inline uint32_t shared_at(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ inline uint8_t* aligned(uint8_t* p) {
    return p + ((1024 - shared_at(p) % 1024) % 1024);
}
__device__ inline uint32_t rank() {
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
__device__ inline void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}
__device__ inline void barrier_init(uint64_t* b, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(b)), "r"(count)
                 : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void wait(uint64_t* b, uint32_t parity) {
    uint32_t done = 0;
    while (!done) {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, "
            "0, p; }"
            : "=r"(done)
            : "r"(shared_at(b)), "r"(parity)
            : "memory");
    }
}
__device__ inline void expect(uint64_t* b, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_at(b)),
                 "r"(bytes)
                 : "memory");
}

// The only cluster of the grid asks to cancel another one: there is none, so the answer is no.
extern "C" __global__ void cluster_launch_refused(const uint32_t*, uint32_t* out) {
    __shared__ __align__(16) uint64_t response[2];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        barrier_init(&full, 1);
        asm volatile("fence.proxy.async;" ::: "memory");
        asm volatile(
            "clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 "
            "[%0], [%1];" ::"r"(shared_at(response)),
            "r"(shared_at(&full))
            : "memory");
        expect(&full, 16);
        wait(&full, 0);
        uint32_t canceled;
        asm volatile(
            "{ .reg .b128 answer; .reg .pred p; mov.b128 answer, {%1, %2}; "
            "clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 p, answer; selp.u32 %0, 1, 0, "
            "p; }"
            : "=r"(canceled)
            : "l"(response[0]), "l"(response[1]));
        out[0] = canceled;
    }
}

// Rows 3, 1, 9 (outside) and 6 of a matrix, 32 columns from column 8.
extern "C" __global__ void tma_gather4(const __grid_constant__ CUtensorMap map, const uint32_t*,
                                       uint32_t* out) {
    extern __shared__ uint8_t raw[];
    __shared__ uint64_t full;
    uint32_t* buffer = reinterpret_cast<uint32_t*>(aligned(raw));
    const int l = threadIdx.x;
    if (l == 0) {
        barrier_init(&full, 1);
    }
    __syncthreads();
    if (l == 0) {
        expect(&full, 512);
        asm volatile(
            "cp.async.bulk.tensor.2d.shared::cta.global.tile::gather4.mbarrier::complete_tx::bytes"
            " [%0], [%1, {8, 3, 1, 9, 6}], [%2];" ::"r"(shared_at(buffer)),
            "l"(&map), "r"(shared_at(&full))
            : "memory");
    }
    wait(&full, 0);
    for (int i = l; i < 128; i += 32) {
        out[i] = buffer[i];
    }
}
