// SPDX-License-Identifier: BSD-3-Clause
// Launches the Hopper flat GEMM: tiles of one thread block and shared ones, more units than slots.
// The test puts `if (removed() != N)` before each synchronisation of the kernel's source; the
// program's argument chooses the one to leave out.
#include <cuda_fp16.h>

#include "fault.h"

__device__ int removed_statement = -1;
__device__ inline int removed() {
    return removed_statement;
}
__global__ void remove_statement(int number) {
    removed_statement = number;
}

#include "gemm/gemm_sm90.cu"
#include "host/tensor_map.cpp"

// What the partition counts on: every kernel leaves room for a second thread block.
template <int kMaxRows>
bool two_fit() {
    using Config = limelight::gemm::FlatSm90Config<__half, kMaxRows>;
    constexpr size_t kBytes = sizeof(typename Config::Smem);
    const auto kernel = limelight::gemm::sm90_flat_gemm<Config>;
    must(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int{kBytes}));
    int blocks = 0;
    must(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, Config::kThreads, kBytes));
    return blocks == 2;
}

int main(int argc, char** argv) {
    using namespace limelight;
    using namespace limelight::gemm;
    if (!two_fit<16>() || !two_fit<64>() || !two_fit<128>()) {
        std::puts("two thread blocks do not fit a multiprocessor");
        return 1;
    }
    constexpr int kM = 3, kN = 300, kK = 14 * 64;
    if (argc > 1) {
        remove_statement<<<1, 1>>>(std::atoi(argv[1]));
        must(cudaDeviceSynchronize());
    }
    __half* const out = device_zeros<__half>(kM * kN);
    GemmParams p{};
    p.dtype = p.out_dtype = Dtype::kFloat16;
    p.m = kM;
    p.n = kN;
    p.k = kK;
    p.x = on_device(std::vector<__half>(kM * kK, __half(0.5f)));
    p.weight = on_device(std::vector<__half>(kN * kK, __half(1.0f)));
    p.x_row_stride = p.weight_row_stride = kK;
    p.out = out;
    p.out_row_stride = kN;
    p.k_blocks = kK / kSm90BlockK;
    p.tickets = device_zeros<uint32_t>(kGemmTickets);
    p.workspace = device_zeros<float>(64 * kFlatRows * 16);
    p.tiles = (kN + kFlatRows - 1) / kFlatRows;
    for (const int blocks : {3, 4}) {
        p.blocks = blocks;
        const Status status = launch_flat_sm90(p, nullptr);
        if (!status.ok()) {
            std::puts(status.message());
            return 1;
        }
        must(cudaDeviceSynchronize());
        std::vector<__half> seen(kM * kN);
        must(cudaMemcpy(seen.data(), out, seen.size() * sizeof(__half), cudaMemcpyDeviceToHost));
        for (const __half x : seen) {
            if (float(x) != kK * 0.5f) {
                std::puts("wrong numbers");
                return 1;
            }
        }
    }
    std::puts("ok");
    return 0;
}
