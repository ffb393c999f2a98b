// SPDX-License-Identifier: BSD-3-Clause
// A block allocates tensor memory. Planted: it ends without giving it back.
#include "fault.h"

__global__ void allocate(int* out) {
    __shared__ uint32_t column;
    asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], 64;" ::"r"(
                     shared_of(&column))
                 : "memory");
    asm volatile("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;" ::: "memory");
    __syncthreads();
    if (!PLANTED) {
        asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, 64;" ::"r"(column)
                     : "memory");
    }
    out[threadIdx.x] = 7;
}

int main() {
    int* out = device_zeros<int>(32);
    allocate<<<1, 32>>>(out);
    return compare(out, std::vector<int>(32, 7));
}
