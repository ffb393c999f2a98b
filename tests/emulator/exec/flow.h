// SPDX-License-Identifier: BSD-3-Clause
// Control flow of a linked program.
#pragma once
#include "exec/machine.h"

namespace emu {

// Lanes at `from` can never reach `to`, but meet the lanes that come from there again before they
// exit.
bool goes_round(const Program& program, uint32_t from, uint32_t to);

}  // namespace emu
