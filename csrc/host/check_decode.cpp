// SPDX-License-Identifier: BSD-3-Clause
#include <cmath>
#include <initializer_list>

#include "host/check.h"
#include "sm80/mla_tiles.h"

namespace limelight {

namespace {

constexpr auto kInvalid = Status::Code::kInvalidArgument;
constexpr auto kUnsupported = Status::Code::kUnsupported;
constexpr int kVectorBytes = 16;  // one cp.async

// `elements`: how many of them 16 bytes hold.
Status check_layout(const char* name, const void* pointer, const TensorStrides& strides,
                    bool has_batch, int elements) {
    if (reinterpret_cast<uintptr_t>(pointer) % kVectorBytes != 0) {
        return Status::error(kUnsupported,
                             "%s: address %p is not 16-byte aligned; pass a contiguous copy", name,
                             pointer);
    }
    const struct {
        const char* dimension;
        int64_t stride;
        bool used;
    } all[] = {{"batch (page)", strides.batch, has_batch},
               {"row", strides.row, true},
               {"head", strides.head, true}};
    for (const auto& [dimension, stride, used] : all) {
        if (used && stride % elements != 0) {
            return Status::error(kUnsupported,
                                 "%s: %s stride is %lld elements; the decode kernel needs "
                                 "multiples of %d: pass a contiguous copy",
                                 name, dimension, static_cast<long long>(stride), elements);
        }
    }
    return {};
}

Status check_places(const DecodeParams& p) {
    const bool paged = p.block_table != nullptr;
    if (paged && p.page_size < 1) {
        return Status::error(kInvalid, "page_size is %d, allowed: 1 or more", p.page_size);
    }
    if (p.cache_batch_idx != nullptr && (paged || p.cu_seqlens_k != nullptr)) {
        return Status::error(kInvalid,
                             "cache_batch_idx names rows of dense k and v; %s has none: leave one "
                             "of them out",
                             paged ? "block_table" : "cu_seqlens_k");
    }
    return {};
}

// Above headdim 256 the rows of k hold v too.
Status check_shared_rows(const DecodeParams& p) {
    if (p.headdim <= 256) {
        return {};
    }
    const bool dense = p.cu_seqlens_k == nullptr || p.block_table != nullptr;
    const TensorStrides& k = p.k_strides;
    const TensorStrides& v = p.v_strides;
    if (p.k != p.v || k.row != v.row || (p.heads_kv > 1 && k.head != v.head) ||
        (dense && k.batch != v.batch) || p.headdim_v > p.headdim) {
        return Status::error(kUnsupported,
                             "v: with headdim %d (above 256) the decode kernel reads keys and "
                             "values from the same rows: v must be the first headdim_v columns "
                             "of k, k[..., :headdim_v]",
                             p.headdim);
    }
    return {};
}

}  // namespace

Status check_decode_options(const DecodeParams& p) {
    if (const Status status = check_extents(p); !status.ok()) {
        return status;
    }
    const struct {
        const char* name;
        bool present;
    } lacking[] = {
        {"bias", p.bias != nullptr},
        {"dropout_p", p.dropout_p > 0.0},
        {"q_descale", p.q_descale != nullptr},
    };
    for (const auto& [name, present] : lacking) {
        if (present) {
            return Status::error(kUnsupported, "%s: the decode kernels do not compute it", name);
        }
    }
    if (p.dtype != Dtype::kFloat16 && p.dtype != Dtype::kBFloat16) {
        return Status::error(kUnsupported,
                             "dtype of q: the decode kernels take float16 and bfloat16");
    }
    const bool fp8 = p.kv_dtype == Dtype::kFloat8E4M3;
    if (!fp8 && p.kv_dtype != p.dtype) {
        return Status::error(kUnsupported,
                             "dtype of k and v: the decode kernels take that of q or float8_e4m3");
    }
    if (!fp8 && (p.k_descale != nullptr || p.v_descale != nullptr)) {
        return Status::error(kUnsupported, "k_descale, v_descale: for float8 k and v only");
    }
    const int multiple = fp8 ? 16 : 8;
    const struct {
        const char* name;
        int32_t value;
        int32_t most;
    } headdims[] = {{"headdim", p.headdim, fp8 ? 256 : sm80::kMlaHeadDim},
                    {"headdim_v", p.headdim_v, p.headdim <= 256 ? 256 : sm80::kMlaHeadDimV}};
    for (const auto& [name, value, most] : headdims) {
        if (value % multiple != 0 || value > most) {
            return Status::error(kUnsupported,
                                 "%s is %d, allowed: multiples of %d up to %d; pad with zeros",
                                 name, value, multiple, most);
        }
    }
    if (p.tree_mask != nullptr &&
        (p.causal || p.window_left >= 0 || p.window_right >= 0 || p.attention_chunk > 0)) {
        return Status::error(kInvalid,
                             "tree_mask says what new tokens see: causal must be false, "
                             "window_size (-1, -1) and attention_chunk 0");
    }
    if (p.unified_max_on && !std::isfinite(p.unified_max)) {
        return Status::error(kInvalid, "unified_max is %g, allowed: finite numbers", p.unified_max);
    }
    if (p.num_splits < 0) {
        return Status::error(kInvalid, "num_splits is %d, allowed: 0 (the library chooses) or more",
                             p.num_splits);
    }
    const int64_t rows = int64_t{p.seqlen_q} * (p.heads_q / p.heads_kv);
    if (rows > (int64_t{1} << 30)) {
        return Status::error(kUnsupported,
                             "seqlen_q is %d with %d query heads per kv head, allowed: a product "
                             "up to 2^30",
                             p.seqlen_q, p.heads_q / p.heads_kv);
    }
    return {};
}

Status check_decode(const DecodeParams& p) {
    for (const auto check : {check_decode_options, check_places}) {
        if (const Status status = check(p); !status.ok()) {
            return status;
        }
    }
    if (const Status status = check_attention(p); !status.ok()) {
        return status;
    }
    if (const Status status = check_shared_rows(p); !status.ok()) {
        return status;
    }
    const bool dense_q = p.cu_seqlens_q == nullptr;
    const bool dense_k = p.cu_seqlens_k == nullptr || p.block_table != nullptr;
    const int kv_elements = p.kv_dtype == Dtype::kFloat8E4M3 ? 16 : 8;
    const struct {
        const char* name;
        const void* pointer;
        const TensorStrides& strides;
        bool has_batch;
        int elements;
    } tensors[] = {{"q", p.q, p.q_strides, dense_q, 8},
                   {"k", p.k, p.k_strides, dense_k, kv_elements},
                   {"v", p.v, p.v_strides, dense_k, kv_elements},
                   {"out", p.out, p.out_strides, dense_q, 8}};
    for (const auto& [name, pointer, strides, has_batch, elements] : tensors) {
        if (const Status status = check_layout(name, pointer, strides, has_batch, elements);
            !status.ok()) {
            return status;
        }
    }
    return {};
}

}  // namespace limelight
