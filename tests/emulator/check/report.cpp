// SPDX-License-Identifier: BSD-3-Clause
#include "check/report.h"

#include <map>

namespace emu::check {
namespace {

std::string triple(uint64_t linear, const uint32_t extent[3]) {
    const uint64_t x = linear % extent[0], rest = linear / extent[0];
    std::string text = "(";
    text += std::to_string(x) + "," + std::to_string(rest % extent[1]) + "," +
            std::to_string(rest / extent[1]) + ")";
    return text;
}

std::string extent_text(const uint32_t e[3]) {
    return std::to_string(e[0]) + "x" + std::to_string(e[1]) + "x" + std::to_string(e[2]);
}

std::string header(const LaunchInfo& launch) {
    std::string text = "\n  kernel " + launch.kernel + ", grid " + extent_text(launch.grid) +
                       ", block " + extent_text(launch.block);
    if (launch.cluster[0] * launch.cluster[1] * launch.cluster[2] != 1) {
        text += ", cluster " + extent_text(launch.cluster);
    }
    return text;
}

}  // namespace

std::string block_text(const LaunchInfo& launch, uint64_t cta) {
    return triple(cta, launch.grid);
}

std::string thread_text(const LaunchInfo& launch, uint32_t warp, int lane) {
    const uint32_t first = warp * 32;
    if (lane != kNoLane) {
        return "thread " + triple(first + static_cast<uint32_t>(lane), launch.block);
    }
    const uint32_t last = std::min(first + 31, std::max(launch.threads(), first + 1) - 1);
    return "warp " + std::to_string(warp) + " (threads " + std::to_string(first) + "-" +
           std::to_string(last) + ")";
}

std::string location_text(const LaunchInfo& launch, uint32_t pc) {
    if (launch.source == nullptr) {
        return "instruction " + std::to_string(pc);
    }
    const Location at = launch.source->locate(pc);
    std::string text = "PTX line " + std::to_string(at.ptx_line);
    if (!at.ptx_text.empty()) {
        text += ": " + at.ptx_text;
    }
    if (!at.source_file.empty()) {
        text += " (" + at.source_file + ":" + std::to_string(at.source_line) + ")";
    }
    return text;
}

std::string site_text(const LaunchInfo& launch, const Site& site) {
    return "block " + block_text(launch, site.cta) + " " +
           thread_text(launch, site.warp, site.lane) + ", " + location_text(launch, site.pc);
}

Fault fault_at(int error, const std::string& headline, const LaunchInfo& launch, const Site& site,
               const std::string& details) {
    std::string text = headline + header(launch) + "\n  at " + site_text(launch, site);
    if (!details.empty()) {
        text += "\n" + details;
    }
    return Fault(error, text);
}

Fault deadlock(const LaunchInfo& launch, const std::vector<StuckWarp>& warps) {
    // Warps of one block that wait for the same thing at the same place share a line.
    struct Group {
        uint64_t cta;
        std::vector<uint32_t> warps;
        const StuckWarp* example;
    };
    std::vector<Group> groups;
    std::map<std::string, size_t> index;
    for (const StuckWarp& w : warps) {
        const std::string key =
            std::to_string(w.site.cta) + "/" + std::to_string(w.site.pc) + "/" + w.waits_for;
        const auto [it, fresh] = index.emplace(key, groups.size());
        if (fresh) {
            groups.push_back({w.site.cta, {}, &w});
        }
        groups[it->second].warps.push_back(w.site.warp);
    }
    std::string text =
        "deadlock: no warp can run and no asynchronous operation is pending" + header(launch);
    constexpr size_t kShown = 64;
    for (size_t i = 0; i < groups.size() && i < kShown; ++i) {
        const Group& g = groups[i];
        text +=
            "\n  block " + block_text(launch, g.cta) + (g.warps.size() == 1 ? " warp" : " warps");
        for (size_t k = 0; k < g.warps.size();) {
            size_t end = k + 1;
            while (end < g.warps.size() && g.warps[end] == g.warps[end - 1] + 1) {
                ++end;
            }
            text += k == 0 ? " " : ",";
            text += std::to_string(g.warps[k]);
            if (end - k > 1) {
                text += "-";
                text += std::to_string(g.warps[end - 1]);
            }
            k = end;
        }
        text += " waits for " + g.example->waits_for + " at " +
                location_text(launch, g.example->site.pc);
    }
    if (groups.size() > kShown) {
        text += "\n  and " + std::to_string(groups.size() - kShown) + " groups of warps more";
    }
    return Fault(fault::kLaunchTimeout, text);
}

}  // namespace emu::check
