// SPDX-License-Identifier: BSD-3-Clause
#include "host/check.h"

namespace limelight {

namespace {

constexpr auto kInvalid = Status::Code::kInvalidArgument;
constexpr auto kUnsupported = Status::Code::kUnsupported;
constexpr int kVectorElements = 8;  // one cp.async of 16 bytes

struct NamedTensor {
    const char* name;
    const void* pointer;
    const TensorStrides& strides;
    bool varlen;
};

Status check_aligned(const char* name, const void* pointer, const TensorStrides& strides,
                     bool varlen) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) {
        return Status::error(kUnsupported,
                             "%s: address %p is not 16-byte aligned; pass a contiguous copy", name,
                             pointer);
    }
    const struct {
        const char* dimension;
        int64_t stride;
        bool used;
    } all[] = {{"batch", strides.batch, !varlen},
               {"row", strides.row, true},
               {"head", strides.head, true}};
    for (const auto& [dimension, stride, used] : all) {
        if (used && stride % kVectorElements != 0) {
            return Status::error(kUnsupported,
                                 "%s: %s stride is %lld elements; the kernel needs multiples of "
                                 "%d: pass a contiguous copy",
                                 name, dimension, static_cast<long long>(stride), kVectorElements);
        }
    }
    return {};
}

// What neither the forward nor the backward kernels of csrc/sm80 compute.
Status check_sm80_features(const AttentionParams& p, const char* op) {
    const struct {
        const char* name;
        bool present;
    } lacking[] = {
        {"block_table", p.block_table != nullptr},
        {"leftpad_k", p.leftpad_k != nullptr},
        {"cache_batch_idx", p.cache_batch_idx != nullptr},
        {"q_descale", p.q_descale != nullptr},
        {"k_descale", p.k_descale != nullptr},
        {"v_descale", p.v_descale != nullptr},
    };
    for (const auto& [name, present] : lacking) {
        if (present) {
            return Status::error(kUnsupported, "%s: the sm80 %s kernel does not compute it", name,
                                 op);
        }
    }
    if (p.dtype != Dtype::kFloat16 && p.dtype != Dtype::kBFloat16) {
        return Status::error(kUnsupported, "dtype: the sm80 %s kernel takes float16 and bfloat16",
                             op);
    }
    const struct {
        const char* name;
        int32_t value;
    } headdims[] = {{"headdim", p.headdim}, {"headdim_v", p.headdim_v}};
    for (const auto& [name, value] : headdims) {
        if (value % kVectorElements != 0 || value > 256) {
            return Status::error(kUnsupported,
                                 "%s is %d, allowed: multiples of 8 up to 256; pad with zeros",
                                 name, value);
        }
    }
    if (p.bias != nullptr && p.bias_dtype != Dtype::kFloat32 && p.bias_dtype != p.dtype) {
        return Status::error(kUnsupported, "bias: its dtype must be float32 or that of q");
    }
    return {};
}

template <size_t kCount>
Status check_all_aligned(const NamedTensor (&tensors)[kCount]) {
    for (const auto& [name, pointer, strides, varlen] : tensors) {
        const Status status = check_aligned(name, pointer, strides, varlen);
        if (!status.ok()) {
            return status;
        }
    }
    return {};
}

}  // namespace

Status check_extents(const AttentionParams& p) {
    const struct {
        const char* name;
        int32_t value;
        int32_t least;
        int32_t most;
    } extents[] = {
        {"batch", p.batch, 0, kMaxSeqlen},       {"heads_q", p.heads_q, 1, 1 << 20},
        {"heads_kv", p.heads_kv, 1, 1 << 20},    {"headdim", p.headdim, 1, 1 << 16},
        {"headdim_v", p.headdim_v, 1, 1 << 16},  {"seqlen_q", p.seqlen_q, 0, kMaxSeqlen},
        {"seqlen_k", p.seqlen_k, 0, kMaxSeqlen},
    };
    for (const auto& [name, value, least, most] : extents) {
        if (value < least || value > most) {
            return Status::error(kInvalid, "%s is %d, allowed: %d to %d", name, value, least, most);
        }
    }
    if (p.heads_q % p.heads_kv != 0) {
        return Status::error(
            kInvalid, "heads_q is %d, heads_kv is %d: heads_q must be a multiple of heads_kv",
            p.heads_q, p.heads_kv);
    }
    if (!(p.softcap >= 0.0f)) {
        return Status::error(kInvalid, "softcap is %g, allowed: 0 (off) or positive", p.softcap);
    }
    if (p.attention_chunk < 0) {
        return Status::error(kInvalid, "attention_chunk is %d, allowed: 0 (off) or more",
                             p.attention_chunk);
    }
    if (!(p.dropout_p >= 0.0 && p.dropout_p < 1.0)) {
        return Status::error(kInvalid, "dropout_p is %g, allowed: [0, 1)", p.dropout_p);
    }
    return {};
}

Status check_attention(const AttentionParams& p) {
    if (const Status status = check_extents(p); !status.ok()) {
        return status;
    }
    if (p.dropout_p > 0.0 && p.rng_state == nullptr) {
        return Status::error(kInvalid, "rng_state must not be null when dropout_p is %g",
                             p.dropout_p);
    }
    const bool has_rows = p.batch > 0 && p.seqlen_q > 0;
    if (has_rows && (p.q == nullptr || p.out == nullptr || p.lse == nullptr)) {
        return Status::error(kInvalid,
                             "q, out and lse must not be null when there are rows to compute");
    }
    if (has_rows && p.seqlen_k > 0 && (p.k == nullptr || p.v == nullptr)) {
        return Status::error(kInvalid, "k and v must not be null when seqlen_k is %d", p.seqlen_k);
    }
    return {};
}

Status check_sm80_forward(const AttentionParams& p) {
    if (const Status status = check_sm80_features(p, "forward"); !status.ok()) {
        return status;
    }
    const bool varlen_q = p.cu_seqlens_q != nullptr;
    const bool varlen_k = p.cu_seqlens_k != nullptr;
    return check_all_aligned({{"q", p.q, p.q_strides, varlen_q},
                              {"k", p.k, p.k_strides, varlen_k},
                              {"v", p.v, p.v_strides, varlen_k},
                              {"out", p.out, p.out_strides, varlen_q}});
}

Status check_backward(const AttentionBackwardParams& p) {
    if (const Status status = check_attention(p); !status.ok()) {
        return status;
    }
    const bool has_rows = p.batch > 0 && p.seqlen_q > 0;
    const bool has_keys = p.batch > 0 && p.seqlen_k > 0;
    if (has_rows && (p.dout == nullptr || p.dq == nullptr || p.workspace == nullptr)) {
        return Status::error(kInvalid,
                             "dout, dq and workspace must not be null when there are rows");
    }
    if (has_keys && (p.dk == nullptr || p.dv == nullptr)) {
        return Status::error(kInvalid, "dk and dv must not be null when seqlen_k is %d",
                             p.seqlen_k);
    }
    if (p.dbias != nullptr && p.bias == nullptr) {
        return Status::error(kInvalid, "dbias must be null without a bias");
    }
    if (p.total_q < 0) {
        return Status::error(kInvalid, "total_q is %lld, allowed: 0 or more",
                             static_cast<long long>(p.total_q));
    }
    return {};
}

Status check_sm80_backward(const AttentionBackwardParams& p) {
    if (const Status status = check_sm80_features(p, "backward"); !status.ok()) {
        return status;
    }
    const bool varlen_q = p.cu_seqlens_q != nullptr;
    const bool varlen_k = p.cu_seqlens_k != nullptr;
    return check_all_aligned({{"q", p.q, p.q_strides, varlen_q},
                              {"k", p.k, p.k_strides, varlen_k},
                              {"v", p.v, p.v_strides, varlen_k},
                              {"out", p.out, p.out_strides, varlen_q},
                              {"dout", p.dout, p.dout_strides, varlen_q},
                              {"dq", p.dq, p.dq_strides, varlen_q},
                              {"dk", p.dk, p.dk_strides, varlen_k},
                              {"dv", p.dv, p.dv_strides, varlen_k}});
}

}  // namespace limelight
