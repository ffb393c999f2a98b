// SPDX-License-Identifier: BSD-3-Clause
#include <cstring>
#include <stdexcept>

#include "runtime/decompress.h"

namespace emu {

std::string decompress_lz4(const uint8_t* data, size_t size, size_t bytes) {
    std::string out;
    out.reserve(bytes);
    size_t at = 0;
    auto byte = [&]() -> size_t {
        if (at >= size) {
            throw std::runtime_error("LZ4 block is cut off");
        }
        return data[at++];
    };
    auto length = [&](size_t nibble) {
        size_t n = nibble;
        if (nibble == 15) {
            size_t more = 255;
            while (more == 255) {
                more = byte();
                n += more;
            }
        }
        return n;
    };
    while (at < size && out.size() < bytes) {
        const size_t token = byte();
        const size_t literals = length(token >> 4);
        if (literals > size - at || literals > bytes - out.size()) {
            throw std::runtime_error("LZ4 literals run past the end");
        }
        out.append(reinterpret_cast<const char*>(data + at), literals);
        at += literals;
        if (at >= size || out.size() >= bytes) {
            break;  // the last sequence has no match
        }
        const size_t low = byte();
        const size_t distance = low | byte() << 8;
        const size_t match = length(token & 15) + 4;
        if (distance == 0 || distance > out.size() || match > bytes - out.size()) {
            throw std::runtime_error("LZ4 match points outside the output");
        }
        for (size_t i = 0; i < match; ++i) {
            out.push_back(out[out.size() - distance]);
        }
    }
    if (out.size() != bytes) {
        throw std::runtime_error("LZ4 block has another size than its header says");
    }
    return out;
}

}  // namespace emu
