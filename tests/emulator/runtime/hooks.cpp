// SPDX-License-Identifier: BSD-3-Clause
// What Python and tests call beside the CUDA API.
#include "runtime/state.h"

namespace emu {
int unsupported(const char* name);
int unsupported(const char* name) {
    return api([&] {
        return fail(cudaErrorNotSupported,
                    std::string(name) + " is not implemented in the emulator");
    });
}
}  // namespace emu

using namespace emu;

#pragma GCC visibility push(default)
extern "C" {

// Host memory that kernels may use, e.g. a CPU tensor's; 0, or cudaErrorInvalidValue.
int limelight_emulator_register_host(const void* pointer, size_t bytes, const char* name) {
    const std::lock_guard lock(runtime_mutex());
    if (!pointer || bytes == 0) {
        return fail(cudaErrorInvalidValue,
                    "limelight_emulator_register_host needs a pointer and at least one byte");
    }
    allocations().add(reinterpret_cast<uint64_t>(pointer), bytes, check::MemoryKind::HostRegistered,
                      name ? name : "host memory");
    return 0;
}

int limelight_emulator_unregister_host(const void* pointer) {
    const std::lock_guard lock(runtime_mutex());
    return allocations().remove(reinterpret_cast<uint64_t>(pointer)) ? 0 : cudaErrorInvalidValue;
}

// Text of the last fault or refused call; valid until the next one. Empty when there was none.
const char* limelight_emulator_last_report() {
    const std::lock_guard lock(runtime_mutex());
    return last_report().c_str();
}

// Sets what LIMELIGHT_EMULATOR_<KEY> sets. nullptr, or the text of what is wrong, valid until the
// next call.
const char* limelight_emulator_configure(const char* key, const char* value) {
    const std::lock_guard lock(runtime_mutex());
    static std::string& error = *new std::string;
    const Arch* arch = settings().arch;
    error = configure(key, value);
    if (settings().arch != arch) {
        forget_images();  // kernels are loaded anew from the PTX for this architecture; device
                          // variables too
    }
    return error.empty() ? nullptr : error.c_str();
}

// Forgets errors, those after which a real context is lost included; memory and modules stay as
// they are.
void limelight_emulator_clear_errors() {
    const std::lock_guard lock(runtime_mutex());
    clear_errors();
    explain("");
}

}  // extern "C"
#pragma GCC visibility pop
