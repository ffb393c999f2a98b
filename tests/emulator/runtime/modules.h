// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "runtime/fatbin.h"
#include "runtime/state.h"

namespace emu {

struct RegisteredVariable {
    const void* host = nullptr;
    void** managed = nullptr;  // host pointer to fill in, for __managed__
    std::string name;
    size_t bytes = 0;
};

struct FatBinary {
    std::vector<FatImage> images;
    std::string text;    // PTX that was loaded as text: then there are no images
    std::string broken;  // why `images` could not be read
    std::vector<std::unique_ptr<Kernel>> kernels;
    std::vector<RegisteredVariable> variables;
    std::shared_ptr<Image> image;
    std::vector<void*> storage;  // of the module's variables
};

// A binary that cudaLibraryLoadData brings: a fat binary, its wrapper, or PTX text. Throws Fault.
FatBinary* load_library(const void* code);
void unload(FatBinary* binary);
// The kernel of this name in a loaded library; Fault{cudaErrorSymbolNotFound} when there is none.
Kernel& kernel_named(FatBinary& binary, const std::string& name);

}  // namespace emu
