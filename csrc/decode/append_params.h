// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda_runtime_api.h>

#include "limelight/append.h"

namespace limelight::decode {

constexpr int kAppendThreads = 128;

// How blocks cover tokens of `chunks` chunks each.
struct TokenBlocks {
    uint32_t chunks;
    uint32_t tokens;  // of a block; 1 where slices > 1
    uint32_t slices;  // blocks of a token
};

struct AppendWork {
    AppendParams call;
    TokenBlocks fresh;  // k and v
    TokenBlocks query;
    uint32_t new_blocks;  // blocks of k and v; those of q follow
};

// Launches the kernel; instantiated in append.cu. wide: every chunk of 8 elements is aligned.
Status launch_append(const AppendWork& work, int64_t blocks, bool wide, cudaStream_t stream);

}  // namespace limelight::decode
