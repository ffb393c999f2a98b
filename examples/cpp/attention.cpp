// SPDX-License-Identifier: BSD-3-Clause
// One causal attention call from C++, checked against the plain formula on the host.
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "limelight/limelight.h"

namespace {

constexpr int kBatch = 2, kSeqlen = 77, kHeads = 4, kHeadsKv = 2, kHeaddim = 64;

float from_bfloat16(uint16_t bits) {
    const uint32_t wide = uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &wide, sizeof(value));
    return value;
}

/// Numbers between -1 and 1 that bfloat16 holds exactly.
std::vector<uint16_t> numbers(int count, uint32_t seed) {
    std::vector<uint16_t> bits(count);
    for (auto& value : bits) {
        seed = seed * 1664525u + 1013904223u;
        const float exact = (int(seed >> 24) - 128) / 128.0f;
        uint32_t wide;
        std::memcpy(&wide, &exact, sizeof(wide));
        value = uint16_t(wide >> 16);
    }
    return bits;
}

void* on_device(const std::vector<uint16_t>& values) {
    void* pointer = nullptr;
    if (cudaMalloc(&pointer, values.size() * 2) != cudaSuccess ||
        cudaMemcpy(pointer, values.data(), values.size() * 2, cudaMemcpyHostToDevice) !=
            cudaSuccess) {
        return nullptr;
    }
    return pointer;
}

/// Largest error over the output, each as a share of its bound: two roundings of the result and one
/// of each probability to bfloat16 (2^-8), and fp32 sums (1e-5).
double worst_share_of_bound(const std::vector<uint16_t>& q, const std::vector<uint16_t>& k,
                            const std::vector<uint16_t>& v, const std::vector<uint16_t>& out) {
    const auto at = [](const std::vector<uint16_t>& x, int heads, int b, int s, int h, int d) {
        return double(from_bfloat16(x[((b * kSeqlen + s) * heads + h) * kHeaddim + d]));
    };
    double worst = 0;
    for (int b = 0; b < kBatch; ++b) {
        for (int h = 0; h < kHeads; ++h) {
            const int h_kv = h / (kHeads / kHeadsKv);
            for (int i = 0; i < kSeqlen; ++i) {
                std::vector<double> p(i + 1);
                double sum = 0;
                for (int j = 0; j <= i; ++j) {
                    double dot = 0;
                    for (int d = 0; d < kHeaddim; ++d) {
                        dot += at(q, kHeads, b, i, h, d) * at(k, kHeadsKv, b, j, h_kv, d);
                    }
                    sum += p[j] = std::exp(dot / std::sqrt(double(kHeaddim)));
                }
                for (int d = 0; d < kHeaddim; ++d) {
                    double exact = 0, magnitude = 0;
                    for (int j = 0; j <= i; ++j) {
                        const double term = p[j] / sum * at(v, kHeadsKv, b, j, h_kv, d);
                        exact += term;
                        magnitude += std::abs(term);
                    }
                    const double bound = 0x1p-8 * (2 * std::abs(exact) + magnitude) + 1e-5;
                    const double share = std::abs(at(out, kHeads, b, i, h, d) - exact) / bound;
                    worst = share >= worst || std::isnan(share) ? share : worst;
                }
            }
        }
    }
    return worst;
}

}  // namespace

int main() {
    std::printf("limelight %s for %s\n", limelight::version(), limelight::build_architectures());
    if (const limelight::Status status = limelight::check_device(); !status.ok()) {
        std::fprintf(stderr, "no usable GPU: %s\n", status.message());
        return 2;
    }
    const auto q = numbers(kBatch * kSeqlen * kHeads * kHeaddim, 1);
    const auto k = numbers(kBatch * kSeqlen * kHeadsKv * kHeaddim, 2);
    const auto v = numbers(kBatch * kSeqlen * kHeadsKv * kHeaddim, 3);
    std::vector<uint16_t> out(q.size(), 0x7fff);  // NaN, so that a value nobody writes is seen

    limelight::AttentionParams params;
    params.dtype = limelight::Dtype::kBFloat16;
    params.batch = kBatch;
    params.heads_q = kHeads;
    params.heads_kv = kHeadsKv;
    params.headdim = params.headdim_v = kHeaddim;
    params.seqlen_q = params.seqlen_k = kSeqlen;
    params.q = on_device(q);
    params.k = on_device(k);
    params.v = on_device(v);
    params.out = on_device(out);
    params.q_strides =
        params.out_strides = {kSeqlen * kHeads * kHeaddim, kHeads * kHeaddim, kHeaddim};
    params.k_strides =
        params.v_strides = {kSeqlen * kHeadsKv * kHeaddim, kHeadsKv * kHeaddim, kHeaddim};
    void* lse = nullptr;
    if (cudaMalloc(&lse, sizeof(float) * kBatch * kHeads * kSeqlen) != cudaSuccess || !params.q ||
        !params.k || !params.v || !params.out) {
        std::fprintf(stderr, "out of device memory\n");
        return 1;
    }
    params.lse = static_cast<float*>(lse);
    params.lse_batch_stride = kHeads * kSeqlen;
    params.lse_head_stride = kSeqlen;
    params.softmax_scale = 1.0f / std::sqrt(float(kHeaddim));
    params.causal = true;
    params.window_right = 0;

    const limelight::Status status = limelight::attention_forward(params, nullptr);
    if (!status.ok()) {
        std::fprintf(stderr, "attention_forward: %s\n", status.message());
        return 1;
    }
    if (const auto error =
            cudaMemcpy(out.data(), params.out, out.size() * 2, cudaMemcpyDeviceToHost)) {
        std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
        return 1;
    }
    const double worst = worst_share_of_bound(q, k, v, out);
    std::printf("largest error: %.2f of its bound: %s\n", worst, worst <= 1 ? "correct" : "WRONG");
    return worst <= 1 ? 0 : 1;
}
