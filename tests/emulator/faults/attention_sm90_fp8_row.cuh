// SPDX-License-Identifier: BSD-3-Clause
// The Hopper FP8 forward kernel on the q, k and v (one head of 64, e4m3) that a file holds one
// after the other: program FILE SEQLEN_Q SEQLEN_K appends the output in bf16.
#include <cuda_fp8.h>

#include "fault.h"
#include "host/tensor_map.cpp"
#include "sm90/launch_fp8.cuh"

int main(int argc, char** argv) {
    using namespace limelight;
    constexpr int kHeadDim = 64;
    using Config = sm90::Fp8Config<kHeadDim, kHeadDim, sm90::Scores::kPlain>;
    if (argc != 4) {
        return 1;
    }
    FILE* file = std::fopen(argv[1], "r+b");
    const int seqlen_q = std::atoi(argv[2]);
    const int seqlen_k = std::atoi(argv[3]);
    const auto tensor = [&](int rows) {
        std::vector<uint8_t> values(static_cast<size_t>(rows) * kHeadDim);
        if (file == nullptr || std::fread(values.data(), 1, values.size(), file) != values.size()) {
            std::exit(1);
        }
        return on_device(values);
    };
    const int count = seqlen_q * kHeadDim;
    __nv_bfloat16* out = device_zeros<__nv_bfloat16>(count);
    FwdParams p{};
    p.dtype = Dtype::kFloat8E4M3;
    p.batch = p.heads_q = p.heads_kv = p.heads_per_kv = 1;
    p.headdim = p.headdim_v = kHeadDim;
    p.seqlen_q = seqlen_q;
    p.seqlen_k = seqlen_k;
    p.q = tensor(seqlen_q);
    p.k = tensor(seqlen_k);
    p.v = tensor(seqlen_k);
    p.out = out;
    p.q_strides = p.out_strides = {count, kHeadDim, kHeadDim};
    p.k_strides = p.v_strides = {seqlen_k * kHeadDim, kHeadDim, kHeadDim};
    p.lse = device_zeros<float>(seqlen_q);
    p.lse_batch_stride = p.lse_head_stride = seqlen_q;
    p.softmax_scale = 0.125f;
    p.scale_log2 = 0.125f * 1.4426950408889634f;
    p.window_behind = p.window_ahead = kMaxSeqlen;
    const Status status =
        sm90::launch_kernel<Config>(sm90::sm90_attention_fwd_fp8<Config>, p, {1, 0}, nullptr);
    if (!status.ok()) {
        std::puts(status.message());
        return 1;
    }
    must(cudaDeviceSynchronize());
    std::vector<__nv_bfloat16> seen(count);
    must(cudaMemcpy(seen.data(), out, count * sizeof(__nv_bfloat16), cudaMemcpyDeviceToHost));
    std::fseek(file, 0, SEEK_END);
    std::fwrite(seen.data(), sizeof(__nv_bfloat16), seen.size(), file);
    std::fclose(file);
    std::puts("ok");
    return 0;
}
