// SPDX-License-Identifier: BSD-3-Clause
// bra, brx.idx, call, ret, exit, trap, nanosleep, membar/fence, griddepcontrol, setmaxnreg,
// pmevent.
#include <atomic>
#include <cstring>

#include "exec/async_families.h"
#include "exec/builtin.h"
#include "exec/lanes.h"
#include "exec/program.h"
#include "exec/synchronise.h"

namespace emu {

namespace {

using ptx::Operand;
using ptx::Type;

void bra(Warp& w, const Instr& i, uint32_t active) {
    w.branch(active, i.target);
}

Instr decode_bra(const ptx::Statement&, DecodeContext& c) {
    if (c.operand(0).kind != Operand::Kind::label) {
        c.fail("a label is expected");
    }
    Instr i;
    i.run = bra;  // the linker sets the target
    return i;
}

void brx(Warp& w, const Instr& i, uint32_t active) {
    const auto& table = *static_cast<const std::vector<uint32_t>*>(i.ext);
    const uint32_t* index = w.u32(i.r[1]);
    const uint32_t next = w.pc;
    uint32_t rest = active;
    while (rest) {
        const uint32_t value = index[__builtin_ctz(rest)];
        if (value >= table.size()) {
            w.fail(fault::kIllegalInstruction,
                   "brx.idx with index " + std::to_string(value) + " of " +
                       std::to_string(table.size()) + " targets",
                   __builtin_ctz(rest));
        }
        uint32_t same = 0;
        for_lanes(rest, [&](int l) { same |= static_cast<uint32_t>(index[l] == value) << l; });
        rest &= ~same;
        if (same == w.mask) {
            w.branch(same, table[value]);
            return;
        }
        // Each target's lanes leave the group; the last ones (or those switched off) stay as the
        // running group.
        Group other;
        other.stack = w.current.stack;
        other.penalty = w.current.penalty;
        other.mask = same, other.pc = table[value];
        w.others.push_back(std::move(other));
        w.mask &= ~same;
        w.event = true;
    }
    w.pc = next;
}

Instr decode_brx(const ptx::Statement&, DecodeContext& c) {
    Instr i;
    i.run = brx;
    i.r[1] = c.source(c.operand(0), Type::u32);
    std::vector<uint32_t>* table = nullptr;
    const Operand& t = c.operand(1);
    auto it = c.function.branch_targets.find(t.name);
    if (it == c.function.branch_targets.end()) {
        c.fail("no .branchtargets named " + t.name);
    }
    std::vector<uint32_t> targets;
    for (const Operand& o : it->second) {
        targets.push_back(static_cast<uint32_t>(o.value));
    }
    table = c.own(std::move(targets));
    c.linker().branch_tables.emplace_back(table, &c.link());
    i.ext = table;
    return i;
}

// ---- calls: arguments are copied between the frames, lane by lane ----

struct Copy {
    uint32_t from, to, bytes;
};

struct Call {
    uint32_t function = ~0u;  // index in Module::functions, ~0u: indirect
    Builtin builtin = nullptr;
    const ptx::Function* callee = nullptr;
    std::vector<uint32_t> arguments, argument_bytes, results,
        result_bytes;  // frame offsets of the actual ones
    std::vector<std::vector<uint32_t>> formal_arguments, formal_results;  // by function index
};

void copy_frame(Warp& w, uint32_t lanes, uint32_t from, uint32_t to, uint32_t bytes) {
    const size_t size = w.launch->program->frame_bytes;
    for_lanes(lanes, [&](int l) {
        uint8_t* frame = w.frame.data() + static_cast<size_t>(l) * size;
        std::memmove(frame + to, frame + from, bytes);
    });
}

// A pending return: where to go on and which results to copy.
struct Returns {
    const Call* call;
    uint32_t function;
};

void enter(Warp& w, const Call& call, uint32_t function, uint32_t lanes) {
    const auto& formal = call.formal_arguments[function];
    for (size_t k = 0; k < formal.size() && k < call.arguments.size(); ++k) {
        copy_frame(w, lanes, call.arguments[k], formal[k], call.argument_bytes[k]);
    }
}

std::vector<std::pair<uint32_t, uint32_t>> result_places(const Call& call, uint32_t function) {
    std::vector<std::pair<uint32_t, uint32_t>> places;
    const auto& formal = call.formal_results[function];
    for (size_t k = 0; k < formal.size() && k < call.results.size(); ++k) {
        places.emplace_back(formal[k], call.result_bytes[k]);
    }
    return places;
}

void call_direct(Warp& w, const Instr& i, uint32_t active) {
    const auto& call = *static_cast<const Call*>(i.ext);
    if (call.builtin) {
        call.builtin(w, active, call.arguments.data(),
                     call.results.empty() ? ~0u : call.results[0]);
        return;
    }
    const uint32_t back = w.pc, to = w.launch->program->function_pcs[call.function];
    if (w.current.stack.size() > 1000) {
        w.fail(fault::kLaunchFailure, "call stack of 1000 functions exceeded");
    }
    Return back_to = enter_call(w, back, active, result_places(call, call.function));
    enter(w, call, call.function, active);
    if (active != w.mask) {
        Group rest;
        rest.stack = w.current.stack;
        rest.mask = w.mask & ~active, rest.pc = back;
        w.others.push_back(std::move(rest));
        w.mask = active;
    }
    w.current.stack.push_back(std::move(back_to));
    w.pc = to;
    w.event = true;
}

void call_indirect(Warp& w, const Instr& i, uint32_t active) {
    const auto& call = *static_cast<const Call*>(i.ext);
    const uint64_t* target = w.u64(i.r[1]);
    const uint32_t back = w.pc;
    uint32_t rest = active;
    const uint32_t staying = w.mask & ~active;
    const std::vector<Return> stack = w.current.stack;
    w.mask = 0;
    while (rest) {
        const uint64_t value = target[__builtin_ctz(rest)];
        const auto function = static_cast<uint32_t>(value & 0xffffffff);
        const Program& p = *w.launch->program;
        if (value >> 32 != kFunctionWindow >> 32 || function >= p.function_pcs.size() ||
            p.function_pcs[function] == ~0u) {
            w.fail(fault::kIllegalInstruction, "indirect call of an address that is no function",
                   __builtin_ctz(rest));
        }
        uint32_t same = 0;
        for_lanes(rest, [&](int l) { same |= static_cast<uint32_t>(target[l] == value) << l; });
        rest &= ~same;
        Return back_to = enter_call(w, back, same, result_places(call, function));
        enter(w, call, function, same);
        Group g;
        g.mask = same, g.pc = p.function_pcs[function];
        g.stack = stack;
        g.stack.push_back(std::move(back_to));
        w.others.push_back(std::move(g));
    }
    if (staying) {
        Group g;
        g.mask = staying, g.pc = back, g.stack = stack;
        w.others.push_back(std::move(g));
    }
    w.current = Group{};
    w.event = true;
}

// Runs behind a call in the caller: copies the results of the function that has returned.
void take_results(Warp& w, const Instr& i, uint32_t active) {
    const auto& call = *static_cast<const Call*>(i.ext);
    if (call.builtin) {
        return;
    }
    auto copy = [&](uint32_t function, uint32_t lanes) {
        const auto& formal = call.formal_results[function];
        for (size_t k = 0; k < formal.size() && k < call.results.size(); ++k) {
            copy_frame(w, lanes, formal[k], call.results[k], call.result_bytes[k]);
        }
    };
    if (call.function != ~0u) {
        copy(call.function, active);
        return;
    }
    const uint64_t* target = w.u64(i.r[1]);
    for_lanes(active, [&](int l) { copy(static_cast<uint32_t>(target[l]), 1u << l); });
}

Instr decode_call(const ptx::Statement& s, DecodeContext& c) {
    // call{.uni} (results), f, (arguments){, prototype};
    Call call;
    size_t n = 0;
    auto list = [&](const Operand& o, std::vector<uint32_t>& offsets,
                    std::vector<uint32_t>& bytes) {
        for (const Operand& x : o.items) {
            auto it = c.link().frame_offsets.find(x.name);
            if (it == c.link().frame_offsets.end()) {
                c.fail("call argument " + x.name + " is no .param variable");
            }
            offsets.push_back(it->second);
            uint32_t size = 0;
            for (const auto* vars :
                 {&c.function.variables, &c.function.params, &c.function.results}) {
                for (const ptx::Variable& v : *vars) {
                    if (v.name == x.name) {
                        size = static_cast<uint32_t>(v.bytes);
                    }
                }
            }
            bytes.push_back(size);
        }
    };
    if (c.operand(0).kind == Operand::Kind::list) {
        list(c.operand(0), call.results, call.result_bytes);
        n = 1;
    }
    const Operand& f = c.operand(n);
    if (c.operands() > n + 1 && c.operand(n + 1).kind == Operand::Kind::list) {
        list(c.operand(n + 1), call.arguments, call.argument_bytes);
    }
    Instr i;
    i.run = call_direct;
    auto formals = [&](const ptx::Function& callee) {
        auto it = c.module.function_index.find(callee.name);
        const FunctionLink* link = c.linker().links[it->second].get();
        std::vector<uint32_t> args, results;
        if (link) {
            for (const ptx::Variable& v : callee.params) {
                args.push_back(link->frame_offsets.at(v.name));
            }
            for (const ptx::Variable& v : callee.results) {
                results.push_back(link->frame_offsets.at(v.name));
            }
        }
        call.formal_arguments[it->second] = std::move(args);
        call.formal_results[it->second] = std::move(results);
    };
    call.formal_arguments.resize(c.module.functions.size());
    call.formal_results.resize(c.module.functions.size());
    if (f.kind == Operand::Kind::symbol) {
        const ptx::Function* callee = c.module.function(f.name);
        if (!callee) {
            c.fail("call of the unknown function " + f.name);
        }
        call.callee = callee;
        if (callee->is_extern) {
            call.builtin = builtin_named(f.name);
            if (!call.builtin) {
                c.fail("call of the external function " + f.name +
                       ", which the emulator does not provide");
            }
        } else {
            call.function = c.linker().require(f.name);
            formals(*callee);
        }
    } else {
        i.run = call_indirect;
        i.r[1] = c.source(f, Type::u64);
        for (const ptx::Function& callee : c.module.functions) {
            if (!callee.is_entry && !callee.is_extern) {
                formals(callee);
            }
        }
    }
    i.ext = c.own(std::move(call));
    const auto* kept = static_cast<const Call*>(i.ext);
    if (!kept->builtin && !kept->results.empty()) {
        Instr results = i;
        results.run = take_results;
        c.emit_after(results);
    }
    (void)s;
    return i;
}

void ret(Warp& w, const Instr&, uint32_t active) {
    if (w.current.stack.empty()) {
        leave(w, active);
        return;
    }
    const uint32_t to = w.current.stack.back().pc;
    leave_call(w, w.current.stack.back(), active);
    if (active != w.mask) {
        Group back;
        back.stack = w.current.stack;
        back.stack.pop_back();
        back.mask = active, back.pc = to;
        w.mask &= ~active;
        w.others.push_back(std::move(back));
    } else {
        w.current.stack.pop_back();
        w.pc = to;
    }
    w.event = true;
}

Instr decode_ret(const ptx::Statement&, DecodeContext&) {
    Instr i;
    i.run = ret;
    return i;
}

void exit(Warp& w, const Instr&, uint32_t active) {
    leave(w, active);
}

Instr decode_exit(const ptx::Statement&, DecodeContext&) {
    Instr i;
    i.run = exit;
    return i;
}

void trap(Warp& w, const Instr&, uint32_t active) {
    w.fail(fault::kLaunchFailure, "trap", __builtin_ctz(active));
}

Instr decode_trap(const ptx::Statement&, DecodeContext&) {
    Instr i;
    i.run = trap;
    return i;
}

void nothing(Warp&, const Instr&, uint32_t) {}

void nanosleep(Warp& w, const Instr&, uint32_t) {
    w.hint = true;
    w.yielded = true;
    w.event = true;
}

Instr decode_nanosleep(const ptx::Statement&, DecodeContext&) {
    Instr i;
    i.run = nanosleep;
    return i;
}

Instr decode_nothing(const ptx::Statement&, DecodeContext&) {
    Instr i;
    i.run = nothing;
    return i;
}

// small: scope as in MemoryOp
void fence(Warp& w, const Instr& i, uint32_t) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (w.checks & kCheckRaces) {
        observe_fence(w, i.small);
    }
}

Instr decode_fence(const ptx::Statement& s, DecodeContext& c) {
    if (s.parts.size() > 1 &&
        (s.parts[1].starts_with("proxy") || s.parts[1].starts_with("mbarrier_init"))) {
        return decode_fence_proxy(s, c);
    }
    Instr i;
    i.run = fence;
    i.small = 2;
    for (size_t k = 1; k < s.parts.size(); ++k) {
        const std::string_view p = s.parts[k];
        if (p == "cta") {
            i.small = 0;
        } else if (p == "cluster") {
            i.small = 1;
        } else if (p == "gpu" || p == "gl") {
            i.small = 2;
        } else if (p == "sys") {
            i.small = 3;
        } else if (p == "proxy") {
            return decode_fence_proxy(s, c);
        } else if (p != "sc" && p != "acq_rel" && p != "acquire" && p != "release" &&
                   !p.starts_with("sync_restrict")) {
            c.unknown(p);
        }
    }
    return i;
}

// Launches run one after another: the grid that this one depends on has finished.
Instr decode_griddepcontrol(const ptx::Statement& s, DecodeContext& c) {
    if (!s.has("wait") && !s.has("launch_dependents")) {
        c.fail("unknown form of griddepcontrol");
    }
    return decode_nothing(s, c);
}

void setmaxnreg(Warp& w, const Instr& i, uint32_t active) {
    if (w.converge(i, active, kAllLanes)) {
        set_max_registers(w, static_cast<uint32_t>(i.imm), i.small);
    }
}

Instr decode_setmaxnreg(const ptx::Statement& s, DecodeContext& c) {
    Instr i;
    i.run = setmaxnreg;
    i.small = s.has("inc");
    i.imm = c.integer(c.operand(0));
    if (i.imm < 24 || i.imm > 256 || i.imm % 8) {
        c.fail("the register count of setmaxnreg must be a multiple of 8 from 24 to 256");
    }
    return i;
}

const RegisterFamily kFamilies[] = {
    {"bra", decode_bra},
    {"brx", decode_brx},
    {"call", decode_call},
    {"ret", decode_ret},
    {"exit", decode_exit},
    {"trap", decode_trap},
    {"brkpt", decode_nothing},
    {"pmevent", decode_nothing},
    {"nanosleep", decode_nanosleep},
    {"fence", decode_fence},
    {"membar", decode_fence},
    {"griddepcontrol", decode_griddepcontrol},
    {"setmaxnreg", decode_setmaxnreg},
};

}  // namespace

}  // namespace emu
