// SPDX-License-Identifier: BSD-3-Clause
#include "sm80/decode_mla.cuh"

#include "host/launch.h"
#include "sm80/launch_decode.h"

namespace limelight::sm80 {

namespace {

constexpr Tiles kBuildTiles = Tiles::LIMELIGHT_SM80_TILES;

template <class Element>
Status launch_rows(const DecodeCall& call, cudaStream_t stream) {
    const auto with_config = [&]<class Config>(Config*) {
        static_assert(sizeof(MlaSmem<Config>) <= smem_bytes(Config::kTile),
                      "mla_tiles.h knows the size");
        return launch(sm80_attention_decode_mla<Config>, call.plan.max_ctas, Config::kThreads,
                      sizeof(MlaSmem<Config>), call, stream);
    };
    using Few = MlaConfig<Element, find_mla_tile(kBuildTiles, true)>;
    using Many = MlaConfig<Element, find_mla_tile(kBuildTiles, false)>;
    return call.plan.tile_rows == kFewRows ? with_config(static_cast<Few*>(nullptr))
                                           : with_config(static_cast<Many*>(nullptr));
}

}  // namespace

template <>
Status launch_decode_mla<kBuildTiles>(const DecodeCall& call, cudaStream_t stream) {
    return call.dtype == Dtype::kFloat16 ? launch_rows<__half>(call, stream)
                                         : launch_rows<__nv_bfloat16>(call, stream);
}

}  // namespace limelight::sm80
