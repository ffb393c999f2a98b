// SPDX-License-Identifier: BSD-3-Clause
#include "decode/append.cuh"

#include "host/launch.h"

namespace limelight::decode {

namespace {

template <class Element, class Cache>
Status launch_width(const AppendWork& work, int64_t blocks, bool wide, cudaStream_t stream) {
    const auto kernel =
        wide ? append_kv_kernel<Element, Cache, 8> : append_kv_kernel<Element, Cache, 1>;
    return launch(kernel, blocks, kAppendThreads, 0, work, stream);
}

template <class Element>
Status launch_cache(const AppendWork& work, int64_t blocks, bool wide, cudaStream_t stream) {
    return work.call.cache_dtype == Dtype::kFloat8E4M3
               ? launch_width<Element, uint8_t>(work, blocks, wide, stream)
               : launch_width<Element, Element>(work, blocks, wide, stream);
}

}  // namespace

Status launch_append(const AppendWork& work, int64_t blocks, bool wide, cudaStream_t stream) {
    return work.call.dtype == Dtype::kFloat16
               ? launch_cache<__half>(work, blocks, wide, stream)
               : launch_cache<__nv_bfloat16>(work, blocks, wide, stream);
}

}  // namespace limelight::decode
