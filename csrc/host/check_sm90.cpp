// SPDX-License-Identifier: BSD-3-Clause
#include "host/check.h"
#include "sm90/fwd_tiles.h"
#include "sm90/tensors.h"

namespace limelight {

namespace {

constexpr auto kUnsupported = Status::Code::kUnsupported;

// K and V named by numbers in device memory: rows or pages of a cache.
Status check_cache(const AttentionParams& p) {
    const bool paged = p.block_table != nullptr;
    if (!paged && p.cache_batch_idx == nullptr && p.leftpad_k == nullptr) {
        return {};
    }
    if (p.leftpad_k != nullptr && (paged || p.bias != nullptr)) {
        return Status::error(kUnsupported,
                             "leftpad_k: the sm90 forward kernels do not compute it with %s",
                             paged ? "block_table" : "bias");
    }
    if (p.cache_batch_idx != nullptr && (paged || p.cu_seqlens_k != nullptr)) {
        return Status::error(Status::Code::kInvalidArgument,
                             "cache_batch_idx names rows of dense k and v; %s has none: leave one "
                             "of them out",
                             paged ? "block_table" : "cu_seqlens_k");
    }
    if (paged && p.page_size < 1) {
        return Status::error(Status::Code::kInvalidArgument, "page_size is %d, allowed: 1 or more",
                             p.page_size);
    }
    const int64_t rows = paged ? p.page_size : p.seqlen_k;
    if ((paged || p.cache_batch_idx != nullptr) && p.total_rows_k < rows) {
        return Status::error(kUnsupported,
                             "total_rows_k is %lld: the sm90 forward kernels need to know how many "
                             "rows all pages or batch rows of k and v have together",
                             static_cast<long long>(p.total_rows_k));
    }
    return {};
}

Status check_tensors(const AttentionParams& p) {
    if (const Status status = check_cache(p); !status.ok()) {
        return status;
    }
    const sm90::Tensors tensors = sm90::tensors_of(p);
    const bool gathers = sm90::gathers(p);
    const struct {
        const char* name;
        const TensorExtents& tensor;
        bool mapped;
    } all[] = {{"q", tensors.q, true},
               {"k", tensors.k, !gathers},
               {"v", tensors.v, !gathers},
               {"out", tensors.out, true}};
    for (const auto& [name, tensor, mapped] : all) {
        if (!mapped) {
            continue;
        }
        if (const Status status = check_tensor_map(name, tensor); !status.ok()) {
            return status;
        }
    }
    return {};
}

}  // namespace

Status check_sm90_forward(const AttentionParams& p) {
    AttentionParams plain = p;  // the sm80 kernels lack caches
    plain.block_table = plain.cache_batch_idx = plain.leftpad_k = nullptr;
    if (const Status status = check_sm80_forward(plain); !status.ok()) {
        return status;
    }
    if (p.dropout_p > 0.0 || p.attention_chunk > 0) {
        return Status::error(kUnsupported, "%s: the sm90 forward kernel does not compute it",
                             p.dropout_p > 0.0 ? "dropout_p" : "attention_chunk");
    }
    return check_tensors(p);
}

Status check_sm90_fp8_forward(const AttentionParams& p) {
    const struct {
        const char* name;
        bool present;
    } lacking[] = {
        {"leftpad_k", p.leftpad_k != nullptr},
        {"bias", p.bias != nullptr},
        {"dropout_p", p.dropout_p > 0.0},
        {"attention_chunk", p.attention_chunk > 0},
    };
    for (const auto& [name, present] : lacking) {
        if (present) {
            return Status::error(kUnsupported, "%s: the sm90 FP8 kernel does not compute it", name);
        }
    }
    const struct {
        const char* name;
        int32_t value;
    } headdims[] = {{"headdim", p.headdim}, {"headdim_v", p.headdim_v}};
    constexpr int kMultiple = 16;  // 16-byte strides of a tensor map
    for (const auto& [name, value] : headdims) {
        if (value % kMultiple != 0 || value > 256) {
            return Status::error(kUnsupported,
                                 "%s is %d, allowed: multiples of %d up to 256; pad with zeros",
                                 name, value, kMultiple);
        }
    }
    if (sm90::gathers(p)) {
        return Status::error(
            kUnsupported,
            "page_size is %d, allowed in the sm90 FP8 kernel: multiples of %d, and "
            "strides that a tensor map expresses",
            p.page_size, sm90::kPageMultiple);
    }
    if (p.out_dtype != Dtype::kFloat16 && p.out_dtype != Dtype::kBFloat16) {
        return Status::error(kUnsupported,
                             "out_dtype: the sm90 FP8 kernel writes float16 and "
                             "bfloat16");
    }
    return check_tensors(p);
}

}  // namespace limelight
