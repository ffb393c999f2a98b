// SPDX-License-Identifier: BSD-3-Clause
#include "host/check.h"
#include "sm90/tensors.h"

namespace limelight {

Status check_sm90_forward(const AttentionParams& p) {
    if (const Status status = check_sm80_forward(p); !status.ok()) {
        return status;
    }
    if (p.dropout_p > 0.0) {
        return Status::error(Status::Code::kUnsupported,
                             "dropout_p: the sm90 forward kernel does not compute it");
    }
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

}  // namespace limelight
