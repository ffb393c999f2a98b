// SPDX-License-Identifier: BSD-3-Clause
// Launches the sm90 forward kernel itself: one thread block, several ragged tiles, V rows past the
// end that are NaN. The test puts `if (removed() != N)` before each synchronisation of the kernel's
// source; the program's argument chooses the one to leave out.
#include <cuda_fp16.h>

#include <cmath>

#include "fault.h"

__device__ int removed_statement = -1;
__device__ inline int removed() {
    return removed_statement;
}
__global__ void remove_statement(int number) {
    removed_statement = number;
}

#include "host/tensor_map.cpp"
#include "sm90/launch.cuh"

// One sequence whose last keys are unused, or as many packed sequences as `packed` says.
template <int kHeadDim>
bool run(int seqlen, int unused, int packed = 0) {
    using namespace limelight;
    using Config = sm90::FwdConfig<__half, kHeadDim, kHeadDim, sm90::Scores::kPlain>;
    const int count = seqlen * kHeadDim;
    const int used = seqlen - unused;
    std::vector<__half> values(count), ones(count, __half(1.0f));
    for (int i = 0; i < count; ++i) {
        values[i] = __half(float(i * 37 % 17) / 17.0f - 0.5f);
    }
    for (int i = used * kHeadDim; i < count; ++i) {
        ones[i] = __half(NAN);
    }
    __half* out = device_zeros<__half>(count);
    FwdParams p{};
    p.dtype = Dtype::kFloat16;
    p.batch = p.heads_q = p.heads_kv = p.heads_per_kv = 1;
    p.headdim = p.headdim_v = kHeadDim;
    p.seqlen_q = p.seqlen_k = seqlen;
    p.q = on_device(values);
    p.k = on_device(values);
    p.v = on_device(ones);
    p.out = out;
    p.q_strides = p.k_strides = p.v_strides = p.out_strides = {count, kHeadDim, kHeadDim};
    p.lse = device_zeros<float>(seqlen);
    p.lse_batch_stride = p.lse_head_stride = seqlen;
    p.seqused_k = unused > 0 ? on_device(std::vector<int>{used}) : nullptr;
    if (packed > 0) {
        std::vector<int> begins(packed + 1);
        for (int i = 0; i <= packed; ++i) {
            begins[i] = seqlen * i / packed;
        }
        p.batch = packed;
        p.seqlen_q = p.seqlen_k = begins[1];
        p.cu_seqlens_q = p.cu_seqlens_k = on_device(begins);
        p.total_rows_q = p.total_rows_k = seqlen;
    }
    p.softmax_scale = 0.125f;
    p.scale_log2 = 0.125f * 1.4426950408889634f;
    p.window_behind = p.window_ahead = kMaxSeqlen;
    const Status status = sm90::launch_config<Config>(p, {1, 0}, nullptr);
    if (!status.ok()) {
        std::puts(status.message());
        return false;
    }
    must(cudaDeviceSynchronize());
    // Every weighted mean of ones is one, up to the rounding of the probabilities' sum.
    std::vector<__half> seen(count);
    must(cudaMemcpy(seen.data(), out, count * sizeof(__half), cudaMemcpyDeviceToHost));
    for (const __half x : seen) {
        if (!(float(x) > 0.99f && float(x) < 1.01f)) {
            std::puts("wrong numbers");
            return false;
        }
    }
    return true;
}

int main(int argc, char** argv) {
    if (argc > 1) {
        remove_statement<<<1, 1>>>(std::atoi(argv[1]));
        must(cudaDeviceSynchronize());
    }
    // 192-row tiles whose O has memory of its own, with and without tails of V to clear, and
    // 128-row tiles whose O takes the place of Q, from where TMA or, at the end of a packed
    // sequence, the threads store it.
    if (!run<64>(450, 30) || !run<64>(150, 0) || !run<256>(260, 30) || !run<256>(200, 0, 2)) {
        return 1;
    }
    std::puts("ok");
    return 0;
}
