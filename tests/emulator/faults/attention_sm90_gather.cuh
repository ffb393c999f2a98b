// SPDX-License-Identifier: BSD-3-Clause
// As attention_sm90.cuh, with keys in pages that the producer warps gather: pages in any order,
// rows past the end that are NaN, stale entries of the table behind it.
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

template <int kHeadDim, int kHeadDimV>
bool run(int seqlen_q, int seqlen_k, int page_size) {
    using namespace limelight;
    using Config = sm90::FwdConfig<__half, kHeadDim, kHeadDimV, sm90::Scores::kPlain>;
    const int pages = (seqlen_k + page_size - 1) / page_size;
    const int rows = (pages + 1) * page_size;
    std::vector<__half> q(seqlen_q * kHeadDim), k(rows * kHeadDim), v(rows * kHeadDimV);
    for (size_t i = 0; i < q.size(); ++i) {
        q[i] = __half(float(i * 37 % 17) / 17.0f - 0.5f);
    }
    // Page p of the sequence lies at pages - p; stale entries name a page of NaN.
    std::vector<int> table(pages + 300, 0);
    for (int row = 0; row < rows; ++row) {
        const int page = row / page_size;
        table[page] = pages - page;
        const int place = table[page] * page_size + row % page_size;
        const bool used = row < seqlen_k;
        for (int i = 0; i < kHeadDim; ++i) {
            k[place * kHeadDim + i] = __half(used ? float((row + i) * 29 % 13) / 13.0f : NAN);
        }
        for (int i = 0; i < kHeadDimV; ++i) {
            v[place * kHeadDimV + i] = __half(used ? 1.0f : NAN);
        }
    }
    const int count = seqlen_q * kHeadDimV;
    __half* out = device_zeros<__half>(count);
    FwdParams p{};
    p.dtype = Dtype::kFloat16;
    p.batch = p.heads_q = p.heads_kv = p.heads_per_kv = 1;
    p.headdim = kHeadDim;
    p.headdim_v = kHeadDimV;
    p.seqlen_q = seqlen_q;
    p.seqlen_k = static_cast<int>(table.size()) * page_size;
    p.q = on_device(q);
    p.k = on_device(k);
    p.v = on_device(v);
    p.out = out;
    p.q_strides = {int64_t{seqlen_q} * kHeadDim, kHeadDim, kHeadDim};
    p.k_strides = {int64_t{page_size} * kHeadDim, kHeadDim, kHeadDim};
    p.v_strides = {int64_t{page_size} * kHeadDimV, kHeadDimV, kHeadDimV};
    p.out_strides = {count, kHeadDimV, kHeadDimV};
    p.total_rows_k = rows;
    p.block_table = on_device(table);
    p.block_table_stride = static_cast<int64_t>(table.size());
    p.page_size = page_size;
    p.lse = device_zeros<float>(seqlen_q);
    p.lse_batch_stride = p.lse_head_stride = seqlen_q;
    p.seqused_k = on_device(std::vector<int>{seqlen_k});
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
    // Rows of 128 and of 64 bytes, several tiles and blocks; then K and V of different widths.
    if (!run<64, 64>(450, 430, 3) || !run<96, 96>(200, 240, 1) || !run<192, 128>(130, 230, 20)) {
        return 1;
    }
    std::puts("ok");
    return 0;
}
