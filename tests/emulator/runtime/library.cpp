// SPDX-License-Identifier: BSD-3-Clause
// cudaLibrary*: device code that is loaded at run time, as fat binary or as PTX text (what NVRTC
// makes).
#include <fstream>
#include <iterator>
#include <map>

#include "runtime/modules.h"

namespace emu {
namespace {

struct Library {
    FatBinary* binary = nullptr;
    std::string file;  // keeps the bytes that `binary` points into
};

std::map<Library*, std::unique_ptr<Library>>& libraries() {
    static auto& all = *new std::map<Library*, std::unique_ptr<Library>>;
    return all;
}

Library& find_library(cudaLibrary_t handle) {
    auto* library = reinterpret_cast<Library*>(handle);
    if (!libraries().contains(library)) {
        throw Fault(cudaErrorInvalidResourceHandle, "this is no library");
    }
    return *library;
}

cudaError_t publish(cudaLibrary_t* out, std::unique_ptr<Library> library) {
    *out = reinterpret_cast<cudaLibrary_t>(library.get());
    libraries()[library.get()] = std::move(library);
    return cudaSuccess;
}

std::vector<const ptx::Function*> kernels_in(Library& library) {
    std::vector<const ptx::Function*> kernels;
    for (const ptx::Function& function : image_of(*library.binary)->module->functions) {
        if (function.is_entry) {
            kernels.push_back(&function);
        }
    }
    return kernels;
}

}  // namespace
}  // namespace emu

using namespace emu;

extern "C" {

cudaError_t cudaLibraryLoadData(cudaLibrary_t* out, const void* code, cudaJitOption*, void**,
                                unsigned, cudaLibraryOption*, void**, unsigned) {
    return api([&] {
        auto library = std::make_unique<Library>();
        library->binary = load_library(code);
        return publish(out, std::move(library));
    });
}

cudaError_t cudaLibraryLoadFromFile(cudaLibrary_t* out, const char* path, cudaJitOption*, void**,
                                    unsigned, cudaLibraryOption*, void**, unsigned) {
    return api([&] {
        std::ifstream in(path, std::ios::binary);
        if (!in) {
            return fail(cudaErrorFileNotFound, std::string("cannot read ") + path);
        }
        auto library = std::make_unique<Library>();
        library->file.assign(std::istreambuf_iterator<char>(in), {});
        library->binary = load_library(library->file.c_str());
        return publish(out, std::move(library));
    });
}

cudaError_t cudaLibraryUnload(cudaLibrary_t handle) {
    return api([&] {
        Library* library = &find_library(handle);
        unload(library->binary);
        libraries().erase(library);
        return cudaSuccess;
    });
}

cudaError_t cudaLibraryGetKernel(cudaKernel_t* out, cudaLibrary_t handle, const char* name) {
    return api([&] {
        *out = reinterpret_cast<cudaKernel_t>(&kernel_named(*find_library(handle).binary, name));
        return cudaSuccess;
    });
}

cudaError_t cudaLibraryGetKernelCount(unsigned* count, cudaLibrary_t handle) {
    return api([&] {
        *count = static_cast<unsigned>(kernels_in(find_library(handle)).size());
        return cudaSuccess;
    });
}

cudaError_t cudaLibraryEnumerateKernels(cudaKernel_t* out, unsigned count, cudaLibrary_t handle) {
    return api([&] {
        Library& library = find_library(handle);
        const std::vector<const ptx::Function*> kernels = kernels_in(library);
        for (unsigned i = 0; i < count && i < kernels.size(); ++i) {
            out[i] =
                reinterpret_cast<cudaKernel_t>(&kernel_named(*library.binary, kernels[i]->name));
        }
        return cudaSuccess;
    });
}

cudaError_t cudaLibraryGetGlobal(void** address, size_t* bytes, cudaLibrary_t handle,
                                 const char* name) {
    return api([&] {
        const auto image = image_of(*find_library(handle).binary);
        const auto symbol = image->symbols.find(name);
        if (symbol == image->symbols.end()) {
            return fail(cudaErrorSymbolNotFound,
                        std::string("the library has no variable '") + name + "'");
        }
        if (address) {
            *address = reinterpret_cast<void*>(symbol->second.address);
        }
        if (bytes) {
            *bytes = symbol->second.bytes;
        }
        return cudaSuccess;
    });
}

cudaError_t cudaLibraryGetManaged(void** address, size_t* bytes, cudaLibrary_t library,
                                  const char* name) {
    return cudaLibraryGetGlobal(address, bytes, library, name);
}

}  // extern "C"
