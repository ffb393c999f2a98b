// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/gemm.h"

#include <string>

#include "bindings/errors.h"
#include "bindings/tensor.h"

namespace py = pybind11;

namespace limelight::bindings {

namespace {

// A matrix of this shape whose last dimension is contiguous; returns its row stride.
int64_t matrix(const TensorView& tensor, const char* name, int64_t rows, int64_t columns) {
    expect(tensor.ndim == 2 && tensor.shape[0] == rows && tensor.shape[1] == columns, name,
           "must have the shape (" + std::to_string(rows) + ", " + std::to_string(columns) + ")");
    expect(tensor.stride[1] == 1 || columns <= 1, name, "must be contiguous in its last dimension");
    return tensor.stride[0];
}

// A contiguous tensor of rows * columns elements: (rows, columns), or (rows,) when columns is 0.
const void* contiguous(const TensorView& tensor, const char* name, int64_t rows, int64_t columns) {
    if (columns == 0) {
        expect(tensor.ndim == 1 && tensor.shape[0] == rows, name,
               "must have the shape (" + std::to_string(rows) + ",)");
        expect(tensor.stride[0] == 1 || rows <= 1, name, "must be contiguous");
        return tensor.data;
    }
    const int64_t stride = matrix(tensor, name, rows, columns);
    expect(stride == columns || rows <= 1, name, "must be contiguous");
    return tensor.data;
}

void expect_dtype(const TensorView& tensor, const char* name, Dtype dtype) {
    expect(element_dtype(tensor, name) == dtype, name, "must have the dtype of x");
}

WeightFormat weight_format(const TensorView& weight) {
    switch (weight.dtype) {
        case ScalarType::kFloat8E4M3:
            return WeightFormat::kFloat8E4M3;
        case ScalarType::kUInt8:
            return WeightFormat::kInt4;
        default:
            return WeightFormat::k16Bit;
    }
}

// FP8: float32 (rows,) or (ceil(rows / 128), ceil(k / 128)); INT4: dtype of x (rows, k / group).
void fill_scales(FlatGemmParams& params, int64_t rows, const py::object& scale_object,
                 const py::object& zero_object) {
    const auto scale = optional_view(scale_object, "weight_scale");
    const auto zero = optional_view(zero_object, "weight_zero");
    const bool int4 = params.weight_format == WeightFormat::kInt4;
    int64_t groups = 0;
    if (scale && int4) {
        expect_dtype(*scale, "weight_scale", params.dtype);
        expect(scale->ndim == 2 && scale->shape[1] > 0 && params.k % scale->shape[1] == 0,
               "weight_scale", "must have the shape (rows of weight, k / group)");
        groups = scale->shape[1];
        params.scale_group = static_cast<int32_t>(params.k / groups);
        params.weight_scale = contiguous(*scale, "weight_scale", rows, groups);
    } else if (scale) {
        require(*scale, "weight_scale", ScalarType::kFloat32, -1);
        params.scale_group = scale->ndim == 2 ? 128 : 0;
        params.weight_scale = scale->ndim == 2
                                  ? contiguous(*scale, "weight_scale", (rows + 127) / 128,
                                               (int64_t{params.k} + 127) / 128)
                                  : contiguous(*scale, "weight_scale", rows, 0);
    }
    if (zero) {
        expect(int4 && scale.has_value(), "weight_zero", "belongs to an INT4 weight with a scale");
        require(*zero, "weight_zero", ScalarType::kUInt8, 2);
        params.weight_zero =
            static_cast<const uint8_t*>(contiguous(*zero, "weight_zero", rows, groups));
    }
}

void flat_gemm(const py::object& x_object, const py::object& weight_object,
               const py::object& out_object, const py::object& bias_object,
               const py::object& residual_object, const py::object& weight_scale,
               const py::object& weight_zero, const py::object& out_scale_object,
               const py::object& workspace_object, const py::object& tickets_object, int kernel,
               int splits, int activation, bool batch_invariant, uintptr_t stream,
               bool programmatic) {
    const TensorView x = view(x_object, "x");
    const TensorView weight = view(weight_object, "weight");
    const TensorView out = view(out_object, "out");
    expect(x.ndim == 2 && (x.stride[1] == 1 || x.shape[1] <= 1), "x",
           "must have 2 dimensions and be contiguous in the last");
    expect(out.ndim == 2 && x.shape[0] == out.shape[0], "out",
           "must have the shape (rows of x, columns)");

    FlatGemmParams params;
    params.dtype = element_dtype(x, "x");
    params.weight_format = weight_format(weight);
    params.m = static_cast<int32_t>(x.shape[0]);
    params.n = static_cast<int32_t>(out.shape[1]);
    params.k = static_cast<int32_t>(x.shape[1]);
    params.x = x.data;
    params.x_row_stride = x.stride[0];
    params.kernel = static_cast<GemmKernel>(kernel);
    params.splits = splits;
    params.activation = static_cast<Activation>(activation);
    params.batch_invariant = batch_invariant;
    params.programmatic = programmatic;

    const bool int4 = params.weight_format == WeightFormat::kInt4;
    if (params.weight_format == WeightFormat::k16Bit) {
        expect_dtype(weight, "weight", params.dtype);
    }
    const int64_t rows = params.activation == Activation::kSwiGLU ? 2 * out.shape[1] : out.shape[1];
    params.weight = weight.data;
    params.weight_row_stride =
        matrix(weight, "weight", rows, int4 ? (x.shape[1] + 1) / 2 : x.shape[1]);
    fill_scales(params, rows, weight_scale, weight_zero);

    params.out = out.data;
    params.out_row_stride = matrix(out, "out", x.shape[0], out.shape[1]);
    params.out_dtype = element_dtype(out, "out");
    if (const auto out_scale = optional_view(out_scale_object, "out_scale")) {
        require(*out_scale, "out_scale", ScalarType::kFloat32, -1);
        expect(out_scale->ndim == 0 || (out_scale->ndim == 1 && out_scale->shape[0] == 1),
               "out_scale", "must have one element");
        params.out_scale = static_cast<const float*>(out_scale->data);
    }
    if (const auto bias = optional_view(bias_object, "bias")) {
        expect_dtype(*bias, "bias", params.dtype);
        params.bias = contiguous(*bias, "bias", rows, 0);
    }
    if (const auto residual = optional_view(residual_object, "residual")) {
        expect_dtype(*residual, "residual", params.dtype);
        params.residual = residual->data;
        params.residual_row_stride = matrix(*residual, "residual", out.shape[0], out.shape[1]);
    }
    if (const auto workspace = optional_view(workspace_object, "workspace")) {
        require(*workspace, "workspace", ScalarType::kUInt8, 1);
        expect(workspace->stride[0] == 1 || workspace->shape[0] <= 1, "workspace",
               "must be contiguous");
        params.workspace = workspace->data;
        params.workspace_bytes = static_cast<size_t>(workspace->shape[0]);
    }
    if (const auto tickets = optional_view(tickets_object, "tickets")) {
        require(*tickets, "tickets", ScalarType::kInt32, 1);
        contiguous(*tickets, "tickets", kGemmTickets, 0);
        params.tickets = static_cast<uint32_t*>(tickets->data);
    }
    raise(limelight::flat_gemm(params, reinterpret_cast<CUstream_st*>(stream)));
}

size_t flat_gemm_workspace(int m, int n, int k, int format, int kernel, int splits,
                           int activation) {
    FlatGemmParams params;
    params.m = m;
    params.n = n;
    params.k = k;
    params.weight_format = static_cast<WeightFormat>(format);
    params.kernel = static_cast<GemmKernel>(kernel);
    params.splits = splits;
    params.activation = static_cast<Activation>(activation);
    return limelight::flat_gemm_workspace(params);
}

}  // namespace

void bind_gemm(py::module_& module) {
    module.def("flat_gemm", &flat_gemm, py::arg("x"), py::arg("weight"), py::arg("out"),
               py::arg("bias"), py::arg("residual"), py::arg("weight_scale"),
               py::arg("weight_zero"), py::arg("out_scale"), py::arg("workspace"),
               py::arg("tickets"), py::arg("kernel"), py::arg("splits"), py::arg("activation"),
               py::arg("batch_invariant"), py::arg("stream"), py::arg("programmatic") = false);
    module.def("flat_gemm_workspace", &flat_gemm_workspace);
    module.def("flat_gemm_tickets", [] { return kGemmTickets; });
}

}  // namespace limelight::bindings
