// SPDX-License-Identifier: BSD-3-Clause
#include "exec/program.h"

#include <algorithm>
#include <cstring>

namespace emu {

namespace {

uint32_t align_up(uint64_t value, uint64_t to) {
    return static_cast<uint32_t>((value + to - 1) / to * to);
}

constexpr SpecialRegister kSpecials[] = {
    {"%tid.x", kSpecTidX, false},
    {"%tid.y", kSpecTidY, false},
    {"%tid.z", kSpecTidZ, false},
    {"%ntid.x", kSpecNtidX, false},
    {"%ntid.y", kSpecNtidY, false},
    {"%ntid.z", kSpecNtidZ, false},
    {"%laneid", kSpecLane, false},
    {"%warpid", kSpecWarp, false},
    {"%nwarpid", kSpecNwarp, false},
    {"%ctaid.x", kSpecCtaX, false},
    {"%ctaid.y", kSpecCtaY, false},
    {"%ctaid.z", kSpecCtaZ, false},
    {"%nctaid.x", kSpecNctaX, false},
    {"%nctaid.y", kSpecNctaY, false},
    {"%nctaid.z", kSpecNctaZ, false},
    {"%smid", kSpecSm, false},
    {"%nsmid", kSpecNsm, false},
    {"%gridid", kSpecGrid, true},
    {"%clusterid.x", kSpecClusterX, false},
    {"%clusterid.y", kSpecClusterY, false},
    {"%clusterid.z", kSpecClusterZ, false},
    {"%nclusterid.x", kSpecNclusterX, false},
    {"%nclusterid.y", kSpecNclusterY, false},
    {"%nclusterid.z", kSpecNclusterZ, false},
    {"%cluster_ctaid.x", kSpecClusterCtaX, false},
    {"%cluster_ctaid.y", kSpecClusterCtaY, false},
    {"%cluster_ctaid.z", kSpecClusterCtaZ, false},
    {"%cluster_nctaid.x", kSpecClusterNctaX, false},
    {"%cluster_nctaid.y", kSpecClusterNctaY, false},
    {"%cluster_nctaid.z", kSpecClusterNctaZ, false},
    {"%cluster_ctarank", kSpecClusterRank, false},
    {"%cluster_nctarank", kSpecClusterSize, false},
    {"%lanemask_eq", kSpecLaneEq, false},
    {"%lanemask_le", kSpecLaneLe, false},
    {"%lanemask_lt", kSpecLaneLt, false},
    {"%lanemask_ge", kSpecLaneGe, false},
    {"%lanemask_gt", kSpecLaneGt, false},
    {"%dynamic_smem_size", kSpecDynamicShared, false},
    {"%total_smem_size", kSpecTotalShared, false},
    {"%aggr_smem_size", kSpecTotalShared, false},
    {"WARP_SZ", kSpecWarpSize, false},
    {"%reserved_smem_offset_begin", kSpecZero, false},
    {"%reserved_smem_offset_end", kSpecReservedShared, false},
    {"%reserved_smem_offset_cap", kSpecReservedShared, false},
    {"%current_graph_exec", kSpecGraph, true},
    {"%envreg0", kSpecZero, false},
    {"%envreg1", kSpecWorkspaceHigh, false},
    {"%envreg2", kSpecWorkspaceLow, false},
};

Class class_of(const ptx::Statement& s) {
    const std::string_view op = s.parts[0];
    auto any = [&](std::initializer_list<std::string_view> names) {
        return std::find(names.begin(), names.end(), op) != names.end();
    };
    if (any({"bra", "brx", "call", "ret", "exit", "trap", "nanosleep"})) {
        return Class::control;
    }
    if (any({"ld", "ldu", "ldmatrix", "prefetch", "prefetchu"})) {
        return Class::load;
    }
    if (any({"st", "stmatrix"})) {
        return Class::store;
    }
    if (any({"atom", "red"})) {
        return Class::atomic;
    }
    if (any({"shfl", "vote", "match", "redux", "activemask", "elect"})) {
        return Class::shuffle;
    }
    if (any({"bar", "barrier", "mbarrier"})) {
        return Class::barrier;
    }
    if (any({"mma", "wmma", "wgmma", "tcgen05"})) {
        return Class::matrix;
    }
    if (op == "cp") {
        return Class::async_copy;
    }
    if (any({"membar", "fence"})) {
        return Class::fence;
    }
    if (any({"mov", "cvta", "mapa", "getctarank", "isspacep", "prmt"})) {
        return Class::move;
    }
    if (any({"setp", "selp", "set", "slct"})) {
        return Class::predicate;
    }
    if (op == "cvt") {
        return Class::convert;
    }
    if (any({"ex2", "lg2", "rcp", "rsqrt", "sqrt", "sin", "cos", "tanh"})) {
        return Class::special;
    }
    const ptx::Type type = ptx::type_named(s.parts.back());
    switch (type) {
        case ptx::Type::pred:
            return Class::predicate;
        case ptx::Type::f16:
        case ptx::Type::f16x2:
        case ptx::Type::bf16:
        case ptx::Type::bf16x2:
            return Class::fp16;
        case ptx::Type::f32:
        case ptx::Type::f32x2:
            return Class::fp32;
        case ptx::Type::f64:
            return Class::fp64;
        case ptx::Type::none:
            return Class::other;
        default:
            return Class::integer;
    }
}

}  // namespace

const SpecialRegister* special_register(std::string_view name) {
    for (const SpecialRegister& s : kSpecials) {
        if (name == s.name) {
            return &s;
        }
    }
    return nullptr;
}

uint32_t Linker::require(const std::string& function) {
    const uint32_t index = image.module->function_index.at(function);
    if (!links[index]) {
        links[index] = std::make_unique<FunctionLink>();
        links[index]->index = index;
        order.push_back(index);
    }
    return index;
}

void Linker::lay_out(const ptx::Function& f) {
    FunctionLink& link = *links[image.module->function_index.at(f.name)];
    program.register_words =
        allocate_registers(f, program.register_words, link.register_words, program.predicates);
    std::set<std::pair<uint32_t, bool>> planes;
    for (size_t r = 0; r < f.registers.size(); ++r) {
        const int bytes = ptx::bytes_of(f.registers[r].type);
        if (bytes == 0 || link.register_words[r] == ~0u) {
            continue;
        }
        planes.insert({link.register_words[r], bytes >= 8});
        if (bytes == 16) {
            planes.insert({link.register_words[r] + 2 * kLanes, true});
        }
    }
    program.planes.insert(program.planes.end(), planes.begin(), planes.end());
    uint64_t at = 0;
    if (f.is_entry) {
        for (const ptx::Variable& v : f.params) {
            at = align_up(at, v.align);
            link.frame_offsets[v.name] = static_cast<uint32_t>(at);
            at += v.bytes;
        }
    }
    auto in_frame = [&](const ptx::Variable& v) {
        program.frame_bytes = align_up(program.frame_bytes, std::max<uint64_t>(v.align, 16));
        link.frame_offsets[v.name] = program.frame_bytes;
        program.frame_bytes += static_cast<uint32_t>(v.bytes);
    };
    if (!f.is_entry) {
        for (const ptx::Variable& v : f.params) {
            in_frame(v);
        }
        for (const ptx::Variable& v : f.results) {
            in_frame(v);
        }
    }
    for (const ptx::Variable& v : f.variables) {
        if (v.space == ptx::Space::param) {
            in_frame(v);
        } else if (v.space == ptx::Space::local) {
            program.local_bytes = align_up(program.local_bytes, std::max<uint64_t>(v.align, 16));
            link.local_offsets[v.name] = program.local_bytes;
            program.local_bytes += static_cast<uint32_t>(v.bytes);
        }
    }
}

void Linker::lay_out_shared() {
    uint32_t at = kReservedShared;
    uint64_t dynamic_align = 16;
    std::vector<std::pair<std::unordered_map<std::string, uint32_t>*, std::string>> dynamic;
    auto place = [&](const ptx::Variable& v, std::unordered_map<std::string, uint32_t>& names) {
        if (v.bytes == 0) {
            dynamic_align = std::max(dynamic_align, v.align);
            dynamic.emplace_back(&names, v.name);
            return;
        }
        at = align_up(at, v.align);
        names[v.name] = at;
        at += static_cast<uint32_t>(v.bytes);
    };
    auto mentions = [&](const std::string& name) {
        for (uint32_t index : order) {
            for (const ptx::Statement& s : image.module->functions[index].statements) {
                for (const ptx::Operand& o : s.operands) {
                    if (o.name == name || (!o.items.empty() && o.items[0].name == name)) {
                        return true;
                    }
                }
            }
        }
        return false;
    };
    for (const ptx::Variable& v : image.module->globals) {
        if (v.space == ptx::Space::shared && (v.bytes == 0 || mentions(v.name))) {
            place(v, module_shared);
        }
    }
    for (uint32_t index : order) {
        for (const ptx::Variable& v : image.module->functions[index].variables) {
            if (v.space == ptx::Space::shared) {
                place(v, links[index]->shared_offsets);
            }
        }
    }
    program.static_shared = at - kReservedShared;
    program.dynamic_shared_at = align_up(at, dynamic_align);
    for (auto& [names, name] : dynamic) {
        (*names)[name] = program.dynamic_shared_at;
    }
}

std::pair<int, int64_t> FunctionLink::origin(int base, int64_t offset) const {
    for (auto it = derived.find(base); it != derived.end(); it = derived.find(base)) {
        base = it->second.first, offset += it->second.second;
    }
    return {base, offset};
}

// Addresses that atom.cas works on, through sums with constants.
void Linker::find_swapped(const ptx::Function& f, FunctionLink& link) {
    using Kind = ptx::Operand::Kind;
    bool any = false;
    std::map<int, int> definitions;
    for (const ptx::Statement& s : f.statements) {
        any |= s.parts[0] == "atom" && s.has("cas");
        if (!s.operands.empty() && s.operands[0].kind == Kind::reg) {
            ++definitions[s.operands[0].reg];
        }
    }
    if (!any) {
        return;
    }
    for (const ptx::Statement& s : f.statements) {
        if (s.operands.size() < 2 || s.operands[0].kind != Kind::reg ||
            s.operands[1].kind != Kind::reg || definitions[s.operands[0].reg] != 1 ||
            s.operands[0].reg == s.operands[1].reg) {
            continue;
        }
        if (s.parts[0] == "add" && s.operands[2].kind == Kind::integer) {
            link.derived[s.operands[0].reg] = {s.operands[1].reg, s.operands[2].value};
        } else if ((s.parts[0] == "cvta" && s.has("to")) || s.parts[0] == "mov") {
            link.derived[s.operands[0].reg] = {s.operands[1].reg, 0};
        }
    }
    for (const ptx::Statement& s : f.statements) {
        if (s.parts[0] == "atom" && s.has("cas") && s.operands.size() > 1 &&
            !s.operands[1].items.empty()) {
            link.swapped.insert(link.origin(s.operands[1].items[0].reg, s.operands[1].value));
        }
    }
}

void Linker::code(const ptx::Function& f) {
    FunctionLink& link = *links[image.module->function_index.at(f.name)];
    program.function_pcs[link.index] = static_cast<uint32_t>(program.code.size());
    DecodeContext context(image, program, f, *this, link);
    find_swapped(f, link);
    auto emit = [&](const Instr& i, const ptx::Statement* s, Class kind) {
        program.code.push_back(i);
        program.sources.push_back({s, &f, kind});
    };
    for (size_t n = 0; n < f.statements.size(); ++n) {
        const ptx::Statement& s = f.statements[n];
        link.statement_pcs.push_back(static_cast<uint32_t>(program.code.size()));
        context.statement = &s;
        const DecodeFn decode = family(s.parts[0]);
        if (!decode) {
            context.fail("unknown instruction " + std::string(s.opcode));
        }
        link.before.clear();
        context.kind = class_of(s);
        Instr i = decode(s, context);
        if (!i.run) {
            context.fail("no handler for " + std::string(s.opcode));
        }
        if (s.guard.kind == ptx::Operand::Kind::reg) {
            i.guard = context.predicate(s.guard);
        }
        for (const Instr& b : link.before) {
            emit(b, &s, Class::move);
        }
        emit(i, &s, context.kind);
        for (const Instr& b : link.after) {
            Instr guarded = b;
            guarded.guard = i.guard;
            emit(guarded, &s, Class::move);
        }
        link.after.clear();
        for (size_t k = 0; k < s.operands.size(); ++k) {
            if (s.operands[k].kind == ptx::Operand::Kind::label && s.parts[0] == "bra") {
                fixups_.push_back({static_cast<uint32_t>(program.code.size()) - 1,
                                   static_cast<uint32_t>(s.operands[k].value), &link});
            }
        }
    }
    // A label may stand after the last statement; a body may end without ret.
    link.statement_pcs.push_back(static_cast<uint32_t>(program.code.size()));
    ptx::Statement end;
    end.parts = {"ret"};
    static const ptx::Statement ret = end;
    context.statement = f.statements.empty() ? &ret : &f.statements.back();
    emit(family("ret")(ret, context), context.statement, Class::control);
}

void Linker::patch() {
    for (const Fixup& fix : fixups_) {
        program.code[fix.pc].target = fix.link->statement_pcs[fix.statement];
    }
    for (auto& [table, link] : branch_tables) {
        for (uint32_t& target : *table) {
            target = link->statement_pcs[target];
        }
    }
}

bool Linker::recursive() const {
    const ptx::Module& module = *image.module;
    std::vector<uint8_t> mark(module.functions.size(), 0);  // 1 being visited, 2 done
    std::function<bool(uint32_t)> cycle = [&](uint32_t index) {
        if (mark[index] == 1) {
            return true;
        }
        if (mark[index] == 2) {
            return false;
        }
        mark[index] = 1;
        for (const ptx::Statement& s : module.functions[index].statements) {
            for (const ptx::Operand& o : s.operands) {
                const auto it = o.kind == ptx::Operand::Kind::symbol
                                    ? module.function_index.find(o.name)
                                    : module.function_index.end();
                if (it != module.function_index.end() && cycle(it->second)) {
                    return true;
                }
            }
        }
        mark[index] = 2;
        return false;
    };
    return cycle(order[0]);
}

void Linker::link(const ptx::Function& entry) {
    const ptx::Module& module = *image.module;
    links.resize(module.functions.size());
    program.function_pcs.assign(module.functions.size(), ~0u);
    program.entry = &entry;
    require(entry.name);
    // Reachable functions: named by any operand.
    for (size_t n = 0; n < order.size(); ++n) {
        const ptx::Function& f = module.functions[order[n]];
        for (const ptx::Statement& s : f.statements) {
            for (const ptx::Operand& o : s.operands) {
                if (o.kind == ptx::Operand::Kind::symbol &&
                    module.function_index.contains(o.name) && !module.function(o.name)->is_extern) {
                    require(o.name);
                }
            }
        }
    }
    for (const ptx::Variable& v : module.globals) {  // functions whose addresses tables hold
        for (const ptx::Relocation& r : v.relocations) {
            if (module.function_index.contains(r.symbol) && !module.function(r.symbol)->is_extern) {
                require(r.symbol);
            }
        }
    }
    program.recursive = recursive();
    for (uint32_t index : order) {
        lay_out(module.functions[index]);
    }
    lay_out_shared();
    for (size_t n = 0; n < order.size(); ++n) {
        code(module.functions[order[n]]);
    }
    patch();
    program.entry_pc = program.function_pcs[order[0]];
    program.frame_bytes = align_up(program.frame_bytes, 16);
    program.local_bytes = align_up(program.local_bytes, 16);
    program.local_total = program.local_bytes * (program.recursive ? kMaxRecursion : 1);
}

}  // namespace emu
