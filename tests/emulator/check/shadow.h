// SPDX-License-Identifier: BSD-3-Clause
// Shadow memory: per 4 bytes the last writer and the readers since, as ids of access records.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "check/clock.h"
#include "check/report.h"

namespace emu::check {

enum class Op : uint8_t { Read, Write, Atomic };  // Atomic: reads and writes at once
enum class Proxy : uint8_t { Generic, Async };
enum class Scope : uint8_t { None, Cta, Cluster, Gpu, Sys };

struct Access {
    AgentId agent = 0;
    uint32_t pc = 0;
    Op op = Op::Read;
    Scope scope = Scope::None;  // None: weak; else a strong (atomic, relaxed, acquire, release,
                                // volatile) access
};

class GlobalShadow;

}  // namespace emu::check
