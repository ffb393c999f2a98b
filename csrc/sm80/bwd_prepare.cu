// SPDX-License-Identifier: BSD-3-Clause
#include "sm80/launch_bwd.cuh"

namespace limelight::sm80 {

template <Tiles kTiles>
Status launch_bwd_prepare(BwdParams params, cudaStream_t stream) {
    params.num_q_blocks = ceil_div(params.seqlen_q, kPrepareRows);
    const int64_t blocks = int64_t{params.num_q_blocks} * params.heads_q * params.batch;
    const auto kernel = params.dtype == Dtype::kFloat16
                            ? sm80_attention_bwd_prepare<__half, kTiles>
                            : sm80_attention_bwd_prepare<__nv_bfloat16, kTiles>;
    return launch(kernel, blocks, kPrepareThreads, 0, params, stream);
}

template Status launch_bwd_prepare<kBuildTiles>(BwdParams params, cudaStream_t stream);

}  // namespace limelight::sm80
