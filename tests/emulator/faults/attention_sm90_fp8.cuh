// SPDX-License-Identifier: BSD-3-Clause
// As attention_sm90.cuh, for the FP8 kernel: V turned by the producer's warps, keys past the end
// that are NaN.
#include <cuda_fp8.h>

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
#include "sm90/launch_fp8.cuh"

template <int kHeadDim>
bool run(int seqlen) {
    using namespace limelight;
    using Config = sm90::Fp8Config<kHeadDim, kHeadDim, sm90::Scores::kPlain>;
    const int count = seqlen * kHeadDim;
    const int used = seqlen - 30;
    std::vector<uint8_t> values(count), places(count);
    for (int i = 0; i < count; ++i) {
        values[i] =
            __nv_cvt_float_to_fp8(float(i * 37 % 17) / 17.0f - 0.5f, __NV_SATFINITE, __NV_E4M3);
        // Column c of V is 1 + c % 8 / 8 in every row: so is every mean of its rows.
        places[i] = i / kHeadDim < used ? 0x38 + i % 8 : 0x7f;
    }
    __nv_bfloat16* out = device_zeros<__nv_bfloat16>(count);
    FwdParams p{};
    p.dtype = Dtype::kFloat8E4M3;
    p.batch = p.heads_q = p.heads_kv = p.heads_per_kv = 1;
    p.headdim = p.headdim_v = kHeadDim;
    p.seqlen_q = p.seqlen_k = seqlen;
    p.q = on_device(values);
    p.k = on_device(values);
    p.v = on_device(places);
    p.out = out;
    p.q_strides = p.k_strides = p.v_strides = p.out_strides = {count, kHeadDim, kHeadDim};
    p.lse = device_zeros<float>(seqlen);
    p.lse_batch_stride = p.lse_head_stride = seqlen;
    p.seqused_k = on_device(std::vector<int>{used});
    p.softmax_scale = 0.125f;
    p.scale_log2 = 0.125f * 1.4426950408889634f;
    p.window_behind = p.window_ahead = kMaxSeqlen;
    const Status status =
        sm90::launch_kernel<Config>(sm90::sm90_attention_fwd_fp8<Config>, p, {1, 0}, nullptr);
    if (!status.ok()) {
        std::puts(status.message());
        return false;
    }
    must(cudaDeviceSynchronize());
    std::vector<__nv_bfloat16> seen(count);
    must(cudaMemcpy(seen.data(), out, count * sizeof(__nv_bfloat16), cudaMemcpyDeviceToHost));
    for (int i = 0; i < count; ++i) {
        const float want = 1.0f + float(i % 8) / 8.0f;
        if (!(std::fabs(float(seen[i]) - want) < 0.01f)) {
            std::printf("wrong numbers: row %d column %d %g\n", i / kHeadDim, i % kHeadDim,
                        float(seen[i]));
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
    // Output in one part under the next scores, and in four parts by itself.
    if (!run<64>(450) || !run<256>(260)) {
        return 1;
    }
    std::puts("ok");
    return 0;
}
