// SPDX-License-Identifier: BSD-3-Clause
// Device functions that the driver would provide: vprintf, __assertfail, malloc, free.
#pragma once
#include <string>

#include "exec/machine.h"

namespace emu {

// arguments: frame offsets; result: frame offset or ~0u.
using Builtin = void (*)(Warp& warp, uint32_t active, const uint32_t* arguments, uint32_t result);
Builtin builtin_named(const std::string& name);  // nullptr when unknown

}  // namespace emu
