// SPDX-License-Identifier: BSD-3-Clause
// Decoders for the two ways nvcc compresses a fat binary's PTX. Both throw std::runtime_error on
// bad input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emu {

// LZ4 block format (no frame); `bytes` is the decompressed size.
std::string decompress_lz4(const uint8_t* data, size_t size, size_t bytes);

// Zstandard frames as of RFC 8878, without dictionaries; `bytes` is the decompressed size.
std::string decompress_zstd(const uint8_t* data, size_t size, size_t bytes);

}  // namespace emu
