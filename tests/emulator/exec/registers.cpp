// SPDX-License-Identifier: BSD-3-Clause
// Register words shared by virtual registers that are never live together: a warp's registers then
// fit the cache.
#include <algorithm>
#include <limits>

#include "exec/program.h"

namespace emu {

namespace {

using ptx::Operand;

struct Interval {
    uint32_t first = std::numeric_limits<uint32_t>::max(), last = 0;
    bool defined_first = false;  // the first mention writes every lane
    bool pinned = false;         // an asynchronous unit may touch it at any time
};

struct Loop {  // a backward branch
    uint32_t begin, end;
};
struct Skip {  // a forward branch
    uint32_t from, to;
};

void mention(const Operand& o, uint32_t at, bool defines, bool pin,
             std::vector<Interval>& intervals) {
    if (o.kind == Operand::Kind::reg) {
        Interval& v = intervals[static_cast<size_t>(o.reg)];
        if (v.first == std::numeric_limits<uint32_t>::max()) {
            v.first = at;
            v.defined_first = defines;
        }
        v.first = std::min(v.first, at);
        v.last = std::max(v.last, at);
        v.pinned |= pin;
    }
    for (const Operand& item : o.items) {
        mention(item, at, defines && o.kind != Operand::Kind::address, pin, intervals);
    }
}

bool writes_first_operand(std::string_view op) {
    return op != "st" && op != "red" && op != "bra" && op != "call" && op != "wgmma" &&
           op != "tcgen05" && op != "cp";
}

uint32_t words_of(ptx::Type type) {
    const int bytes = ptx::bytes_of(type);
    return bytes > 8 ? 4 * kLanes : bytes > 4 ? 2 * kLanes : kLanes;
}

}  // namespace

uint32_t allocate_registers(const ptx::Function& f, uint32_t base, std::vector<uint32_t>& words,
                            uint32_t& predicates) {
    const size_t count = f.registers.size();
    std::vector<Interval> intervals(count);
    std::vector<Loop> loops;
    std::vector<Skip> skips;
    auto branch = [&](uint32_t from, int64_t to) {
        if (to <= from) {
            loops.push_back({static_cast<uint32_t>(to), from});
        } else {
            skips.push_back({from, static_cast<uint32_t>(to)});
        }
    };
    for (uint32_t at = 0; at < f.statements.size(); ++at) {
        const ptx::Statement& s = f.statements[at];
        mention(s.guard, at, false, false, intervals);
        const bool pin = s.parts[0] == "wgmma" || s.parts[0] == "tcgen05";
        // Sources first: "add r, r, 1" reads r.
        const bool writes = writes_first_operand(s.parts[0]) && s.guard.kind == Operand::Kind::none;
        for (size_t k = s.operands.size(); k-- > 0;) {
            mention(s.operands[k], at, k == 0 && writes, pin, intervals);
        }
        for (const Operand& o : s.operands) {
            if (o.kind == Operand::Kind::label && s.parts[0] == "bra") {
                branch(at, o.value);
            }
        }
        if (s.parts[0] == "brx" && s.operands.size() > 1) {
            if (auto table = f.branch_targets.find(s.operands[1].name);
                table != f.branch_targets.end()) {
                for (const Operand& o : table->second) {
                    branch(at, o.value);
                }
            }
        }
    }
    for (bool changed = true; changed;) {
        changed = false;
        for (Interval& v : intervals) {
            if (v.first > v.last) {
                continue;
            }
            // A definition that a branch may skip does not keep an older value from being read
            // after it.
            if (v.defined_first && !loops.empty()) {
                for (const Skip& skip : skips) {
                    if (skip.from < v.first && skip.to > v.first && skip.to <= v.last) {
                        v.defined_first = false;
                        break;
                    }
                }
            }
            for (const Loop& loop : loops) {
                const bool touches = v.first <= loop.end && v.last >= loop.begin;
                if (!touches) {
                    continue;
                }
                if ((v.first < loop.begin || !v.defined_first) && v.last < loop.end) {
                    v.last = loop.end;
                    changed = true;
                }
                if (!v.defined_first && v.first > loop.begin) {
                    v.first = loop.begin;
                    changed = true;
                }
            }
        }
    }
    words.assign(count, ~0u);  // never mentioned: no words
    std::vector<size_t> sorted;
    for (size_t r = 0; r < count; ++r) {
        if (f.registers[r].type == ptx::Type::pred) {
            words[r] = predicates++;
        } else if (intervals[r].pinned) {
            words[r] = base;
            base += words_of(f.registers[r].type);
        } else if (intervals[r].first <= intervals[r].last) {
            sorted.push_back(r);
        }
    }
    std::sort(sorted.begin(), sorted.end(),
              [&](size_t a, size_t b) { return intervals[a].first < intervals[b].first; });
    std::vector<std::pair<uint32_t, size_t>> active;  // heap by last mention
    std::vector<uint32_t> free_words[3];
    auto bucket = [&](size_t r) {
        const uint32_t w = words_of(f.registers[r].type);
        return w == kLanes ? 0 : w == 2 * kLanes ? 1 : 2;
    };
    auto later = std::greater<std::pair<uint32_t, size_t>>();
    for (size_t r : sorted) {
        // A word is free again strictly after its last mention, so no instruction reads and writes
        // it as two registers.
        while (!active.empty() && active.front().first < intervals[r].first) {
            const size_t old = active.front().second;
            std::pop_heap(active.begin(), active.end(), later);
            active.pop_back();
            free_words[bucket(old)].push_back(words[old]);
        }
        std::vector<uint32_t>& pool = free_words[bucket(r)];
        if (pool.empty()) {
            words[r] = base;
            base += words_of(f.registers[r].type);
        } else {
            words[r] = pool.back();
            pool.pop_back();
        }
        active.emplace_back(intervals[r].last, r);
        std::push_heap(active.begin(), active.end(), later);
    }
    return base;
}

}  // namespace emu
