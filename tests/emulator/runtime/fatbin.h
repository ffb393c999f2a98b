// SPDX-License-Identifier: BSD-3-Clause
// The container that nvcc puts device code into.
#pragma once

#include <string>
#include <vector>

#include "runtime/arch.h"

namespace emu {

struct FatImage {
    enum class Kind { Ptx, Elf, Other };
    Kind kind = Kind::Other;
    int arch = 0;  // 90
    char variant =
        ' ';  // 'a' (this architecture only), 'f' (its family) or ' ' (this and all later ones)
    const void* data = nullptr;
    size_t bytes = 0;     // as stored
    size_t expanded = 0;  // decompressed size, 0 when stored plainly
    unsigned long long flags = 0;

    std::string name() const;  // "compute_90a" or "sm_90a"
};

// Images of a fat binary, or of the wrapper struct that host code registers. Throws Fault on
// anything else.
std::vector<FatImage> read_fat_binary(const void* data);

// The PTX image that the driver would compile for this architecture, nullptr when there is none.
const FatImage* choose_image(const std::vector<FatImage>& images, const Arch& arch);

// Throws Fault when the compression is not known.
std::string ptx_text(const FatImage& image);

}  // namespace emu
