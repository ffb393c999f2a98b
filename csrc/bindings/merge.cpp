// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/merge.h"

#include <algorithm>

#include "bindings/errors.h"
#include "bindings/tensor.h"
#include "limelight/decode.h"

namespace py = pybind11;

namespace limelight::bindings {

namespace {

// The stride, in elements, that leads from one tensor to another of the same strides.
int64_t stride_between(const TensorView& from, const TensorView& to, const char* name,
                       int64_t element_size) {
    expect(from.ndim == to.ndim && std::equal(from.shape, from.shape + from.ndim, to.shape) &&
               std::equal(from.stride, from.stride + from.ndim, to.stride) &&
               from.dtype == to.dtype,
           name, "must have the dtype, shape and strides of the prefix's");
    const int64_t bytes = static_cast<int64_t>(reinterpret_cast<uintptr_t>(to.data) -
                                               reinterpret_cast<uintptr_t>(from.data));
    expect(bytes % element_size == 0, name, "must be aligned as the prefix's");
    return bytes / element_size;
}

// The two parts are read where they are: the kernel's stride between splits spans them.
void merge_states(const py::object& prefix_object, const py::object& prefix_lse_object,
                  const py::object& suffix_object, const py::object& suffix_lse_object,
                  const py::object& out_object, const py::object& lse_object, uintptr_t stream) {
    const TensorView prefix = view(prefix_object, "prefix_output");
    const TensorView suffix = view(suffix_object, "suffix_output");
    const TensorView prefix_lse = view(prefix_lse_object, "prefix_lse");
    const TensorView suffix_lse = view(suffix_lse_object, "suffix_lse");
    const TensorView out = view(out_object, "output");
    const TensorView lse = view(lse_object, "output_lse");
    expect(prefix.ndim == 3 && out.ndim == 3 && std::equal(out.shape, out.shape + 3, prefix.shape),
           "output", "must have the shape (tokens, heads, headdim) of prefix_output");
    expect((prefix.stride[2] == 1 && out.stride[2] == 1) || out.shape[2] <= 1, "output",
           "and prefix_output must be contiguous in their last dimension");
    for (const auto& [tensor, name] :
         {std::pair{&prefix_lse, "prefix_lse"}, std::pair{&lse, "output_lse"}}) {
        require(*tensor, name, ScalarType::kFloat32, 2);
        expect(tensor->shape[0] == out.shape[1] && tensor->shape[1] == out.shape[0], name,
               "must have the shape (heads, tokens)");
    }
    CombineParams params;
    params.dtype = element_dtype(out, "output");
    params.partial_dtype = element_dtype(prefix, "prefix_output");
    params.splits = 2;
    params.batch = 1;
    params.seqlen = static_cast<int32_t>(out.shape[0]);
    params.heads = static_cast<int32_t>(out.shape[1]);
    params.headdim = static_cast<int32_t>(out.shape[2]);
    params.partial_out = prefix.data;
    params.partial_lse = static_cast<const float*>(prefix_lse.data);
    params.out = out.data;
    params.lse = static_cast<float*>(lse.data);
    const int64_t element_size = params.partial_dtype == Dtype::kFloat32 ? 4 : 2;
    params.partial_split_stride = stride_between(prefix, suffix, "suffix_output", element_size);
    params.partial_strides = {0, prefix.stride[0], prefix.stride[1]};
    params.partial_lse_split_stride = stride_between(prefix_lse, suffix_lse, "suffix_lse", 4);
    params.partial_lse_head_stride = prefix_lse.stride[0];
    params.partial_lse_row_stride = prefix_lse.stride[1];
    params.out_strides = {0, out.stride[0], out.stride[1]};
    params.lse_head_stride = lse.stride[0];
    params.lse_row_stride = lse.stride[1];
    raise(limelight::attention_combine(params, reinterpret_cast<CUstream_st*>(stream)));
}

}  // namespace

void bind_merge(py::module_& module) {
    module.def("merge_states", &merge_states);
}

}  // namespace limelight::bindings
