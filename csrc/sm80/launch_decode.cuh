// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "host/launch.h"
#include "sm80/decode.cuh"
#include "sm80/launch_decode.h"

namespace limelight::sm80 {

constexpr Tiles kBuildTiles = Tiles::LIMELIGHT_SM80_TILES;

template <class Element, KvElement kKv, int kHeadDim, Tiles kTiles>
Status launch_decode_rows(const DecodeCall& call, cudaStream_t stream) {
    const auto with_config = [&]<class Config>(Config*) {
        static_assert(sizeof(DecodeSmem<Config>) <= smem_bytes(Config::kTile),
                      "decode_tiles.h knows the size");
        return launch(sm80_attention_decode<Config>, call.plan.max_ctas, Config::kThreads,
                      sizeof(DecodeSmem<Config>), call, stream);
    };
    using Few = DecodeConfig<Element, kKv, kHeadDim, kFewRows, kTiles>;
    using Many = DecodeConfig<Element, kKv, kHeadDim, kManyRows, kTiles>;
    return call.plan.tile_rows == kFewRows ? with_config(static_cast<Few*>(nullptr))
                                           : with_config(static_cast<Many*>(nullptr));
}

template <int kHeadDim, Tiles kTiles>
Status launch_decode(const DecodeCall& call, cudaStream_t stream) {
    if (call.kv_dtype == Dtype::kFloat8E4M3) {
        return launch_decode_rows<__half, KvElement::kE4m3, kHeadDim, kTiles>(call, stream);
    }
    return call.dtype == Dtype::kFloat16
               ? launch_decode_rows<__half, KvElement::kAsQ, kHeadDim, kTiles>(call, stream)
               : launch_decode_rows<__nv_bfloat16, KvElement::kAsQ, kHeadDim, kTiles>(call, stream);
}

}  // namespace limelight::sm80
