// SPDX-License-Identifier: BSD-3-Clause
// What LIMELIGHT_EMULATOR_* variables and limelight_emulator_configure() set. Keys are the names in
// lower case.
#pragma once

#include <cstdint>
#include <string>

#include "exec/machine.h"
#include "runtime/arch.h"

namespace emu {

struct Settings {
    const Arch* arch;  // arch: sm_80, sm_86, sm_89, sm_90a, sm_100a, sm_103a, sm_120a
    int sms = 0;       // sms: 0 = the architecture's own number
    int threads = 0;   // threads: host threads, 0 = all cores
    Schedule schedule = Schedule::fair;    // schedule: fair, early, late, random
    uint64_t seed = 0;                     // seed
    std::string checks = "all";            // checks: all, none, or a comma list
    std::string report;                    // report: path of the JSON lines, empty = no counters
    bool quiet = false;                    // quiet: 1 = faults are not printed to stderr
    uint64_t memory = uint64_t{16} << 30;  // memory: bytes of the device
    double hang_seconds = 20;              // hang_seconds: spinning for so long is a deadlock
    bool fp32_fp8_sums = false;            // fp8_sums: hardware, fp32
    int driver = 13000;                    // driver: version that cudaDriverGetVersion gives

    int sm_count() const { return sms > 0 ? sms : arch->sms; }
};

const Settings& settings();

// Empty when the value was taken; otherwise what is wrong with it. Unknown keys are errors.
std::string configure(const std::string& key, const std::string& value);

// What was wrong with the environment, empty when nothing.
const std::string& environment_error();

const char* schedule_name(Schedule schedule);

}  // namespace emu
