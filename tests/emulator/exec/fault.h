// SPDX-License-Identifier: BSD-3-Clause
#pragma once
#include <string>
#include <utility>

namespace emu {

// What a faulty kernel, module or call is stopped with; `error` is a cudaError_t value.
struct Fault {
    int error;
    std::string text;
    Fault(int e, std::string t) : error(e), text(std::move(t)) {}
};

namespace fault {
constexpr int kInvalidPtx = 218, kSymbolNotFound = 500, kLaunchOutOfResources = 701,
              kIllegalAddress = 700, kLaunchTimeout = 702, kAssert = 710, kIllegalInstruction = 715,
              kMisalignedAddress = 716, kLaunchFailure = 719, kInvalidValue = 1;
}  // namespace fault

}  // namespace emu
