// SPDX-License-Identifier: BSD-3-Clause
// As attention_sm90.cuh, on pages: whatever no row sees is NaN, the table ends with the sequence,
// and entries for pages that a window has passed name a page of NaN. The second argument chooses
// the kernel: 0 for 16 bits, 1 for FP8.
#include <cuda_fp16.h>
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

using namespace limelight;

constexpr int kHeadDim = 64;

struct Shape {
    int seqlen_q;
    int seqlen_k;
    int page_size;
    int window;     // keys before the diagonal; -1 for all
    bool one_page;  // the table names the same page throughout, by a stride of 0
};

template <class T>
struct Traits;
template <>
struct Traits<__half> {
    using Config = sm90::FwdConfig<__half, kHeadDim, kHeadDim, sm90::Scores::kPlain>;
    static constexpr Dtype kDtype = Dtype::kFloat16;
    static constexpr auto kKernel = sm90::sm90_attention_fwd<Config>;
    static __half make(float x) { return __half(x); }
    static float read(__half x) { return float(x); }
    using Out = __half;
};
template <>
struct Traits<uint8_t> {
    using Config = sm90::Fp8Config<kHeadDim, kHeadDim, sm90::Scores::kPlain>;
    static constexpr Dtype kDtype = Dtype::kFloat8E4M3;
    static constexpr auto kKernel = sm90::sm90_attention_fwd_fp8<Config>;
    static uint8_t make(float x) {
        return std::isnan(x) ? 0x7f : __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    }
    static float read(__nv_bfloat16 x) { return float(x); }
    using Out = __nv_bfloat16;
};

template <class T>
bool run(const Shape& s) {
    using Kernel = Traits<T>;
    const int entries = (s.seqlen_k + s.page_size - 1) / s.page_size;
    const int pages = s.one_page ? 1 : entries + 1;  // the last is of no sequence
    const int first_key = s.window < 0 ? 0 : s.seqlen_k - s.seqlen_q - s.window;
    std::vector<int32_t> table(entries);
    const int row = kHeadDim, page = s.page_size * row;
    std::vector<T> q(s.seqlen_q * row), k(pages * page, Kernel::make(NAN)), v = k;
    for (size_t i = 0; i < q.size(); ++i) {
        q[i] = Kernel::make(float(i * 37 % 17) / 17.0f - 0.5f);
    }
    for (int entry = 0; entry < entries; ++entry) {
        const bool passed = (entry + 1) * s.page_size <= first_key;
        const int id = s.one_page ? 0 : passed ? pages - 1 : entries - 1 - entry;
        table[entry] = id;
        for (int key = entry * s.page_size; key < (entry + 1) * s.page_size; ++key) {
            const bool used = !passed && key < s.seqlen_k;
            for (int i = 0; used && i < row; ++i) {
                const int at = id * page + key % s.page_size * row + i;
                k[at] = Kernel::make(float(at * 29 % 13) / 13.0f - 0.5f);
                v[at] = Kernel::make(1.0f);
            }
        }
    }
    auto* const out = device_zeros<typename Kernel::Out>(q.size());
    FwdParams p{};
    p.dtype = Kernel::kDtype;
    p.batch = p.heads_q = p.heads_kv = p.heads_per_kv = 1;
    p.headdim = p.headdim_v = kHeadDim;
    p.seqlen_q = s.seqlen_q;
    p.seqlen_k = entries * s.page_size;
    p.q = on_device(q);
    p.k = on_device(k);
    p.v = on_device(v);
    p.out = out;
    p.q_strides = p.out_strides = {s.seqlen_q * row, row, row};
    p.k_strides = p.v_strides = {s.one_page ? 0 : page, row, row};
    p.total_rows_k = pages * s.page_size;
    p.block_table = on_device(table);
    p.block_table_stride = entries;
    p.page_size = s.page_size;
    p.lse = device_zeros<float>(s.seqlen_q);
    p.lse_batch_stride = p.lse_head_stride = s.seqlen_q;
    p.seqused_k = on_device(std::vector<int>{s.seqlen_k});
    p.softmax_scale = 0.125f;
    p.scale_log2 = 0.125f * 1.4426950408889634f;
    p.window_left = s.window;
    p.window_behind = s.window < 0 ? kMaxSeqlen : s.window;
    p.window_ahead = kMaxSeqlen;
    const Status status =
        sm90::launch_kernel<typename Kernel::Config>(Kernel::kKernel, p, {1, 0}, nullptr);
    if (!status.ok()) {
        std::puts(status.message());
        return false;
    }
    must(cudaDeviceSynchronize());
    // Every weighted mean of ones is one, up to the rounding of the probabilities' sum.
    std::vector<typename Kernel::Out> seen(q.size());
    must(cudaMemcpy(seen.data(), out, seen.size() * sizeof(seen[0]), cudaMemcpyDeviceToHost));
    for (const auto x : seen) {
        if (!(std::fabs(Kernel::read(x) - 1.0f) < 0.01f)) {
            std::puts("wrong numbers");
            return false;
        }
    }
    return true;
}

template <class T>
bool run_all() {
    return run<T>({100, 300, 16, -1, false}) && run<T>({40, 290, 64, 50, false}) &&
           run<T>({5, 84, 64, 3, true});
}

int main(int argc, char** argv) {
    remove_statement<<<1, 1>>>(std::atoi(argv[1]));
    must(cudaDeviceSynchronize());
    if (!(std::atoi(argv[2]) == 0 ? run_all<__half>() : run_all<uint8_t>()) || argc != 3) {
        return 1;
    }
    std::puts("ok");
    return 0;
}
