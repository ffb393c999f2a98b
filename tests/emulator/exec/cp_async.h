// SPDX-License-Identifier: BSD-3-Clause
// What the end of a warp needs of cp.async.
#pragma once
#include <string>

#include "exec/machine.h"

namespace emu {

std::string unfinished_copies(Warp& warp, uint32_t lanes);  // empty: all have been waited for
void finish_all_copies(Warp& warp);

}  // namespace emu
