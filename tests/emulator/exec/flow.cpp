// SPDX-License-Identifier: BSD-3-Clause
#include "exec/flow.h"

#include <map>
#include <mutex>

namespace emu {

namespace {

void successors(const Program& p, uint32_t pc, std::vector<uint32_t>& out) {
    const ptx::Statement* s = p.sources[pc].statement;
    const std::string_view op = s ? s->parts[0] : std::string_view();
    const bool guarded = p.code[pc].guard != kAlways;
    if (op == "bra") {
        out.push_back(p.code[pc].target);
    } else if (op == "brx") {
        for (uint32_t target : *static_cast<const std::vector<uint32_t>*>(p.code[pc].ext)) {
            out.push_back(target);
        }
    }
    const bool ends = op == "bra" || op == "brx" || op == "ret" || op == "exit" || op == "trap";
    if ((!ends || guarded) && pc + 1 < p.code.size()) {
        out.push_back(pc + 1);
    }
}

std::vector<bool> reachable(const Program& p, uint32_t from) {
    std::vector<bool> seen(p.code.size(), false);
    std::vector<uint32_t> work{from}, next;
    seen[from] = true;
    while (!work.empty()) {
        const uint32_t pc = work.back();
        work.pop_back();
        next.clear();
        successors(p, pc, next);
        for (uint32_t n : next) {
            if (!seen[n]) {
                seen[n] = true;
                work.push_back(n);
            }
        }
    }
    return seen;
}

}  // namespace

bool goes_round(const Program& p, uint32_t from, uint32_t to) {
    static std::mutex mutex;
    static std::map<std::pair<const Program*, uint64_t>, bool> known;
    const std::pair key(&p, static_cast<uint64_t>(from) << 32 | to);
    std::lock_guard lock(mutex);
    if (auto it = known.find(key); it != known.end()) {
        return it->second;
    }
    if (known.size() > 100000) {
        known.clear();
    }
    const std::vector<bool> theirs = reachable(p, from);
    bool round = false;
    if (!theirs[to]) {
        const std::vector<bool> ours = reachable(p, to);
        for (uint32_t pc = 0; pc < p.code.size() && !round; ++pc) {
            if (!theirs[pc] || !ours[pc]) {
                continue;
            }
            const Source& source = p.sources[pc];
            const std::string_view op =
                source.statement ? source.statement->parts[0] : std::string_view();
            const bool leaves =
                op == "bra" || op == "exit" || (op == "ret" && source.function == p.entry);
            round = !leaves;
        }
    }
    known[key] = round;
    return round;
}

}  // namespace emu
