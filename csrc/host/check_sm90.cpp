// SPDX-License-Identifier: BSD-3-Clause
#include "host/check.h"
#include "sm90/tensors.h"

namespace limelight {

namespace {

constexpr auto kUnsupported = Status::Code::kUnsupported;

Status check_tensors(const AttentionParams& p) {
    const sm90::Tensors tensors = sm90::tensors_of(p);
    const struct {
        const char* name;
        const TensorExtents& tensor;
    } all[] = {{"q", tensors.q}, {"k", tensors.k}, {"v", tensors.v}, {"out", tensors.out}};
    for (const auto& [name, tensor] : all) {
        if (const Status status = check_tensor_map(name, tensor); !status.ok()) {
            return status;
        }
    }
    return {};
}

}  // namespace

Status check_sm90_forward(const AttentionParams& p) {
    if (const Status status = check_sm80_forward(p); !status.ok()) {
        return status;
    }
    if (p.dropout_p > 0.0) {
        return Status::error(kUnsupported,
                             "dropout_p: the sm90 forward kernel does not compute it");
    }
    return check_tensors(p);
}

Status check_sm90_fp8_forward(const AttentionParams& p) {
    const struct {
        const char* name;
        bool present;
    } lacking[] = {
        {"block_table", p.block_table != nullptr},
        {"leftpad_k", p.leftpad_k != nullptr},
        {"cache_batch_idx", p.cache_batch_idx != nullptr},
        {"bias", p.bias != nullptr},
        {"dropout_p", p.dropout_p > 0.0},
        {"num_splits > 1", p.num_splits > 1},
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
    if (p.out_dtype != Dtype::kFloat16 && p.out_dtype != Dtype::kBFloat16) {
        return Status::error(kUnsupported,
                             "out_dtype: the sm90 FP8 kernel writes float16 and "
                             "bfloat16");
    }
    return check_tensors(p);
}

}  // namespace limelight
