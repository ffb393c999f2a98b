// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/kernels.h"

#include "limelight/limelight.h"

namespace py = pybind11;

namespace limelight::bindings {

namespace {

void append_kernels(py::list& result, const KernelInfo* infos, int count) {
    for (int i = 0; i < count; ++i) {
        const KernelInfo& info = infos[i];
        py::dict entry;
        entry["name"] = info.name;
        entry["op"] = info.op;
        entry["family"] = info.family;
        entry["headdim"] = info.headdim;
        entry["block_q"] = info.block_q;
        entry["block_kv"] = info.block_kv;
        entry["warps"] = info.warps;
        entry["stages"] = info.stages;
        entry["smem_bytes"] = info.smem_bytes;
        entry["tiles"] = info.tiles;
        result.append(entry);
    }
}

py::list kernels() {
    py::list result;
    for (const auto list : {attention_forward_kernels, attention_backward_kernels,
                            attention_decode_kernels, flat_gemm_kernels}) {
        int count = 0;
        const KernelInfo* const infos = list(&count);
        append_kernels(result, infos, count);
    }
    return result;
}

}  // namespace

void bind_kernels(py::module_& module) {
    module.def("kernels", &kernels);
}

}  // namespace limelight::bindings
