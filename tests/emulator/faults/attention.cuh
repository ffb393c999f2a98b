// SPDX-License-Identifier: BSD-3-Clause
// Launches the sm80 forward kernel itself on one ragged head; the test removes synchronisation from
// the kernel's source.
#include <cuda_fp16.h>

#include "fault.h"
#include "sm80/fwd.cuh"

int main() {
    using namespace limelight;
    using Config = sm80::FwdConfig<__half, 64, sm80::Scores::kPlain, sm80::Tiles::kLarge>;
    constexpr int kSeqlen = 300, kHeadDim = 64, kCount = kSeqlen * kHeadDim;
    std::vector<__half> values(kCount), ones(kCount, __half(1.0f));
    for (int i = 0; i < kCount; ++i) {
        values[i] = __half(float(i * 37 % 17) / 17.0f - 0.5f);
    }
    __half* out = device_zeros<__half>(kCount);
    FwdParams p{};
    p.dtype = Dtype::kFloat16;
    p.batch = p.heads_q = p.heads_kv = p.heads_per_kv = 1;
    p.headdim = p.headdim_v = kHeadDim;
    p.seqlen_q = p.seqlen_k = kSeqlen;
    p.q = on_device(values);
    p.k = on_device(values);
    p.v = on_device(ones);
    p.out = out;
    p.q_strides = p.k_strides = p.v_strides = p.out_strides = {kCount, kHeadDim, kHeadDim};
    p.lse = device_zeros<float>(kSeqlen);
    p.lse_batch_stride = p.lse_head_stride = kSeqlen;
    p.softmax_scale = 0.125f;
    p.scale_log2 = 0.125f * 1.4426950408889634f;
    p.window_behind = p.window_ahead = kMaxSeqlen;
    p.num_q_blocks = (kSeqlen + Config::kBlockQ - 1) / Config::kBlockQ;
    const auto kernel = sm80::sm80_attention_fwd<Config>;
    constexpr int kSmem = sizeof(typename Config::Smem);
    must(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmem));
    kernel<<<p.num_q_blocks, Config::kThreads, kSmem>>>(p);
    // V is all ones, and so is every weighted mean of it, up to the rounding of the probabilities'
    // sum.
    must(cudaDeviceSynchronize());
    std::vector<__half> seen(kCount);
    must(cudaMemcpy(seen.data(), out, kCount * sizeof(__half), cudaMemcpyDeviceToHost));
    for (const __half x : seen) {
        if (!(float(x) > 0.99f && float(x) < 1.01f)) {
            std::puts("wrong numbers");
            return 1;
        }
    }
    std::puts("ok");
    return 0;
}
