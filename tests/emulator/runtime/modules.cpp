// SPDX-License-Identifier: BSD-3-Clause
// Fat binaries that host code registers, their kernels and variables; loaded on first use.
#include <algorithm>
#include <cstring>

#include "runtime/modules.h"

namespace emu {

namespace {

struct Modules {
    std::vector<std::unique_ptr<FatBinary>> binaries;
    std::unordered_map<const void*, Kernel*> kernels;  // by host stub and by handle
    std::unordered_map<const void*, std::pair<FatBinary*, size_t>> variables;
};

Modules& modules() {
    static Modules& m = *new Modules;
    return m;
}

std::string names_of(const std::vector<FatImage>& images) {
    std::string all;
    for (const FatImage& image : images) {
        all += all.empty() ? "" : ", ";
        all += image.name();
    }
    return all.empty() ? "nothing" : all;
}

void drop_image(FatBinary& binary) {
    for (void* pointer : binary.storage) {
        allocations().remove(reinterpret_cast<uint64_t>(pointer));
        std::free(pointer);
    }
    binary.storage.clear();
    binary.image.reset();
}

void* place_variable(FatBinary& binary, const ptx::Variable& variable) {
    constexpr size_t kRed = check::Allocations::kRedZone;
    const size_t align = std::max<size_t>(variable.align, kRed);
    const size_t bytes = (variable.bytes + 2 * kRed + align - 1) / align * align;
    auto* raw = static_cast<char*>(std::aligned_alloc(align, bytes));
    if (!raw) {
        throw Fault(cudaErrorMemoryAllocation,
                    "no memory for the device variable '" + variable.name + "'");
    }
    std::memset(raw, 0, bytes);
    binary.storage.push_back(raw);
    const bool constant = variable.space == ptx::Space::constant;
    const auto kind = constant              ? check::MemoryKind::Constant
                      : variable.is_managed ? check::MemoryKind::Managed
                                            : check::MemoryKind::ModuleGlobal;
    allocations().add(reinterpret_cast<uint64_t>(raw), std::max<size_t>(variable.bytes, 1), kind,
                      variable.name, constant);
    return raw;
}

Fault no_kernel(const void* function) {
    char address[32];
    std::snprintf(address, sizeof address, "%p", function);
    return Fault(cudaErrorInvalidDeviceFunction,
                 std::string("no kernel is registered at ") + address);
}

}  // namespace

Kernel* find_kernel(const void* function) {
    const auto at = modules().kernels.find(function);
    return at == modules().kernels.end() ? nullptr : at->second;
}

Kernel& kernel_or_throw(const void* function) {
    Kernel* kernel = find_kernel(function);
    if (!kernel) {
        throw no_kernel(function);
    }
    return *kernel;
}

std::shared_ptr<Image> image_of(FatBinary& binary) {
    if (binary.image) {
        return binary.image;
    }
    if (!binary.broken.empty()) {
        throw Fault(cudaErrorInvalidKernelImage, binary.broken);
    }
    const Arch& arch = *settings().arch;
    const FatImage* image = choose_image(binary.images, arch);
    if (!image && binary.text.empty()) {
        throw Fault(cudaErrorNoKernelImageForDevice,
                    std::string("no PTX for ") + arch.name + " in this fat binary, which holds " +
                        names_of(binary.images) +
                        "; the emulator runs PTX only: compile with -gencode "
                        "arch=compute_XX,code=compute_XX for an XX that " +
                        arch.name + " runs, or choose another LIMELIGHT_EMULATOR_ARCH");
    }
    try {
        binary.image =
            exec::load(image ? ptx_text(*image) : binary.text, arch.number(),
                       [&](const ptx::Variable& v) { return place_variable(binary, v); });
    } catch (...) {
        drop_image(binary);
        throw;
    }
    for (const RegisteredVariable& variable : binary.variables) {
        const auto symbol = binary.image->symbols.find(variable.name);
        if (variable.managed && symbol != binary.image->symbols.end()) {
            *variable.managed = reinterpret_cast<void*>(symbol->second.address);
        }
    }
    return binary.image;
}

exec::FunctionFacts facts_of(Kernel& kernel) {
    return exec::facts(*image_of(*kernel.binary), kernel.name);
}

std::vector<KernelParameter> parameters_of(Kernel& kernel) {
    return exec::kernel_parameters(*image_of(*kernel.binary), kernel.name);
}

DeviceSymbol find_symbol(const void* host_variable) {
    const auto at = modules().variables.find(host_variable);
    if (at == modules().variables.end()) {
        throw Fault(cudaErrorInvalidSymbol, "no device variable is registered for this symbol");
    }
    const auto& [binary, index] = at->second;
    const RegisteredVariable& variable = binary->variables[index];
    const std::shared_ptr<Image> image = image_of(*binary);
    const auto symbol = image->symbols.find(variable.name);
    if (symbol == image->symbols.end()) {
        throw Fault(cudaErrorInvalidSymbol, "the PTX has no variable '" + variable.name + "'");
    }
    return {reinterpret_cast<void*>(symbol->second.address), variable.bytes};
}

void unload(FatBinary* binary) {
    Modules& m = modules();
    std::erase_if(m.kernels, [&](const auto& entry) { return entry.second->binary == binary; });
    std::erase_if(m.variables, [&](const auto& entry) { return entry.second.first == binary; });
    const auto at = std::find_if(m.binaries.begin(), m.binaries.end(),
                                 [&](const auto& b) { return b.get() == binary; });
    if (at != m.binaries.end()) {
        drop_image(**at);
        m.binaries.erase(at);
    }
}

FatBinary* load_library(const void* code) {
    auto binary = std::make_unique<FatBinary>();
    uint32_t magic = 0;
    std::memcpy(&magic, code, sizeof magic);
    if (magic == 0x466243b1 || magic == 0xba55ed50) {
        binary->images = read_fat_binary(code);
    } else if (const char* text = static_cast<const char*>(code); std::strstr(text, ".version")) {
        binary->text = text;
    } else {
        throw Fault(
            cudaErrorInvalidKernelImage,
            "library code is neither a fat binary nor PTX; the emulator has no other loader");
    }
    FatBinary* out = binary.get();
    modules().binaries.push_back(std::move(binary));
    try {
        image_of(*out);
    } catch (...) {
        unload(out);
        throw;
    }
    return out;
}

Kernel& kernel_named(FatBinary& binary, const std::string& name) {
    for (const auto& kernel : binary.kernels) {
        if (kernel->name == name) {
            return *kernel;
        }
    }
    const ptx::Function* function = image_of(binary)->module->function(name);
    if (!function || !function->is_entry) {
        throw Fault(cudaErrorSymbolNotFound, "the library has no kernel '" + name + "'");
    }
    auto kernel = std::make_unique<Kernel>();
    kernel->binary = &binary;
    kernel->name = name;
    kernel->host = kernel.get();
    modules().kernels[kernel.get()] = kernel.get();
    binary.kernels.push_back(std::move(kernel));
    return *binary.kernels.back();
}

void forget_images() {
    for (const auto& binary : modules().binaries) {
        drop_image(*binary);
    }
}

}  // namespace emu

using namespace emu;

#pragma GCC visibility push(default)
extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
    const std::lock_guard lock(runtime_mutex());
    auto binary = std::make_unique<FatBinary>();
    try {
        binary->images = read_fat_binary(wrapper);
    } catch (const Fault& fault) {
        binary->broken = fault.text;
    }
    modules().binaries.push_back(std::move(binary));
    return reinterpret_cast<void**>(modules().binaries.back().get());
}

void __cudaRegisterFatBinaryEnd(void**) {}

void __cudaUnregisterFatBinary(void** handle) {
    const std::lock_guard lock(runtime_mutex());
    unload(reinterpret_cast<FatBinary*>(handle));
}

void __cudaRegisterFunction(void** handle, const char* host, char*, const char* name, int, uint3*,
                            uint3*, dim3*, dim3*, int*) {
    const std::lock_guard lock(runtime_mutex());
    auto* binary = reinterpret_cast<FatBinary*>(handle);
    auto kernel = std::make_unique<Kernel>();
    kernel->binary = binary;
    kernel->host = host;
    kernel->name = name;
    modules().kernels[host] = kernel.get();
    modules().kernels[kernel.get()] = kernel.get();
    binary->kernels.push_back(std::move(kernel));
}

static void register_variable(void** handle, const void* key, void** managed, const char* name,
                              size_t bytes) {
    const std::lock_guard lock(runtime_mutex());
    auto* binary = reinterpret_cast<FatBinary*>(handle);
    binary->variables.push_back({key, managed, name, bytes});
    modules().variables[key] = {binary, binary->variables.size() - 1};
}

void __cudaRegisterVar(void** handle, char* host, char*, const char* name, int, size_t bytes, int,
                       int) {
    register_variable(handle, host, nullptr, name, bytes);
}

void __cudaRegisterHostVar(void**, const char*, char*, size_t) {}

void __cudaRegisterManagedVar(void** handle, void** host, char*, const char* name, int,
                              size_t bytes, int, int) {
    register_variable(handle, host, host, name, bytes);
}

char __cudaInitModule(void** handle) {
    auto& binary = *reinterpret_cast<FatBinary*>(handle);
    const cudaError_t error = api([&] {
        image_of(binary);
        return cudaSuccess;
    });
    for (const RegisteredVariable& variable : binary.variables) {
        if (error != cudaSuccess && variable.managed && !*variable.managed) {
            *variable.managed =
                std::calloc(variable.bytes, 1);  // host code reads it before it can see the error
        }
    }
    return error == cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
    return api([&] {
        *kernel = reinterpret_cast<cudaKernel_t>(&kernel_or_throw(function));
        return cudaSuccess;
    });
}

cudaError_t cudaGetKernel(cudaKernel_t* kernel, const void* function) {
    return __cudaGetKernel(kernel, function);
}

cudaError_t cudaGetFuncBySymbol(cudaFunction_t* out, const void* symbol) {
    return api([&] {
        *out = reinterpret_cast<cudaFunction_t>(&kernel_or_throw(symbol));
        return cudaSuccess;
    });
}

cudaError_t cudaFuncGetName(const char** name, const void* function) {
    return api([&] {
        *name = kernel_or_throw(function).name.c_str();
        return cudaSuccess;
    });
}

cudaError_t cudaFuncGetParamInfo(const void* function, size_t index, size_t* offset,
                                 size_t* bytes) {
    return api([&] {
        const auto parameters = parameters_of(kernel_or_throw(function));
        if (index >= parameters.size()) {
            return cudaErrorInvalidValue;
        }
        *offset = parameters[index].offset;
        if (bytes) {
            *bytes = parameters[index].bytes;
        }
        return cudaSuccess;
    });
}

cudaError_t cudaGetSymbolAddress(void** address, const void* symbol) {
    return api([&] {
        *address = find_symbol(symbol).address;
        return cudaSuccess;
    });
}

cudaError_t cudaGetSymbolSize(size_t* bytes, const void* symbol) {
    return api([&] {
        *bytes = find_symbol(symbol).bytes;
        return cudaSuccess;
    });
}

}  // extern "C"
#pragma GCC visibility pop
