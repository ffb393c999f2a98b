// SPDX-License-Identifier: BSD-3-Clause
// Tensor copies of sm_90; PTX ISA, "cp.async.bulk.tensor". Coordinates run from the contiguous
// dimension outwards.
#pragma once

#include <cuda.h>

#include <cuda/ptx>

#include "arch/base.cuh"

namespace limelight {

// Global to shared memory; elements outside the tensor become zeros, all bytes of the box count on
// the barrier.
LIMELIGHT_DEVICE void tma_load_4d(void* smem, const CUtensorMap& map, int x, int y, int z, int w,
                                  uint64_t& barrier) {
    const int32_t at[4] = {x, y, z, w};
    cuda::ptx::cp_async_bulk_tensor(cuda::ptx::space_cluster, cuda::ptx::space_global, smem, &map,
                                    at, &barrier);
}

// Shared to global memory in this thread's bulk group; elements outside the tensor are skipped.
LIMELIGHT_DEVICE void tma_store_4d(const CUtensorMap& map, int x, int y, int z, int w,
                                   const void* smem) {
    const int32_t at[4] = {x, y, z, w};
    cuda::ptx::cp_async_bulk_tensor(cuda::ptx::space_global, cuda::ptx::space_shared, &map, at,
                                    smem);
}

LIMELIGHT_DEVICE void tma_store_commit() {
    cuda::ptx::cp_async_bulk_commit_group();
}

// Returns once this thread's stores have read their shared memory.
LIMELIGHT_DEVICE void tma_store_wait_read() {
    cuda::ptx::cp_async_bulk_wait_group_read(cuda::ptx::n32_t<0>{});
}

LIMELIGHT_DEVICE void prefetch_tensor_map(const CUtensorMap& map) {
    asm volatile("prefetch.tensormap [%0];\n" ::"l"(&map) : "memory");
}

// Makes this thread's earlier ordinary writes to shared memory known to TMA and wgmma.
LIMELIGHT_DEVICE void fence_async_proxy() {
    cuda::ptx::fence_proxy_async(cuda::ptx::space_shared);
}

}  // namespace limelight
