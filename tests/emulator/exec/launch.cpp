// SPDX-License-Identifier: BSD-3-Clause
// exec::load, exec::facts, exec::launch: images, and clusters spread over host threads.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>

#include "exec/checks.h"
#include "exec/program.h"
#include "exec/setup.h"
#include "runtime/arch.h"

namespace emu {

namespace {

using Seconds = std::chrono::duration<double>;
using Time = std::chrono::steady_clock;

uint32_t align_up(uint64_t v, uint64_t to) {
    return static_cast<uint32_t>((v + to - 1) / to * to);
}

uint64_t align_up_pointer(uint64_t v) {
    return (v + 63) & ~uint64_t{63};
}

// A link of a kernel is kept with its image.
std::shared_ptr<const Program> program_of(Image& image, const std::string& name) {
    std::lock_guard lock(image.mutex);
    auto& slot = image.programs[name];
    if (!slot) {
        const ptx::Function* f = image.module->function(name);
        if (!f || !f->is_entry || f->is_extern) {
            throw Fault(fault::kSymbolNotFound, "the module has no kernel " + name);
        }
        auto program = std::make_shared<Program>();
        program->module = image.module;
        Linker(image, *program).link(*f);
        slot = program;
    }
    return slot;
}

// What the host threads of a launch share.
struct Work {
    Work(Launch& l, uint64_t n) : launch(l), clusters(n) {}
    Launch& launch;
    uint64_t clusters;
    std::atomic<uint64_t> next{0};
    std::atomic<bool> stop{false};
    std::atomic<uint64_t> progress{0};
    std::mutex mutex;
    int error = 0;
    std::string report;

    void failed(const Fault& f) {
        std::lock_guard lock(mutex);
        if (!stop.exchange(true)) {
            error = f.error;
            report = f.text;
        }
    }
};

// The order in which clusters begin, which no kernel may rely on: from the last to the first where
// everything comes late, mixed where it comes at random.
uint64_t cluster_at(const Work& work, uint64_t place) {
    const Options& options = work.launch.options;
    if (options.schedule == Schedule::late) {
        return work.clusters - 1 - place;
    }
    if (options.schedule == Schedule::random) {
        uint64_t step = options.seed * 0x9e3779b97f4a7c15 >> 40;
        do {
            ++step;
        } while (std::gcd(step, work.clusters) != 1);
        return place * (step % work.clusters) % work.clusters;
    }
    return place;
}

// Runs clusters until none is left. Another one is started beside the running ones only when all of
// those spin: they may wait for CTAs that have not begun.
void drive(Work& work, HostThread& host, uint64_t resident_limit) {
    std::vector<std::unique_ptr<Cluster>> resident;
    uint64_t idle_turns = 0, seen = 0;
    auto idle_since = Time::now();
    auto start = [&] {
        const uint64_t index = work.next.fetch_add(1);
        if (index >= work.clusters) {
            return false;
        }
        resident.push_back(make_cluster(work.launch, cluster_at(work, index), host));
        return true;
    };
    try {
        while (!work.stop.load(std::memory_order_relaxed)) {
            if (resident.empty() && !start()) {
                return;
            }
            bool progressed = false;
            for (size_t k = 0; k < resident.size();) {
                const Turn t = turn(*resident[k]);
                if (t == Turn::done) {
                    checks_end(*resident[k]);
                    for (const auto& cta : resident[k]->ctas) {
                        for (const auto& w : cta->warps) {
                            host.instructions += w->instructions;
                        }
                    }
                    resident.erase(resident.begin() + static_cast<std::ptrdiff_t>(k));
                    progressed = true;
                    continue;
                }
                progressed |= t == Turn::progressed;
                ++k;
            }
            if (progressed) {
                work.progress.fetch_add(1, std::memory_order_relaxed);
                idle_turns = 0;
                continue;
            }
            if (++idle_turns > 16 && resident.size() < resident_limit && start()) {
                idle_turns = 0;
                continue;
            }
            if (idle_turns > 64) {
                std::this_thread::yield();
                const uint64_t now = work.progress.load(std::memory_order_relaxed);
                if (now != seen || idle_turns == 65) {
                    seen = now;
                    idle_since = Time::now();
                } else if (Seconds(Time::now() - idle_since).count() >
                           work.launch.options.hang_seconds) {
                    Warp& w = *resident.front()->ctas[0]->warps[0];
                    std::vector<check::StuckWarp> stuck;
                    for (const auto& cluster : resident) {
                        for (const auto& cta : cluster->ctas) {
                            for (const auto& warp : cta->warps) {
                                if (warp->mask) {
                                    stuck.push_back({site_of(*warp, warp->pc, check::kNoLane),
                                                     "a value in memory (it spins)"});
                                }
                                for (const Group& g : warp->others) {
                                    stuck.push_back(
                                        {site_of(*warp, g.wait.ready ? g.wait.pc : g.pc,
                                                 __builtin_ctz(g.mask)),
                                         g.wait.ready
                                             ? (g.wait.describe ? g.wait.describe(*warp, g.wait)
                                                                : g.wait.what)
                                             : "a value in memory (it spins)"});
                                }
                            }
                        }
                    }
                    throw check::deadlock(info_of(w), stuck);
                }
            }
        }
    } catch (const Fault& f) {
        LaunchChecks* checks = checks_of(work.launch);
        work.failed(checks != nullptr ? checks->explain(f) : f);
    } catch (const std::exception& e) {
        work.failed(Fault(fault::kLaunchFailure, std::string("emulator: ") + e.what()));
    }
}

void validate(const Launch& launch, const LaunchRequest& r, const ptx::Function& f) {
    const auto refuse = [&](const std::string& text) {
        throw Fault(fault::kInvalidValue, f.name + ": " + text);
    };
    if (r.grid.count() == 0 || r.block.count() == 0 || r.block.count() > 1024) {
        refuse("grid or block is empty or a block has more than 1024 threads");
    }
    if (r.grid.x % launch.cluster.x || r.grid.y % launch.cluster.y || r.grid.z % launch.cluster.z) {
        refuse("the grid is no multiple of the cluster");
    }
}

}  // namespace

namespace exec {

std::shared_ptr<Image> load(std::string ptx_text, int arch, const Place& place) {
    auto image = std::make_shared<Image>();
    image->module = ptx::parse(std::move(ptx_text));
    image->arch = arch;
    for (const ptx::Variable& v : image->module->globals) {
        if (v.space != ptx::Space::global && v.space != ptx::Space::constant) {
            continue;
        }
        if (v.type == ptx::Type::texref || v.type == ptx::Type::samplerref ||
            v.type == ptx::Type::surfref) {
            throw Fault(fault::kInvalidPtx,
                        "texture and surface references are not supported: " + v.name);
        }
        void* memory = place(v);
        std::memset(memory, 0, v.bytes);
        if (!v.init.empty()) {
            std::memcpy(memory, v.init.data(), std::min<size_t>(v.init.size(), v.bytes));
        }
        image->symbols[v.name] = {reinterpret_cast<uint64_t>(memory), v.bytes, v.space, v.align};
    }
    for (const ptx::Variable& v : image->module->globals) {
        for (const ptx::Relocation& r : v.relocations) {
            uint64_t value = 0;
            if (auto s = image->symbols.find(r.symbol); s != image->symbols.end()) {
                value = s->second.address;
            } else if (auto f = image->module->function_index.find(r.symbol);
                       f != image->module->function_index.end()) {
                value = kFunctionWindow | f->second;
            } else {
                throw Fault(fault::kInvalidPtx,
                            "the initialiser of " + v.name + " names the unknown " + r.symbol);
            }
            value += static_cast<uint64_t>(r.addend);
            std::memcpy(reinterpret_cast<uint8_t*>(image->symbols[v.name].address) + r.offset,
                        &value, static_cast<size_t>(r.bytes));
        }
    }
    return image;
}

std::vector<KernelParameter> kernel_parameters(const Image& image, const std::string& function) {
    const ptx::Function* f = image.module->function(function);
    if (!f) {
        throw Fault(fault::kSymbolNotFound, "the module has no kernel " + function);
    }
    std::vector<KernelParameter> list;
    uint32_t at = 0;
    for (const ptx::Variable& v : f->params) {
        at = align_up(at, v.align);
        list.push_back({at, static_cast<uint32_t>(v.bytes)});
        at += static_cast<uint32_t>(v.bytes);
    }
    return list;
}

uint32_t launch_registers(const ptx::Function& kernel) {
    if (kernel.max_registers) {
        return kernel.max_registers;
    }
    const auto& bounds = kernel.max_threads[0] ? kernel.max_threads : kernel.required_threads;
    if (bounds[0] == 0) {
        return 32;
    }
    const uint32_t threads = bounds[0] * std::max(bounds[1], 1u) * std::max(bounds[2], 1u);
    const uint32_t room =
        kRegistersPerSm / (std::max(threads, 32u) * std::max(kernel.min_ctas, 1u));
    return std::clamp(room / 8 * 8, 16u, 255u);
}

FunctionFacts facts(Image& image, const std::string& function) {
    const auto program = program_of(image, function);
    const ptx::Function& f = *program->entry;
    FunctionFacts r{};
    r.static_shared = program->static_shared;
    r.local_bytes = program->local_bytes;
    r.registers = 32;
    r.max_threads = 1024;
    if (f.max_threads[0]) {
        r.max_threads =
            f.max_threads[0] * std::max(1u, f.max_threads[1]) * std::max(1u, f.max_threads[2]);
    }
    if (f.required_threads[0]) {
        r.max_threads = f.required_threads[0] * std::max(1u, f.required_threads[1]) *
                        std::max(1u, f.required_threads[2]);
    }
    for (const ptx::Variable& v : image.module->globals) {
        r.const_bytes += v.space == ptx::Space::constant ? static_cast<uint32_t>(v.bytes) : 0;
    }
    r.has_required_cluster = f.required_cluster[0] != 0;
    if (r.has_required_cluster) {
        r.required_cluster = {f.required_cluster[0], std::max(1u, f.required_cluster[1]),
                              std::max(1u, f.required_cluster[2])};
    }
    return r;
}

LaunchResult launch(const LaunchRequest& request) {
    LaunchResult result;
    result.counters = std::make_shared<Counters>();
    const auto begin = Time::now();
    Launch launch;
    bool checks = false;
    try {
        launch.request = &request;
        launch.program = program_of(*request.image, request.function);
        launch.options = request.options;
        const ptx::Function& f = *launch.program->entry;
        launch.grid = request.grid, launch.block = request.block, launch.cluster = request.cluster;
        if (f.required_cluster[0] && launch.cluster.count() == 1) {
            launch.cluster = {f.required_cluster[0], std::max(1u, f.required_cluster[1]),
                              std::max(1u, f.required_cluster[2])};
        }
        validate(launch, request, f);
        launch.cluster_grid = {launch.grid.x / launch.cluster.x, launch.grid.y / launch.cluster.y,
                               launch.grid.z / launch.cluster.z};
        launch.threads_per_cta = static_cast<uint32_t>(launch.block.count());
        launch.warps_per_cta = (launch.threads_per_cta + kLanes - 1) / kLanes;
        launch.shared_bytes =
            request.dynamic_shared
                ? launch.program->dynamic_shared_at + static_cast<uint32_t>(request.dynamic_shared)
                : kReservedShared + launch.program->static_shared;
        launch.arguments.resize(request.arguments.size() + 128);
        launch.argument_base = reinterpret_cast<uint8_t*>(
            align_up_pointer(reinterpret_cast<uint64_t>(launch.arguments.data())));
        if (!request.arguments.empty()) {
            std::memcpy(launch.argument_base, request.arguments.data(), request.arguments.size());
        }
        checks_begin(launch);
        checks = true;
        Work work(launch, launch.cluster_grid.count());
        const auto threads = static_cast<size_t>(
            std::clamp<int64_t>(request.options.threads, 1,
                                static_cast<int64_t>(std::min<uint64_t>(work.clusters, 1024))));
        const uint64_t resident = std::max<uint64_t>(
            1, request.cooperative
                   ? work.clusters
                   : static_cast<uint64_t>(std::max(1, request.options.sm_count)) * 4);
        std::vector<HostThread> hosts(threads);
        for (HostThread& h : hosts) {
            h.executed.assign(launch.program->code.size() + 1, Executed{});
        }
        std::vector<std::thread> pool;
        for (size_t k = 1; k < threads; ++k) {
            pool.emplace_back([&, k] { drive(work, hosts[k], resident); });
        }
        drive(work, hosts[0], resident);
        for (std::thread& t : pool) {
            t.join();
        }
        for (HostThread& h : hosts) {
            result.instructions += h.instructions;
            for (size_t pc = 0; pc < launch.program->sources.size(); ++pc) {
                const Source& source = launch.program->sources[pc];
                const uint64_t n = h.executed[pc].threads;
                h.counters.warp_instructions[static_cast<size_t>(source.kind)] +=
                    h.executed[pc].warps;
                result.thread_instructions += n;
                h.counters.thread_instructions[static_cast<size_t>(source.kind)] += n;
                if (source.statement && source.statement->parts[0] == "ex2") {
                    h.counters.ex2 += n * (source.statement->parts.back().ends_with("x2") ? 2 : 1);
                }
            }
            result.counters->merge(h.counters);
        }
        result.error = work.error;
        result.report = work.report;
    } catch (const Fault& f) {
        result.error = f.error;
        result.report = f.text;
    } catch (const std::exception& e) {
        result.error = fault::kLaunchFailure;
        result.report = std::string("emulator: ") + e.what();
    }
    if (checks) {
        checks_end(launch);
    }
    result.seconds = Seconds(Time::now() - begin).count();
    return result;
}

}  // namespace exec

}  // namespace emu
