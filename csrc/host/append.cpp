// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>

#include "attention/params.h"
#include "decode/append_params.h"
#include "limelight/limelight.h"

namespace limelight {

namespace {

constexpr auto kInvalid = Status::Code::kInvalidArgument;
constexpr auto kUnsupported = Status::Code::kUnsupported;
constexpr int kWide = 8;  // elements of a 16-byte chunk

Status check_extents(const AppendParams& p) {
    const struct {
        const char* name;
        int32_t value;
        int32_t least;
        int32_t most;
    } extents[] = {
        {"batch", p.batch, 0, kMaxSeqlen},
        {"heads_q", p.heads_q, p.q == nullptr ? 0 : 1, 1 << 16},
        {"heads_kv", p.heads_kv, 1, 1 << 16},
        {"headdim", p.headdim, 1, 1 << 12},
        {"headdim_v", p.headdim_v, 1, 1 << 12},
        {"total_new", p.total_new, 0, kMaxSeqlen},
        {"total_q", p.total_q, 0, kMaxSeqlen},
        {"cache_row_size", p.cache_row_size, 1, kMaxSeqlen},
        {"cache_rows", p.cache_rows, 0, 0x7fffffff},
        {"rotary_dim", p.rotary_dim, 0, p.headdim},
        {"rotary_rows", p.rotary_rows, p.rotary_dim > 0 ? 1 : 0, 0x7fffffff},
    };
    for (const auto& [name, value, least, most] : extents) {
        if (value < least || value > most) {
            return Status::error(kInvalid, "%s is %d, allowed: %d to %d", name, value, least, most);
        }
    }
    if (p.rotary_dim % 2 != 0) {
        return Status::error(kInvalid, "rotary_dim is %d, allowed: even numbers", p.rotary_dim);
    }
    return {};
}

Status check(const AppendParams& p) {
    if (const Status status = check_extents(p); !status.ok()) {
        return status;
    }
    const struct {
        bool wrong;
        const char* message;
    } rules[] = {
        {p.total_new > 0 &&
             (p.k == nullptr || p.v == nullptr || p.k_cache == nullptr || p.v_cache == nullptr),
         "k, v, k_cache and v_cache must not be null when there are new tokens"},
        {p.cache_seqlens == nullptr && p.slot_mapping == nullptr,
         "cache_seqlens and slot_mapping are null: one of them says where tokens go"},
        {p.slot_mapping != nullptr &&
             (p.rotary_dim > 0 || p.block_table != nullptr || p.cache_batch_idx != nullptr ||
              p.cu_seqlens_k_new != nullptr || p.seqlens_out != nullptr),
         "slot_mapping excludes rotary embedding, block_table, cache_batch_idx, cu_seqlens_k_new "
         "and seqlens_out"},
        {p.block_table != nullptr && p.cache_batch_idx != nullptr,
         "block_table excludes cache_batch_idx"},
        {p.rotary_dim > 0 && (p.rotary_cos == nullptr || p.rotary_sin == nullptr),
         "rotary_cos and rotary_sin must not be null when rotary_dim is not 0"},
        {p.total_q > 0 && (p.q == nullptr || p.q_out == nullptr),
         "q and q_out must not be null when total_q is not 0"},
        {p.slot_mapping == nullptr && p.cu_seqlens_k_new == nullptr &&
             int64_t{p.batch} * p.seqlen_new != p.total_new,
         "total_new must be batch * seqlen_new where k and v are dense"},
        {p.total_q > 0 && p.cu_seqlens_q == nullptr && int64_t{p.batch} * p.seqlen_q != p.total_q,
         "total_q must be batch * seqlen_q where q is dense"},
    };
    for (const auto& [wrong, message] : rules) {
        if (wrong) {
            return Status::error(kInvalid, "%s", message);
        }
    }
    if (p.dtype != Dtype::kFloat16 && p.dtype != Dtype::kBFloat16) {
        return Status::error(kUnsupported, "dtype of k and v: allowed: float16, bfloat16");
    }
    if (p.cache_dtype != p.dtype && p.cache_dtype != Dtype::kFloat8E4M3) {
        return Status::error(kUnsupported,
                             "dtype of the caches: allowed: that of k and v, float8_e4m3");
    }
    if (p.rotary_dtype == Dtype::kFloat8E4M3) {
        return Status::error(kUnsupported,
                             "dtype of rotary_cos: allowed: float16, bfloat16, float32");
    }
    return {};
}

bool is_wide(const void* pointer, const TensorStrides& strides, int element_size) {
    return reinterpret_cast<uintptr_t>(pointer) % (kWide * element_size) == 0 &&
           strides.batch % kWide == 0 && strides.row % kWide == 0 && strides.head % kWide == 0;
}

// Whether every chunk of 8 features is aligned, and rotary pairs lie in aligned chunks.
bool is_wide(const AppendParams& p) {
    const int cache_size = p.cache_dtype == Dtype::kFloat8E4M3 ? 1 : 2;
    return p.headdim % kWide == 0 && p.headdim_v % kWide == 0 && is_wide(p.k, p.k_strides, 2) &&
           is_wide(p.v, p.v_strides, 2) && is_wide(p.k_cache, p.k_cache_strides, cache_size) &&
           is_wide(p.v_cache, p.v_cache_strides, cache_size) && is_wide(p.q, p.q_strides, 2) &&
           is_wide(p.q_out, p.q_out_strides, 2) &&
           (p.rotary_interleaved || p.rotary_dim / 2 % kWide == 0);
}

decode::TokenBlocks blocks_of(int64_t chunks) {
    constexpr int64_t kThreads = decode::kAppendThreads;
    decode::TokenBlocks blocks;
    blocks.chunks = static_cast<uint32_t>(std::max<int64_t>(chunks, 1));
    blocks.tokens = std::max<uint32_t>(kThreads / blocks.chunks, 1);
    blocks.slices = (blocks.chunks + kThreads - 1) / kThreads;
    return blocks;
}

int64_t count(const decode::TokenBlocks& blocks, int64_t tokens) {
    return (tokens + blocks.tokens - 1) / blocks.tokens * blocks.slices;
}

}  // namespace

Status append_kv(const AppendParams& params, CUstream_st* stream) {
    if (const Status status = check(params); !status.ok()) {
        return status;
    }
    const bool wide = is_wide(params);
    const int width = wide ? kWide : 1;
    decode::AppendWork work{params, {}, {}, 0};
    const int64_t per_head = params.headdim / width + params.headdim_v / width;
    work.fresh = blocks_of(params.heads_kv * per_head);
    work.query = blocks_of(int64_t{params.heads_q} * (params.headdim / width));
    const int64_t new_blocks = count(work.fresh, params.total_new);
    const int64_t all = new_blocks + count(work.query, params.total_q);
    if (all == 0 && (params.seqlens_out == nullptr || params.batch == 0)) {
        return {};
    }
    work.new_blocks = static_cast<uint32_t>(std::min<int64_t>(new_blocks, 0xffffffff));
    return decode::launch_append(work, std::max<int64_t>(all, 1), wide, stream);
}

}  // namespace limelight
