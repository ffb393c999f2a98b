// SPDX-License-Identifier: BSD-3-Clause
#include "host/derive.h"

#include <algorithm>
#include <cmath>

namespace limelight {

namespace {

constexpr float kLog2e = 1.4426950408889634f;

// Wider than any sequence, yet the sums of the mask stay in 32 bits.
constexpr int32_t kUnbounded = 2 * kMaxSeqlen;

}  // namespace

FwdParams derive_forward(const AttentionParams& call) {
    const auto window = [](int32_t width) {
        return width < 0 ? kUnbounded : std::min(width, kUnbounded);
    };
    FwdParams params{};
    static_cast<AttentionParams&>(params) = call;
    params.scale_log2 = call.softmax_scale * kLog2e;
    params.softcap_log2 = call.softcap * kLog2e;
    params.softcap_inner = call.softcap > 0.0f ? call.softmax_scale / call.softcap : 0.0f;
    if (call.attention_chunk > 0) {
        // Rows see no further than their chunk, so that nothing takes them for unmasked.
        const int32_t chunk = std::min(call.attention_chunk, kMaxSeqlen);
        params.chunk = Divisor(static_cast<uint32_t>(chunk));
        params.window_left = std::min(window(call.window_left), chunk - 1);
        params.window_right = std::min(window(call.window_right), chunk - 1);
    }
    params.window_behind = window(params.window_left);
    params.window_ahead = call.causal ? 0 : window(params.window_right);
    // nearbyint rounds half to even, as docs/numerics.md wants it.
    params.dropout_threshold = static_cast<uint32_t>(std::nearbyint(65536.0 * call.dropout_p));
    params.dropout_scale = static_cast<float>(1.0 / (1.0 - call.dropout_p));
    params.heads_per_kv = call.heads_q / call.heads_kv;
    return params;
}

}  // namespace limelight
