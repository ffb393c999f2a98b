// SPDX-License-Identifier: BSD-3-Clause
#include "check/config.h"

#include <string>

#include "exec/fault.h"

namespace emu::check {

Config Config::none() {
    return Config{false, false, false, false, false, false, false};
}

Config Config::parse(std::string_view text) {
    if (text.empty() || text == "all") {
        return Config{};
    }
    Config config = none();
    if (text == "none") {
        return config;
    }
    const struct {
        const char* name;
        bool* flag;
    } known[] = {{"bounds", &config.bounds},   {"init", &config.init},
                 {"races", &config.races},     {"barriers", &config.barriers},
                 {"aligned", &config.aligned}, {"async", &config.async},
                 {"tmem", &config.tmem}};
    for (size_t begin = 0; begin <= text.size();) {
        const size_t end = std::min(text.find(',', begin), text.size());
        const std::string_view word = text.substr(begin, end - begin);
        bool found = false;
        for (const auto& k : known) {
            if (word == k.name) {
                *k.flag = found = true;
            }
        }
        if (!found) {
            throw Fault(fault::kInvalidValue,
                        "LIMELIGHT_EMULATOR_CHECKS: unknown check '" + std::string(word) +
                            "'; use all, none or a comma list of bounds, init, races, barriers, "
                            "aligned, async, tmem");
        }
        begin = end + 1;
    }
    return config;
}

}  // namespace emu::check
