// SPDX-License-Identifier: BSD-3-Clause
// Launches a flat GEMM whose thread blocks share tiles and cross from tile to tile, and a GEMV
// whose thread blocks share tiles; the test removes synchronisation from the kernels' source.
#include <cuda_fp16.h>

#include "fault.h"
#include "gemm/flat.cuh"
#include "gemm/gemv.cuh"

constexpr int kM = 3, kN = 300, kK = 6 * 64;

int check(const __half* out) {
    std::vector<__half> seen(kM * kN);
    must(cudaDeviceSynchronize());
    must(cudaMemcpy(seen.data(), out, seen.size() * sizeof(__half), cudaMemcpyDeviceToHost));
    for (const __half x : seen) {
        if (float(x) != kK * 0.5f) {
            std::puts("wrong numbers");
            return 1;
        }
    }
    return 0;
}

int main() {
    using namespace limelight;
    using namespace limelight::gemm;
    using Config = FlatConfig<__half, WeightFormat::k16Bit, 16>;
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
    p.k_blocks = kK / Config::kBlockK;
    p.tickets = device_zeros<uint32_t>(kGemmTickets);
    p.workspace = device_zeros<float>(64 * kFlatRows * 16);

    p.tiles = (kN + kFlatRows - 1) / kFlatRows;
    const auto flat = sm80_flat_gemm<Config>;
    constexpr int kSmem = sizeof(typename Config::Smem);
    must(cudaFuncSetAttribute(flat, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmem));
    for (const int blocks : {3, 4}) {  // a tile each, and shared tiles
        p.blocks = blocks;
        flat<<<p.blocks, Config::kThreads, kSmem>>>(p);
        if (check(out) != 0) {
            return 1;
        }
    }

    p.tiles = (kN + kGemvRows - 1) / kGemvRows;
    p.pieces = 2;
    p.blocks = 2 * p.tiles;
    sm80_gemv<SpanConfig<__half, WeightFormat::k16Bit>><<<p.blocks, kGemvWarps * 32>>>(p);
    if (check(out) != 0) {
        return 1;
    }
    std::puts("ok");
    return 0;
}
