// SPDX-License-Identifier: BSD-3-Clause
// stmatrix, mbarrier, bulk and tensor copies, clusters. Kernels of tensor copies and wgmma are made
// by cases_sm90.py.
__device__ inline uint32_t shared_at(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ inline uint8_t* aligned(uint8_t* p) {
    return p + ((1024 - shared_at(p) % 1024) % 1024);
}
__device__ inline void barrier_init(uint64_t* b, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(b)), "r"(count)
                 : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void expect(uint64_t* b, uint32_t bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_at(b)),
        "r"(bytes)
        : "memory");
}
__device__ inline void wait(uint64_t* b, uint32_t parity) {
    uint32_t done = 0;
    while (!done) {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2; "
            "selp.u32 %0, 1, 0, p; }"
            : "=r"(done)
            : "r"(shared_at(b)), "r"(parity)
            : "memory");
    }
}
__device__ inline void fence_async() {
    asm volatile("fence.proxy.async;" ::: "memory");
}
__device__ inline void commit_and_wait() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
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
__device__ inline uint32_t map_to(uint32_t address, uint32_t r) {
    uint32_t to;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(address), "r"(r));
    return to;
}

#define STMATRIX(NAME, FORM, N, REGS)                                              \
    extern "C" __global__ void NAME(const uint32_t* in, uint32_t* out) {           \
        __shared__ __align__(16) uint32_t rows[128];                               \
        const int l = threadIdx.x;                                                 \
        for (int i = l; i < 128; i += 32) rows[i] = 0;                             \
        __syncthreads();                                                           \
        asm volatile("stmatrix.sync.aligned.m8n8." FORM ".shared.b16 [%0], " REGS  \
                     ";" ::"r"(shared_at(rows + 4 * (l % (8 * N)))),               \
                     "r"(in[l]), "r"(in[32 + l]), "r"(in[64 + l]), "r"(in[96 + l]) \
                     : "memory");                                                  \
        __syncthreads();                                                           \
        for (int i = l; i < 128; i += 32) out[i] = rows[i];                        \
    }
STMATRIX(stmatrix_x1, "x1", 1, "{%1}")
STMATRIX(stmatrix_x1_trans, "x1.trans", 1, "{%1}")
STMATRIX(stmatrix_x2, "x2", 2, "{%1,%2}")
STMATRIX(stmatrix_x2_trans, "x2.trans", 2, "{%1,%2}")
STMATRIX(stmatrix_x4, "x4", 4, "{%1,%2,%3,%4}")
STMATRIX(stmatrix_x4_trans, "x4.trans", 4, "{%1,%2,%3,%4}")

// out[0]: lanes that elect.sync chose; out[1]: the leader's lane that it returned.
extern "C" __global__ void elect_sync(const uint32_t*, uint32_t* out) {
    uint32_t leader, chosen;
    asm volatile("{ .reg .pred p; elect.sync %0|p, 0xffffffff; selp.u32 %1, 1, 0, p; }"
                 : "=r"(leader), "=r"(chosen));
    const uint32_t mask = __ballot_sync(0xffffffff, chosen);
    if (threadIdx.x == 0) {
        out[0] = static_cast<uint32_t>(__popc(mask));
        out[1] = mask == 1u << leader;
    }
}

// Phases of one barrier of two arrivals: tests by state and by parity, pending counts, a dropped
// arrival.
extern "C" __global__ void mbarrier_phases(const uint32_t*, uint32_t* out) {
    __shared__ uint64_t b;
    if (threadIdx.x != 0) {
        return;
    }
    const uint32_t at = shared_at(&b);
    int n = 0;
    const auto parity = [&](uint32_t p) {
        uint32_t r;
        asm volatile(
            "{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, "
            "1, 0, p; }"
            : "=r"(r)
            : "r"(at), "r"(p)
            : "memory");
        out[n++] = r;
    };
    const auto state = [&](uint64_t s) {
        uint32_t r;
        asm volatile(
            "{ .reg .pred p; mbarrier.test_wait.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; "
            "}"
            : "=r"(r)
            : "r"(at), "l"(s)
            : "memory");
        out[n++] = r;
    };
    const auto pending = [&](uint64_t s) {
        uint32_t r;
        asm volatile("mbarrier.pending_count.b64 %0, %1;" : "=r"(r) : "l"(s));
        out[n++] = r;
    };
    uint64_t s1, s2, s3;
    barrier_init(&b, 2);
    parity(1);
    parity(0);
    asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(s1) : "r"(at) : "memory");
    pending(s1);
    state(s1);
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], 64;" ::"r"(at) : "memory");
    asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(s2) : "r"(at) : "memory");
    state(s1);  // arrivals are complete, 64 bytes are not
    asm volatile("mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%0], 64;" ::"r"(at) : "memory");
    state(s1);
    parity(0);
    parity(1);
    asm volatile("mbarrier.arrive_drop.shared::cta.b64 %0, [%1];" : "=l"(s3) : "r"(at) : "memory");
    asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(s3) : "r"(at) : "memory");
    parity(1);
    asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(s3) : "r"(at) : "memory");
    pending(s3);  // one expected arrival is left
    parity(0);
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(at) : "memory");
}

// Global to shared on an mbarrier, then shared to global with a bulk group.
extern "C" __global__ void bulk_round_trip(const uint32_t* in, uint32_t* out) {
    __shared__ __align__(128) uint32_t buffer[256];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        barrier_init(&full, 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        expect(&full, 1024);
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 1024, "
            "[%2];" ::"r"(shared_at(buffer)),
            "l"(in), "r"(shared_at(&full))
            : "memory");
    }
    wait(&full, 0);
    for (int i = threadIdx.x; i < 256; i += 32) {
        buffer[i] += 1;
    }
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 1024;" ::"l"(out),
                     "r"(shared_at(buffer))
                     : "memory");
        commit_and_wait();
    }
}

#define BULK_REDUCE(NAME, OP)                                                     \
    extern "C" __global__ void NAME(const uint32_t* in, uint32_t* out) {          \
        __shared__ __align__(128) uint32_t buffer[64];                            \
        for (int i = threadIdx.x; i < 64; i += 32) {                              \
            out[i] = in[i];                                                       \
            buffer[i] = in[64 + i];                                               \
        }                                                                         \
        __threadfence();                                                          \
        fence_async();                                                            \
        __syncthreads();                                                          \
        if (threadIdx.x == 0) {                                                   \
            asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group." OP \
                         " [%0], [%1], 256;" ::"l"(out),                          \
                         "r"(shared_at(buffer))                                   \
                         : "memory");                                             \
            commit_and_wait();                                                    \
        }                                                                         \
    }
BULK_REDUCE(bulk_reduce_add_u32, "add.u32")
BULK_REDUCE(bulk_reduce_min_s32, "min.s32")
BULK_REDUCE(bulk_reduce_max_u32, "max.u32")
BULK_REDUCE(bulk_reduce_and_b32, "and.b32")
BULK_REDUCE(bulk_reduce_xor_b32, "xor.b32")
BULK_REDUCE(bulk_reduce_add_f32, "add.f32")
BULK_REDUCE(bulk_reduce_add_f16, "add.noftz.f16")
BULK_REDUCE(bulk_reduce_add_bf16, "add.noftz.bf16")

// Each CTA of a pair sends its words to the other: by a bulk copy, by st.async, by
// st.shared::cluster.
extern "C" __global__ void cluster_exchange(const uint32_t* in, uint32_t* out) {
    __shared__ __align__(128) uint32_t mine[32], by_bulk[32], by_async[32], by_store[32];
    __shared__ uint64_t full;
    const uint32_t l = threadIdx.x, r = rank(), peer = r ^ 1;
    if (l == 0) {
        barrier_init(&full, 1);
    }
    mine[l] = in[32 * r + l];
    fence_async();
    cluster_sync();
    if (l == 0) {
        expect(&full, 256);
        asm volatile(
            "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], "
            "128, [%2];" ::"r"(map_to(shared_at(by_bulk), peer)),
            "r"(shared_at(mine)), "r"(map_to(shared_at(&full), peer))
            : "memory");
    }
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(
            map_to(shared_at(by_async + l), peer)),
        "r"(mine[l] ^ 1), "r"(map_to(shared_at(&full), peer))
        : "memory");
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(map_to(shared_at(by_store + l), peer)),
                 "r"(mine[l] ^ 2)
                 : "memory");
    wait(&full, 0);
    cluster_sync();
    uint32_t* to = out + 128 * r;
    to[l] = by_bulk[l];
    to[32 + l] = by_async[l];
    to[64 + l] = by_store[l];
    uint32_t v;
    asm volatile("ld.shared::cluster.u32 %0, [%1];"
                 : "=r"(v)
                 : "r"(map_to(shared_at(mine + l), peer))
                 : "memory");
    to[96 + l] = v;
    cluster_sync();
}

// Arrivals on a barrier of another CTA.
extern "C" __global__ void remote_arrive(const uint32_t* in, uint32_t* out) {
    __shared__ uint64_t b;
    __shared__ uint32_t word;
    const uint32_t l = threadIdx.x, r = rank();
    if (l == 0) {
        barrier_init(&b, 32);
    }
    cluster_sync();
    if (r == 1) {
        if (l == 0) {
            asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(map_to(shared_at(&word), 0)),
                         "r"(in[0])
                         : "memory");
        }
        __syncwarp();
        asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(
                         map_to(shared_at(&b), 0))
                     : "memory");
    } else {
        wait(&b, 0);
        out[l] = word;
    }
    cluster_sync();
}

// cp.async.mbarrier.arrive.noinc: the barrier counts each lane once its copies have landed.
extern "C" __global__ void cp_async_arrive(const uint32_t* in, uint32_t* out) {
    __shared__ __align__(16) uint32_t buffer[32];
    __shared__ uint64_t b;
    const uint32_t l = threadIdx.x;
    if (l == 0) {
        barrier_init(&b, 32);
    }
    __syncthreads();
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_at(buffer + l)),
                 "l"(in + l)
                 : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_at(&b))
                 : "memory");
    wait(&b, 0);
    out[l] = buffer[31 - l];
}
