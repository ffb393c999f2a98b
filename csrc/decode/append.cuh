// SPDX-License-Identifier: BSD-3-Clause
// Writes new keys and values into a cache and turns keys and queries by their positions.
//
// A thread owns kWidth consecutive features of one head of one token: 16 bytes where everything is
// aligned, otherwise one element. A block owns whole tokens, or a slice of a token that has more
// chunks than the block has threads. Blocks of new tokens come first, then those of q. Nothing is
// shared between threads, so the kernel runs at the speed of its loads and stores.
#pragma once

#include <type_traits>

#include "arch/float8.cuh"
#include "decode/append_params.h"

namespace limelight::decode {

// A token's sequence and its place among the sequence's tokens of this call.
struct NewToken {
    int batch;  // -1: of no sequence
    int place;
};

LIMELIGHT_DEVICE NewToken find_token(int token, const int32_t* cu_seqlens, int seqlen, int batch) {
    if (cu_seqlens == nullptr) {
        return {token / seqlen, token % seqlen};
    }
    if (batch == 0 || token >= cu_seqlens[batch]) {
        return {-1, 0};
    }
    int low = 0;  // cu_seqlens[low] <= token < cu_seqlens[high]
    int high = batch;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (cu_seqlens[middle] <= token ? low : high) = middle;
    }
    return {low, token - cu_seqlens[low]};
}

// The first feature of a head of a token of k, v or q.
LIMELIGHT_DEVICE int64_t token_offset(const TensorStrides& strides, bool varlen, int token,
                                      const NewToken& at, int head) {
    const int64_t row =
        varlen ? int64_t{token} * strides.row : at.batch * strides.batch + at.place * strides.row;
    return row + head * strides.head;
}

// The cache's row (or page) and the place in it; row -1 where the token is not to be stored.
struct Slot {
    int row;
    int place;
};

LIMELIGHT_DEVICE Slot find_slot(const AppendParams& params, int token, int batch, int position) {
    if (params.slot_mapping != nullptr) {
        const int64_t slot = params.slot_mapping[token];
        if (slot < 0 || slot >= int64_t{params.cache_rows} * params.cache_row_size) {
            return {-1, 0};
        }
        return {static_cast<int>(slot / params.cache_row_size),
                static_cast<int>(slot % params.cache_row_size)};
    }
    Slot slot{batch, position};
    bool inside = position >= 0;
    if (params.block_table != nullptr) {
        const int page = position / params.cache_row_size;
        slot.place = position - page * params.cache_row_size;
        inside = inside && page < params.max_pages;
        slot.row = inside ? params.block_table[batch * params.block_table_stride + page] : -1;
    } else {
        inside = inside && position < params.cache_row_size;
        if (params.cache_batch_idx != nullptr) {
            slot.row = params.cache_batch_idx[batch];
        }
    }
    return inside && slot.row >= 0 && slot.row < params.cache_rows ? slot : Slot{-1, 0};
}

template <class Element, int kWidth>
LIMELIGHT_DEVICE void load(const Element* source, Element (&x)[kWidth]) {
    if constexpr (kWidth == 8) {
        reinterpret_cast<uint4&>(x) = *reinterpret_cast<const uint4*>(source);
    } else {
        x[0] = *source;
    }
}

template <class Element>
LIMELIGHT_DEVICE Element rounded(float x) {
    if constexpr (std::is_same_v<Element, __half>) {
        return __float2half_rn(x);
    } else {
        return __float2bfloat16_rn(x);
    }
}

template <class Element, int kWidth>
LIMELIGHT_DEVICE void store(Element* target, const Element (&x)[kWidth]) {
    if constexpr (kWidth == 8) {
        *reinterpret_cast<uint4*>(target) = reinterpret_cast<const uint4&>(x);
    } else {
        *target = x[0];
    }
}

// x / scale in e4m3.
template <int kWidth>
LIMELIGHT_DEVICE void store_scaled(uint8_t* target, const float (&x)[kWidth], float scale) {
    if constexpr (kWidth == 8) {
        uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            pairs[i] = pack2_e4m3(__fdiv_rn(x[2 * i], scale), __fdiv_rn(x[2 * i + 1], scale));
        }
        *reinterpret_cast<uint2*>(target) =
            make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
    } else {
        *target = static_cast<uint8_t>(pack2_e4m3(__fdiv_rn(x[0], scale), 0.0f));
    }
}

// The table's entries of the pairs of features first ... first + kWidth - 1.
template <class Table, int kWidth>
LIMELIGHT_DEVICE void load_angles(const void* table, int64_t offset, int first, int shift, int end,
                                  float (&angle)[kWidth]) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        const int pair = (first + i) >> shift;
        angle[i] =
            pair < end ? static_cast<float>(static_cast<const Table*>(table)[offset + pair]) : 0.0f;
    }
}

template <int kWidth>
LIMELIGHT_DEVICE void load_angles(Dtype dtype, const void* table, int64_t offset, int first,
                                  int shift, int end, float (&angle)[kWidth]) {
    if (dtype == Dtype::kFloat32) {
        load_angles<float>(table, offset, first, shift, end, angle);
    } else if (dtype == Dtype::kFloat16) {
        load_angles<__half>(table, offset, first, shift, end, angle);
    } else {
        load_angles<__nv_bfloat16>(table, offset, first, shift, end, angle);
    }
}

// Features first ... first + kWidth - 1 of a head turned by the angles of one position; features
// past rotary_dim as they are. Products and sums are rounded one by one, as torch rounds them.
template <class Element, int kWidth>
LIMELIGHT_DEVICE void turn(const AppendParams& params, const Element* head, int first, int position,
                           float (&x)[kWidth]) {
    const int half = params.rotary_dim / 2;
    const bool interleaved = params.rotary_interleaved;
    const bool lower = first < half;
    const int row = min(max(position, 0), params.rotary_rows - 1);
    const int shift = interleaved ? 1 : 0;
    const int begin = interleaved || lower ? first : first - half;
    float cos[kWidth];
    float sin[kWidth];
    load_angles(params.rotary_dtype, params.rotary_cos, row * params.rotary_cos_stride, begin,
                shift, half, cos);
    load_angles(params.rotary_dtype, params.rotary_sin, row * params.rotary_sin_stride, begin,
                shift, half, sin);
    // The other member of each pair: a neighbour where interleaved, else half of rotary_dim away.
    float other[kWidth];
    if (interleaved && kWidth > 1) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
            other[i] = x[i ^ (kWidth > 1)];
        }
    } else {
        alignas(16) Element raw[kWidth];
        load(head + (interleaved ? first ^ 1 : lower ? first + half : first - half), raw);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
            other[i] = static_cast<float>(raw[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        if (first + i < params.rotary_dim) {
            const bool is_first = interleaved ? (first + i) % 2 == 0 : lower;
            const float straight = __fmul_rn(x[i], cos[i]);
            const float cross = __fmul_rn(other[i], sin[i]);
            x[i] = is_first ? __fsub_rn(straight, cross) : __fadd_rn(cross, straight);
        }
    }
}

// What a thread does: features first ... first + kWidth - 1 of a head; head null for nothing.
struct Chunk {
    const void* head;
    void* target;
    int first;
    int position;
    bool turns;
    const float* scale;  // of e4m3; null for 1
};

template <class Element, class Cache, int kWidth>
LIMELIGHT_DEVICE Chunk chunk_of_new(const AppendParams& params, int token, int chunk) {
    NewToken at{0, 0};
    int position = 0;
    if (params.slot_mapping == nullptr) {
        at = find_token(token, params.cu_seqlens_k_new, params.seqlen_new, params.batch);
        if (at.batch < 0) {
            return {};
        }
        position = params.cache_seqlens[at.batch] + at.place;
    }
    const Slot slot = find_slot(params, token, at.batch, position);
    if (slot.row < 0) {
        return {};
    }
    const bool varlen = params.cu_seqlens_k_new != nullptr || params.slot_mapping != nullptr;
    const int chunks_k = params.headdim / kWidth;
    const bool is_key = chunk < params.heads_kv * chunks_k;
    const int local = is_key ? chunk : chunk - params.heads_kv * chunks_k;
    const int per_head = is_key ? chunks_k : params.headdim_v / kWidth;
    const int head = local / per_head;
    const TensorStrides from = is_key ? params.k_strides : params.v_strides;
    const TensorStrides to = is_key ? params.k_cache_strides : params.v_cache_strides;
    const float* scale = is_key ? params.k_scale : params.v_scale;
    if (scale != nullptr) {
        const ScaleStrides strides = is_key ? params.k_scale_strides : params.v_scale_strides;
        scale += at.batch * strides.batch + head * strides.head;
    }
    return {static_cast<const Element*>(is_key ? params.k : params.v) +
                token_offset(from, varlen, token, at, head),
            static_cast<Cache*>(is_key ? params.k_cache : params.v_cache) + slot.row * to.batch +
                slot.place * to.row + head * to.head,
            (local - head * per_head) * kWidth,
            position,
            is_key,
            scale};
}

template <class Element, int kWidth>
LIMELIGHT_DEVICE Chunk chunk_of_query(const AppendParams& params, int token, int chunk) {
    const NewToken at = find_token(token, params.cu_seqlens_q, params.seqlen_q, params.batch);
    if (at.batch < 0) {
        return {};
    }
    const int per_head = params.headdim / kWidth;
    const int head = chunk / per_head;
    const bool varlen = params.cu_seqlens_q != nullptr;
    return {static_cast<const Element*>(params.q) +
                token_offset(params.q_strides, varlen, token, at, head),
            static_cast<Element*>(params.q_out) +
                token_offset(params.q_out_strides, varlen, token, at, head),
            (chunk - head * per_head) * kWidth,
            params.cache_seqlens[at.batch] + (params.rotate_q_by_row ? at.place : 0),
            true,
            nullptr};
}

// Copies, turns, and rounds or (quantise) divides by the scale.
template <class Element, int kWidth>
LIMELIGHT_DEVICE void move_chunk(const AppendParams& params, const Chunk& chunk, bool quantise) {
    const Element* const head = static_cast<const Element*>(chunk.head);
    alignas(16) Element raw[kWidth];
    load(head + chunk.first, raw);
    const bool turned = chunk.turns && chunk.first < params.rotary_dim;
    if (!turned && !quantise) {
        store(static_cast<Element*>(chunk.target) + chunk.first, raw);
        return;
    }
    float x[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        x[i] = static_cast<float>(raw[i]);
    }
    if (turned) {
        turn(params, head, chunk.first, chunk.position, x);
    }
    if (quantise) {
        const float scale = chunk.scale == nullptr ? 1.0f : *chunk.scale;
        store_scaled(static_cast<uint8_t*>(chunk.target) + chunk.first, x, scale);
        return;
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        raw[i] = rounded<Element>(x[i]);
    }
    store(static_cast<Element*>(chunk.target) + chunk.first, raw);
}

template <class Element, class Cache, int kWidth>
__global__ void __launch_bounds__(kAppendThreads)
    append_kv_kernel(const __grid_constant__ AppendWork work) {
    const AppendParams& params = work.call;
    if (params.seqlens_out != nullptr) {
#pragma unroll 1
        for (int64_t b = int64_t{blockIdx.x} * kAppendThreads + threadIdx.x; b < params.batch;
             b += int64_t{gridDim.x} * kAppendThreads) {
            const int added = params.cu_seqlens_k_new == nullptr
                                  ? params.seqlen_new
                                  : params.cu_seqlens_k_new[b + 1] - params.cu_seqlens_k_new[b];
            params.seqlens_out[b] = params.cache_seqlens[b] + added;
        }
    }
    const bool is_query = blockIdx.x >= work.new_blocks;
    const TokenBlocks blocks = is_query ? work.query : work.fresh;
    const uint32_t block = blockIdx.x - (is_query ? work.new_blocks : 0);
    const uint32_t group = block / blocks.slices;
    const uint32_t local = (block - group * blocks.slices) * kAppendThreads + threadIdx.x;
    const uint32_t in_group = local / blocks.chunks;
    const int token = static_cast<int>(group * blocks.tokens + in_group);
    const int index = static_cast<int>(local - in_group * blocks.chunks);
    if (in_group >= blocks.tokens || token >= (is_query ? params.total_q : params.total_new)) {
        return;
    }
    const Chunk chunk = is_query ? chunk_of_query<Element, kWidth>(params, token, index)
                                 : chunk_of_new<Element, Cache, kWidth>(params, token, index);
    if (chunk.head != nullptr) {
        constexpr bool kQuantises = !std::is_same_v<Cache, Element>;
        move_chunk<Element, kWidth>(params, chunk, kQuantises && !is_query);
    }
}

}  // namespace limelight::decode
