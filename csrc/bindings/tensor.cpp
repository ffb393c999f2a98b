// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/tensor.h"

#include <string>

#include "bindings/dlpack.h"

namespace py = pybind11;

namespace limelight::bindings {

namespace {

// The exchange table of a type, looked up once per type; null where it has none or an unknown
// version.
const dlpack::ExchangeApi* exchange_api(PyTypeObject* type) {
    static PyTypeObject* last_type = nullptr;
    static const dlpack::ExchangeApi* last_api = nullptr;
    if (type == last_type) {
        return last_api;
    }
    const dlpack::ExchangeApi* api = nullptr;
    const py::handle type_object(reinterpret_cast<PyObject*>(type));
    if (py::hasattr(type_object, "__dlpack_c_exchange_api__")) {
        const py::object capsule = type_object.attr("__dlpack_c_exchange_api__");
        api = static_cast<const dlpack::ExchangeApi*>(
            PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
        if (api == nullptr) {
            PyErr_Clear();
        }
    }
    if (api != nullptr && (api->version.major != 1 || api->tensor_from_object == nullptr)) {
        api = nullptr;
    }
    last_type = type;
    last_api = api;
    return api;
}

ScalarType scalar_type(const dlpack::DataType& type) {
    if (type.lanes != 1) {
        return ScalarType::kOther;
    }
    switch (type.code << 8 | type.bits) {
        case dlpack::kFloat << 8 | 16:
            return ScalarType::kFloat16;
        case dlpack::kBFloat << 8 | 16:
            return ScalarType::kBFloat16;
        case dlpack::kFloat << 8 | 32:
            return ScalarType::kFloat32;
        case dlpack::kFloat8E4M3 << 8 | 8:
            return ScalarType::kFloat8E4M3;
        case dlpack::kUInt << 8 | 8:
            return ScalarType::kUInt8;
        case dlpack::kInt << 8 | 32:
            return ScalarType::kInt32;
        case dlpack::kInt << 8 | 64:
            return ScalarType::kInt64;
        default:
            return ScalarType::kOther;
    }
}

ScalarType scalar_type(const std::string& dtype) {
    const struct {
        const char* name;
        ScalarType type;
    } known[] = {
        {"torch.float16", ScalarType::kFloat16}, {"torch.bfloat16", ScalarType::kBFloat16},
        {"torch.float32", ScalarType::kFloat32}, {"torch.float8_e4m3fn", ScalarType::kFloat8E4M3},
        {"torch.uint8", ScalarType::kUInt8},     {"torch.int32", ScalarType::kInt32},
        {"torch.int64", ScalarType::kInt64}};
    for (const auto& [name, type] : known) {
        if (dtype == name) {
            return type;
        }
    }
    return ScalarType::kOther;
}

const char* describe(ScalarType type) {
    constexpr const char* kNames[] = {"float16", "bfloat16", "float32", "float8_e4m3fn",
                                      "uint8",   "int32",    "int64",   "another dtype"};
    return kNames[static_cast<int>(type)];
}

void check_dims(int64_t ndim, const char* name) {
    if (ndim > TensorView::kMaxDims) {
        throw py::value_error(std::string(name) + " has " + std::to_string(ndim) +
                              " dimensions, at most " + std::to_string(TensorView::kMaxDims) +
                              " are allowed");
    }
}

TensorView view_by_attributes(const py::handle& tensor, const char* name) {
    if (!py::hasattr(tensor, "data_ptr")) {
        throw py::value_error(std::string(name) + " is not a tensor");
    }
    TensorView result;
    const py::tuple shape(tensor.attr("shape"));
    const py::tuple stride(tensor.attr("stride")());
    check_dims(static_cast<int64_t>(shape.size()), name);
    result.data = reinterpret_cast<void*>(tensor.attr("data_ptr")().cast<uintptr_t>());
    result.ndim = static_cast<int>(shape.size());
    for (int i = 0; i < result.ndim; ++i) {
        result.shape[i] = shape[i].cast<int64_t>();
        result.stride[i] = stride[i].cast<int64_t>();
    }
    result.dtype = scalar_type(py::str(tensor.attr("dtype")).cast<std::string>());
    return result;
}

}  // namespace

TensorView view(const py::handle& tensor, const char* name) {
    const dlpack::ExchangeApi* const api = exchange_api(Py_TYPE(tensor.ptr()));
    if (api == nullptr) {
        return view_by_attributes(tensor, name);
    }
    dlpack::Tensor raw;
    if (api->tensor_from_object(tensor.ptr(), &raw) != 0) {
        throw py::error_already_set();
    }
    check_dims(raw.ndim, name);
    TensorView result;
    result.data = static_cast<char*>(raw.data) + raw.byte_offset;
    result.ndim = raw.ndim;
    for (int i = 0; i < raw.ndim; ++i) {
        result.shape[i] = raw.shape[i];
        result.stride[i] = raw.strides[i];
    }
    result.dtype = scalar_type(raw.dtype);
    return result;
}

std::optional<TensorView> optional_view(const py::handle& tensor, const char* name) {
    if (tensor.is_none()) {
        return std::nullopt;
    }
    return view(tensor, name);
}

void require(const TensorView& tensor, const char* name, ScalarType dtype, int ndim) {
    if (tensor.dtype != dtype) {
        throw py::value_error(std::string(name) + " is " + describe(tensor.dtype) +
                              ", allowed: " + describe(dtype));
    }
    if (ndim >= 0 && tensor.ndim != ndim) {
        throw py::value_error(std::string(name) + " has " + std::to_string(tensor.ndim) +
                              " dimensions, allowed: " + std::to_string(ndim));
    }
}

Dtype element_dtype(const TensorView& tensor, const char* name) {
    switch (tensor.dtype) {
        case ScalarType::kFloat16:
            return Dtype::kFloat16;
        case ScalarType::kBFloat16:
            return Dtype::kBFloat16;
        case ScalarType::kFloat32:
            return Dtype::kFloat32;
        case ScalarType::kFloat8E4M3:
            return Dtype::kFloat8E4M3;
        default:
            throw py::value_error(std::string(name) + " is " + describe(tensor.dtype) +
                                  ", allowed: float16, bfloat16, float32, float8_e4m3fn");
    }
}

}  // namespace limelight::bindings
