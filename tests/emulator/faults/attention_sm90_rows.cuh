// SPDX-License-Identifier: BSD-3-Clause
// The sm90 forward kernel and the combine kernel with heads that share a tile, keys in splits, a
// causal edge and a sink, beside attention by its definition. The test puts wrong expressions
// behind wrong(N) into the sources; the program's argument chooses one.
#include <cuda_fp16.h>

#include <cmath>

#include "fault.h"

__device__ int wrong_on_device = -1;
static int wrong_on_host = -1;
__host__ __device__ inline bool wrong(int number) {
#ifdef __CUDA_ARCH__
    return wrong_on_device == number;
#else
    return wrong_on_host == number;
#endif
}
__global__ void choose_wrong(int number) {
    wrong_on_device = number;
}

#include "decode/combine.cu"
#include "host/tensor_map.cpp"
#include "sm90/combine_splits.h"
#include "sm90/launch.cuh"

constexpr int kHeads = 4;  // of one kv head, all in one tile
constexpr int kHeadDim = 64;
constexpr int kSeqlenQ = 60;
constexpr int kSeqlenK = 400;
constexpr float kScale = 0.125f;
constexpr float kSinks[kHeads] = {-1.0f, 3.0f, 1.0f, 6.0f};

struct Call {
    std::vector<__half> q, k, v;
};

// Out of one row of q, and its lse in the last place.
std::vector<double> expected(const Call& call, int row, int head) {
    const int visible = row + kSeqlenK - kSeqlenQ + 1;
    std::vector<double> weights(visible);
    double sum = std::exp(double{kSinks[head]});
    for (int key = 0; key < visible; ++key) {
        double score = 0.0;
        for (int d = 0; d < kHeadDim; ++d) {
            score += double(float(call.q[(row * kHeads + head) * kHeadDim + d])) *
                     double(float(call.k[key * kHeadDim + d]));
        }
        sum += weights[key] = std::exp(score * kScale);
    }
    std::vector<double> out(kHeadDim + 1);
    for (int d = 0; d < kHeadDim; ++d) {
        for (int key = 0; key < visible; ++key) {
            out[d] += weights[key] / sum * double(float(call.v[key * kHeadDim + d]));
        }
    }
    out[kHeadDim] = std::log(sum);
    return out;
}

// Whether a call in so many splits gives the expected numbers.
bool run(const Call& call, int splits) {
    using namespace limelight;
    const int rows = kSeqlenQ * kHeads;
    FwdParams p{};
    p.dtype = Dtype::kFloat16;
    p.batch = p.heads_kv = 1;
    p.heads_q = p.heads_per_kv = kHeads;
    p.headdim = p.headdim_v = kHeadDim;
    p.seqlen_q = kSeqlenQ;
    p.seqlen_k = kSeqlenK;
    p.q = on_device(call.q);
    p.k = on_device(call.k);
    p.v = on_device(call.v);
    __half* const out = device_zeros<__half>(rows * kHeadDim);
    p.out = out;
    p.q_strides = p.out_strides = {rows * kHeadDim, kHeads * kHeadDim, kHeadDim};
    p.k_strides = p.v_strides = {kSeqlenK * kHeadDim, kHeadDim, kHeadDim};
    p.lse = device_zeros<float>(rows);
    p.lse_batch_stride = rows;
    p.lse_head_stride = kSeqlenQ;
    p.sink = on_device(std::vector<float>(kSinks, kSinks + kHeads));
    p.causal = true;
    p.window_right = 0;
    p.window_behind = kMaxSeqlen;
    p.softmax_scale = kScale;
    p.scale_log2 = kScale * 1.4426950408889634f;
    // Where nothing is written there is NaN.
    const auto bytes = static_cast<size_t>(splits * sm90::SplitLayout(p, kHeadDim).bytes());
    p.split_workspace = on_device(std::vector<float>(bytes / sizeof(float), NAN));
    p.split_workspace_bytes = bytes;

    using Config = sm90::FwdConfig<__half, kHeadDim, kHeadDim, sm90::Scores::kPlain>;
    Status status = sm90::launch_config<Config>(p, {2, 2, splits}, nullptr);
    if (status.ok() && splits > 1) {
        status = decode::launch_combine(sm90::combine_call(p, kHeadDim, splits), nullptr);
    }
    if (!status.ok()) {
        std::puts(status.message());
        return false;
    }
    must(cudaDeviceSynchronize());
    std::vector<__half> seen(rows * kHeadDim);
    std::vector<float> lse(rows);
    must(cudaMemcpy(seen.data(), out, seen.size() * sizeof(__half), cudaMemcpyDeviceToHost));
    must(cudaMemcpy(lse.data(), p.lse, lse.size() * sizeof(float), cudaMemcpyDeviceToHost));
    for (int row = 0; row < kSeqlenQ; ++row) {
        for (int head = 0; head < kHeads; ++head) {
            const std::vector<double> want = expected(call, row, head);
            bool right = std::fabs(lse[head * kSeqlenQ + row] - want[kHeadDim]) < 1e-4;
            for (int d = 0; d < kHeadDim; ++d) {
                const double is = float(seen[(row * kHeads + head) * kHeadDim + d]);
                right = right && std::fabs(is - want[d]) < 4e-3;  // 2^-9 of values up to 2
            }
            if (!right) {
                std::printf("wrong numbers: row %d head %d, %d splits\n", row, head, splits);
                return false;
            }
        }
    }
    return true;
}

int main(int argc, char** argv) {
    if (argc > 1) {
        wrong_on_host = std::atoi(argv[1]);
        choose_wrong<<<1, 1>>>(wrong_on_host);
        must(cudaDeviceSynchronize());
    }
    const auto draw = [](int count, int step) {
        std::vector<__half> x(count);
        for (int i = 0; i < count; ++i) {
            x[i] = __half(float(int64_t{i} * step % 101) / 25.0f - 2.0f);
        }
        return x;
    };
    const Call call{draw(kSeqlenQ * kHeads * kHeadDim, 37), draw(kSeqlenK * kHeadDim, 53),
                    draw(kSeqlenK * kHeadDim, 29)};
    if (!run(call, 1) || !run(call, 3)) {
        return 1;
    }
    std::puts("ok");
    return 0;
}
