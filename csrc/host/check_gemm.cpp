// SPDX-License-Identifier: BSD-3-Clause
#include "host/check_gemm.h"

#include "gemm/tiles.h"

namespace limelight {

namespace {

constexpr auto kInvalid = Status::Code::kInvalidArgument;
constexpr auto kUnsupported = Status::Code::kUnsupported;
constexpr int32_t kMaxExtent = 1 << 28;

const char* kernel_name(GemmKernel kernel) {
    return kernel == GemmKernel::kGemv ? "gemv" : "flat";
}

Status check_rows(const char* name, const void* pointer, int64_t row_stride, int64_t rows,
                  int element_bytes) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) {
        return Status::error(kUnsupported,
                             "%s: address %p is not 16-byte aligned; pass a contiguous copy", name,
                             pointer);
    }
    const int multiple = 16 / element_bytes;
    if (rows > 1 && row_stride % multiple != 0) {
        return Status::error(kUnsupported,
                             "%s: row stride is %lld elements; the kernel needs multiples of %d: "
                             "pass a copy with padded rows",
                             name, static_cast<long long>(row_stride), multiple);
    }
    return {};
}

Status check_weight(const FlatGemmParams& p) {
    const bool present = p.weight_scale != nullptr;
    switch (p.weight_format) {
        case WeightFormat::k16Bit:
            if (present || p.weight_zero != nullptr || p.scale_group != 0) {
                return Status::error(kInvalid,
                                     "weight_scale, weight_zero: a 16-bit weight takes neither");
            }
            break;
        case WeightFormat::kFloat8E4M3:
            if (!present || p.weight_zero != nullptr) {
                return Status::error(
                    kInvalid, "weight_scale: an FP8 weight needs it, and takes no weight_zero");
            }
            if (p.scale_group != 0 && p.scale_group != 128) {
                return Status::error(kInvalid,
                                     "scale_group is %d, allowed for FP8: 0 (per channel) or 128",
                                     p.scale_group);
            }
            break;
        case WeightFormat::kInt4:
            if (!present) {
                return Status::error(kInvalid, "weight_scale: an INT4 weight needs it");
            }
            if (p.scale_group != 64 && p.scale_group != 128) {
                return Status::error(kInvalid, "scale_group is %d, allowed for INT4: 64 or 128",
                                     p.scale_group);
            }
            if (p.k % p.scale_group != 0) {
                return Status::error(kInvalid, "k is %d, allowed: multiples of the scale group %d",
                                     p.k, p.scale_group);
            }
            break;
    }
    return {};
}

}  // namespace

Status check_flat_gemm_extents(const FlatGemmParams& p) {
    const struct {
        const char* name;
        int32_t value;
        int32_t least;
        int32_t most;
    } extents[] = {
        {"m", p.m, 0, gemm::kMaxM},
        {"n", p.n, 0, kMaxExtent},
        {"k", p.k, 8, kMaxExtent},
        {"splits", p.splits, 0, kMaxExtent},
        {"weight_format", static_cast<int32_t>(p.weight_format), 0, 2},
        {"activation", static_cast<int32_t>(p.activation), 0, 4},
        {"kernel", static_cast<int32_t>(p.kernel), 0, 2},
    };
    for (const auto& [name, value, least, most] : extents) {
        if (value < least || value > most) {
            return Status::error(kInvalid, "%s is %d, allowed: %d to %d", name, value, least, most);
        }
    }
    if (p.k % 8 != 0) {
        return Status::error(kUnsupported, "k is %d, allowed: multiples of 8; pad with zeros", p.k);
    }
    if (p.kernel == GemmKernel::kGemv && p.m > gemm::kGemvMaxM) {
        return Status::error(kUnsupported, "m is %d, allowed for kernel gemv: up to %d; use flat",
                             p.m, gemm::kGemvMaxM);
    }
    return {};
}

Status check_flat_gemm(const FlatGemmParams& p) {
    if (const Status status = check_flat_gemm_extents(p); !status.ok()) {
        return status;
    }
    if (p.dtype != Dtype::kFloat16 && p.dtype != Dtype::kBFloat16) {
        return Status::error(kUnsupported, "dtype: the GEMM kernels take float16 and bfloat16");
    }
    if (p.kernel == GemmKernel::kGemv && p.batch_invariant) {
        return Status::error(
            kUnsupported,
            "batch_invariant: kernel %s serves m up to %d only and other bits than flat; use flat",
            kernel_name(p.kernel), gemm::kGemvMaxM);
    }
    if (p.m == 0 || p.n == 0) {
        return {};
    }
    if (p.x == nullptr || p.weight == nullptr || p.out == nullptr) {
        return Status::error(kInvalid, "x, weight and out must not be null");
    }
    if (const Status status = check_weight(p); !status.ok()) {
        return status;
    }
    const bool fp8_out = p.out_dtype == Dtype::kFloat8E4M3;
    if (!fp8_out && p.out_dtype != p.dtype) {
        return Status::error(kInvalid, "out: its dtype must be that of x, or float8_e4m3fn");
    }
    if (fp8_out != (p.out_scale != nullptr)) {
        return Status::error(kInvalid, "out_scale: an FP8 out needs it, any other takes none");
    }
    if (const Status status = check_rows("x", p.x, p.x_row_stride, p.m, 2); !status.ok()) {
        return status;
    }
    return check_rows("weight", p.weight, p.weight_row_stride, weight_rows(p),
                      p.weight_format == WeightFormat::k16Bit ? 2 : 1);
}

}  // namespace limelight
