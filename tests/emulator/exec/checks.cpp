// SPDX-License-Identifier: BSD-3-Clause
#include "exec/checks.h"

#include <functional>
#include <set>

#include "check/barriers.h"
#include "exec/observe.h"

namespace emu {

// Defined by the runtime; absent where exec is linked alone.
[[gnu::weak]] check::Allocations& allocations();

namespace {

void visit_registers(const ptx::Operand& o, bool write,
                     const std::function<void(uint32_t, bool)>& visit) {
    if (o.kind == ptx::Operand::Kind::reg) {
        visit(static_cast<uint32_t>(o.reg), write);
    }
    for (const ptx::Operand& item : o.items) {
        visit_registers(item, write && o.kind != ptx::Operand::Kind::address, visit);
    }
}

bool is_tensor_load(const ptx::Statement& s) {
    return s.parts[0] == "tcgen05" && s.parts.size() > 1 && s.parts[1] == "ld";
}

// The registers of wgmma operands and of tcgen05.ld, and who else names them.
std::vector<std::vector<LaunchChecks::RegisterUse>> register_uses(const Program& program) {
    std::set<std::pair<const ptx::Function*, uint32_t>> watched;
    for (const Source& source : program.sources) {
        if (source.statement != nullptr &&
            (source.statement->parts[0] == "wgmma" || is_tensor_load(*source.statement))) {
            for (const ptx::Operand& o : source.statement->operands) {
                if (o.kind == ptx::Operand::Kind::vector) {
                    visit_registers(o, false, [&](uint32_t reg, bool) {
                        watched.insert({source.function, reg});
                    });
                }
            }
        }
    }
    // A mov renames: who reads its destination reads the load.
    for (size_t before = 0; before != watched.size();) {
        before = watched.size();
        for (const Source& source : program.sources) {
            if (source.statement == nullptr || source.statement->parts[0] != "mov") {
                continue;
            }
            bool reads = false;
            visit_registers(source.statement->operands[1], false, [&](uint32_t reg, bool) {
                reads |= watched.count({source.function, reg}) != 0;
            });
            if (reads) {
                visit_registers(source.statement->operands[0], true, [&](uint32_t reg, bool) {
                    watched.insert({source.function, reg});
                });
            }
        }
    }
    std::vector<std::vector<LaunchChecks::RegisterUse>> uses;
    if (watched.empty()) {
        return uses;
    }
    uses.resize(program.sources.size());
    for (size_t pc = 0; pc < uses.size(); ++pc) {
        const ptx::Statement* s = program.sources[pc].statement;
        if (s == nullptr || s->parts[0] == "wgmma" || is_tensor_load(*s)) {
            continue;
        }
        const bool stores =
            s->parts[0] == "st" || s->parts[0] == "red" || s->parts[0] == "stmatrix";
        for (size_t k = 0; k < s->operands.size(); ++k) {
            visit_registers(s->operands[k], k == 0 && !stores, [&](uint32_t reg, bool write) {
                if (watched.count({program.sources[pc].function, reg}) != 0) {
                    uses[pc].push_back({reg, write});
                }
            });
        }
    }
    return uses;
}

}  // namespace

LaunchChecks::LaunchChecks(Launch& launch)
    : program(*launch.program),
      allocations(&emu::allocations != nullptr && (launch.options.checks & kCheckBounds)
                      ? &emu::allocations()
                      : nullptr),
      arguments(reinterpret_cast<uint64_t>(launch.argument_base)) {
    info.kernel = launch.request->function;
    const Dim3 shapes[] = {launch.grid, launch.block, launch.cluster};
    uint32_t* const to[] = {info.grid, info.block, info.cluster};
    for (int i = 0; i < 3; ++i) {
        to[i][0] = shapes[i].x;
        to[i][1] = shapes[i].y;
        to[i][2] = shapes[i].z;
    }
    info.source = this;
    if (launch.options.checks & kCheckAsync) {
        uses = register_uses(program);
    }
    if (launch.options.checks & kCheckRaces) {
        shadow = std::make_unique<check::GlobalShadow>(info, allocations);
    }
    if (allocations != nullptr && arguments != 0) {
        allocations->add(arguments, std::max<size_t>(launch.request->arguments.size(), 1),
                         check::MemoryKind::Parameter, "kernel parameters", true);
    }
}

LaunchChecks::~LaunchChecks() {
    if (allocations != nullptr && arguments != 0) {
        allocations->remove(arguments);
    }
}

check::Location LaunchChecks::locate(uint32_t pc) const {
    check::Location at;
    if (pc >= program.sources.size() || program.sources[pc].statement == nullptr) {
        return at;
    }
    const ptx::Statement& s = *program.sources[pc].statement;
    at.ptx_line = s.line;
    std::string_view text = program.module->text_line(s.line);
    const size_t first = text.find_first_not_of(" \t");
    const size_t last = text.find_last_not_of(" \t\r\n");
    if (first != std::string_view::npos) {
        at.ptx_text = text.substr(first, last - first + 1);
        for (size_t tab; (tab = at.ptx_text.find('\t')) != std::string::npos;) {
            at.ptx_text[tab] = ' ';
        }
    }
    if (s.source.file != 0 && s.source.file < program.module->files.size()) {
        at.source_file = program.module->files[s.source.file];
        at.source_line = s.source.line;
    }
    return at;
}

void LaunchChecks::unwritten(Fault fault) {
    const std::lock_guard lock(mutex_);
    if (!unwritten_) {
        unwritten_ = std::make_unique<Fault>(std::move(fault));
    }
}

Fault LaunchChecks::explain(const Fault& fault) {
    const std::lock_guard lock(mutex_);
    return unwritten_ && fault.text.rfind("data race", 0) != 0 ? *unwritten_ : fault;
}

void LaunchChecks::settle() {
    const std::lock_guard lock(mutex_);
    if (unwritten_) {
        throw Fault(*unwritten_);
    }
}

void checks_begin(Launch& launch) {
    launch.checks = launch.options.checks != 0 ? new LaunchChecks(launch) : nullptr;
}

void checks_end(Launch& launch) {
    delete checks_of(launch);
    launch.checks = nullptr;
}

void checks_begin(Cluster& cluster) {
    Launch& launch = *cluster.launch;
    LaunchChecks* all = checks_of(launch);
    if (all == nullptr) {
        return;
    }
    ClusterChecks& c = cluster.slots.get<ClusterChecks>(kSlotCheck);
    c.named.resize(cluster.ctas.size());
    if (launch.options.checks & kCheckInit) {
        c.init.resize(cluster.ctas.size());
        for (size_t rank = 0; rank < c.init.size(); ++rank) {
            c.init[rank].reset(cluster.ctas[rank]->shared.size());
        }
    }
    if (launch.options.checks & kCheckRaces) {
        std::vector<uint64_t> ctas;
        for (const auto& cta : cluster.ctas) {
            ctas.push_back((uint64_t{cta->id.z} * launch.grid.y + cta->id.y) * launch.grid.x +
                           cta->id.x);
        }
        c.races = std::make_unique<check::ClusterRaces>(all->info, *all->shadow, std::move(ctas),
                                                        launch.warps_per_cta, launch.shared_bytes);
        for (const auto& cta : cluster.ctas) {
            for (const auto& warp : cta->warps) {
                warp->agent = c.races->warp(cta->rank, warp->index);
            }
        }
    }
}

void checks_end(Cluster& cluster) {
    if (LaunchChecks* all = checks_of(*cluster.launch)) {
        all->settle();
    }
    if (check::ClusterRaces* races = races_of(cluster);
        races != nullptr && (cluster.launch->options.checks & kCheckAsync)) {
        races->at_exit();
    }
}

ClusterChecks* checks_of(Cluster& cluster) {
    return cluster.slots.has(kSlotCheck) ? &cluster.slots.get<ClusterChecks>(kSlotCheck) : nullptr;
}

check::ClusterRaces* races_of(Cluster& cluster) {
    ClusterChecks* c = checks_of(cluster);
    return c != nullptr ? c->races.get() : nullptr;
}

check::Site site_of(const Warp& warp, uint32_t pc, int lane) {
    const Dim3& id = warp.cta->id;
    const Dim3& grid = warp.launch->grid;
    return {(uint64_t{id.z} * grid.y + id.y) * grid.x + id.x, warp.index, lane, pc};
}

const check::LaunchInfo& info_of(const Warp& warp) {
    if (const LaunchChecks* c = checks_of(*warp.launch)) {
        return c->info;
    }
    // With all checks off there are still faults to place: trap, assert, shared memory.
    static thread_local std::unique_ptr<LaunchChecks> made;
    made = std::make_unique<LaunchChecks>(*warp.launch);
    return made->info;
}

void check_global_range(Warp& warp, uint32_t pc, uint64_t address, uint64_t bytes, bool write,
                        int lane) {
    LaunchChecks* all = checks_of(*warp.launch);
    if (all == nullptr || all->allocations == nullptr || bytes == 0) {
        return;
    }
    ClusterChecks& c = *checks_of(*warp.cluster);
    if (!all->allocations->check_range(c.cache, address, bytes, write)) {
        throw all->allocations->fault(all->info, site_of(warp, pc, lane), address, bytes, write);
    }
}

void check_shared_read(Warp& warp, uint32_t pc, uint32_t address, uint64_t bytes) {
    ClusterChecks* c = checks_of(*warp.cluster);
    if (c == nullptr || c->init.empty() || bytes == 0) {
        return;
    }
    const int64_t bad =
        c->init[address >> kRankShift].first_unwritten(address & kSharedOffsetMask, bytes);
    if (bad >= 0) {
        Fault fault = check::InitMap::fault(info_of(warp), site_of(warp, pc, -1),
                                            static_cast<uint64_t>(bad), 1);
        if (!c->races) {
            throw fault;
        }
        checks_of(*warp.launch)->unwritten(std::move(fault));
    }
}

void check_shared_written(Cluster& cluster, uint32_t address, uint64_t bytes) {
    ClusterChecks* c = checks_of(cluster);
    if (c != nullptr && !c->init.empty()) {
        c->init[address >> kRankShift].write_range(address & kSharedOffsetMask, bytes);
    }
}

}  // namespace emu
