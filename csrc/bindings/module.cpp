// SPDX-License-Identifier: BSD-3-Clause
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "bindings/append.h"
#include "bindings/attention.h"
#include "bindings/decode.h"
#include "bindings/gemm.h"
#include "bindings/kernels.h"
#include "bindings/merge.h"
#include "limelight/limelight.h"

namespace py = pybind11;

namespace {

void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess) {
        throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
    }
}

py::dict device(int index) {
    cudaDeviceProp properties;
    int driver = 0;
    int runtime = 0;
    int previous = 0;
    check(cudaGetDevice(&previous), "cudaGetDevice");
    check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
    check(cudaSetDevice(index), "cudaSetDevice");
    const limelight::Status loads = limelight::check_device();
    check(cudaSetDevice(previous), "cudaSetDevice");
    py::dict facts;
    facts["name"] = properties.name;
    facts["capability"] = py::make_tuple(properties.major, properties.minor);
    facts["sm_count"] = properties.multiProcessorCount;
    facts["smem_optin"] = properties.sharedMemPerBlockOptin;
    facts["driver"] = driver;
    facts["runtime"] = runtime;
    facts["has_image"] = loads.ok();
    facts["problem"] = loads.message();
    return facts;
}

py::dict build_info() {
    py::dict info;
    info["version"] = limelight::version();
    info["architectures"] = limelight::build_architectures();
    info["cuda"] = CUDART_VERSION;
    return info;
}

}  // namespace

PYBIND11_MODULE(_core, module) {
    limelight::bindings::bind_append(module);
    limelight::bindings::bind_attention(module);
    limelight::bindings::bind_decode(module);
    limelight::bindings::bind_gemm(module);
    limelight::bindings::bind_kernels(module);
    limelight::bindings::bind_merge(module);
    module.def("device", &device, py::arg("index"));
    module.def("build_info", &build_info);
}
