// SPDX-License-Identifier: BSD-3-Clause
#include "runtime/settings.h"

#include <cctype>
#include <cstdlib>
#include <thread>

#include "check/config.h"
#include "exec/fault.h"

namespace emu {
namespace {

constexpr const char* kKeys[] = {"arch",   "sms",          "threads",  "schedule",
                                 "seed",   "checks",       "report",   "quiet",
                                 "memory", "hang_seconds", "fp8_sums", "driver"};

std::string wrong(const std::string& key, const std::string& value, const std::string& allowed) {
    return "emulator setting " + key + " = '" + value + "': allowed is " + allowed;
}

// Decimal digits, optionally with K, M or G (powers of 1024).
bool parse_number(const std::string& text, uint64_t& out) {
    if (text.empty() || text[0] < '0' || text[0] > '9') {
        return false;
    }
    char* end = nullptr;
    out = std::strtoull(text.c_str(), &end, 10);
    const std::string suffix = end;
    const std::string known = "KMG";
    if (suffix.size() == 1 && known.find(suffix[0]) != std::string::npos) {
        out <<= 10 * (known.find(suffix[0]) + 1);
        return true;
    }
    return suffix.empty();
}

std::string apply(Settings& s, const std::string& key, const std::string& value) {
    uint64_t number = 0;
    const bool is_number = parse_number(value, number);
    if (key == "arch") {
        const Arch* arch = find_arch(value);
        if (!arch) {
            return wrong(key, value, arch_names());
        }
        s.arch = arch;
    } else if (key == "schedule") {
        for (const Schedule schedule :
             {Schedule::fair, Schedule::early, Schedule::late, Schedule::random}) {
            if (value == schedule_name(schedule)) {
                s.schedule = schedule;
                return {};
            }
        }
        return wrong(key, value, "fair, early, late, random");
    } else if (key == "checks") {
        try {
            check::Config::parse(value);
        } catch (const Fault& fault) {
            return "emulator setting checks: " + fault.text;
        }
        s.checks = value;
    } else if (key == "report") {
        s.report = value;
    } else if (key == "quiet") {
        if (value != "0" && value != "1") {
            return wrong(key, value, "0 or 1");
        }
        s.quiet = value == "1";
    } else if (key == "fp8_sums") {
        if (value != "hardware" && value != "fp32") {
            return wrong(key, value, "hardware or fp32");
        }
        s.fp32_fp8_sums = value == "fp32";
    } else if (key == "hang_seconds") {
        char* end = nullptr;
        const double seconds = std::strtod(value.c_str(), &end);
        if (value.empty() || *end || !(seconds > 0)) {
            return wrong(key, value, "a number of seconds above 0");
        }
        s.hang_seconds = seconds;
    } else if (key == "sms" || key == "threads") {
        if (!is_number || number > 1024) {
            return wrong(key, value, "0 (automatic) to 1024");
        }
        (key == "sms" ? s.sms : s.threads) = static_cast<int>(number);
    } else if (key == "driver") {
        if (!is_number || number < 10000 || number > 99000) {
            return wrong(key, value, "a CUDA version such as 13000");
        }
        s.driver = static_cast<int>(number);
    } else if (key == "seed" || key == "memory") {
        if (!is_number) {
            return wrong(key, value, "a number without sign");
        }
        (key == "seed" ? s.seed : s.memory) = number;
    } else {
        std::string known;
        for (const char* k : kKeys) {
            known += known.empty() ? "" : ", ";
            known += k;
        }
        return "emulator setting '" + key + "' is unknown: there are " + known;
    }
    return {};
}

struct Holder {
    Settings settings;
    std::string error;

    Holder() {
        settings.arch = find_arch("sm_90a");
        for (const char* key : kKeys) {
            std::string name = "LIMELIGHT_EMULATOR_";
            for (const char* c = key; *c; ++c) {
                name += static_cast<char>(std::toupper(static_cast<unsigned char>(*c)));
            }
            const char* value = std::getenv(name.c_str());
            if (value && *value && error.empty()) {
                error = apply(settings, key, value);
            }
        }
    }
};

Holder& holder() {
    static Holder& h = *new Holder;
    return h;
}

}  // namespace

const Settings& settings() {
    return holder().settings;
}

const std::string& environment_error() {
    return holder().error;
}

std::string configure(const std::string& key, const std::string& value) {
    return apply(holder().settings, key, value);
}

const char* schedule_name(Schedule schedule) {
    switch (schedule) {
        case Schedule::early:
            return "early";
        case Schedule::late:
            return "late";
        case Schedule::random:
            return "random";
        default:
            return "fair";
    }
}

}  // namespace emu
