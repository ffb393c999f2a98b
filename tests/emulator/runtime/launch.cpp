// SPDX-License-Identifier: BSD-3-Clause
// Kernel launches, function attributes and occupancy.
#include <cxxabi.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <thread>

#include "check/config.h"
#include "runtime/counters.h"
#include "runtime/work.h"

namespace emu {
namespace {

std::string text_of(const dim3& d) {
    return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) +
           ")";
}

uint64_t count_of(const dim3& d) {
    return uint64_t{d.x} * d.y * d.z;
}

size_t static_shared(Kernel& kernel) {
    return facts_of(kernel).static_shared;
}

// Bytes of dynamic shared memory that a launch may ask for.
size_t dynamic_limit(Kernel& kernel) {
    if (kernel.max_dynamic_shared >= 0) {
        return static_cast<size_t>(kernel.max_dynamic_shared);
    }
    const size_t used = static_shared(kernel);
    return used < kSharedPerBlock ? kSharedPerBlock - used : 0;
}

int max_threads(Kernel& kernel) {
    const uint32_t bound = facts_of(kernel).max_threads;
    return bound ? static_cast<int>(std::min<uint32_t>(bound, kThreadsPerBlock)) : kThreadsPerBlock;
}

int registers_of(Kernel& kernel) {
    const ptx::Function* function = image_of(*kernel.binary)->module->function(kernel.name);
    if (!function) {
        throw Fault(cudaErrorInvalidDeviceFunction, "the PTX has no kernel " + kernel.name);
    }
    return static_cast<int>(exec::launch_registers(*function));
}

int resident_blocks(Kernel& kernel, int threads, size_t dynamic) {
    const Arch& arch = *settings().arch;
    if (threads <= 0 || threads > max_threads(kernel)) {
        return 0;
    }
    const size_t shared = static_shared(kernel) + dynamic;
    if (shared > arch.shared_optin()) {
        return 0;
    }
    const int warps = (threads + 31) / 32;
    const size_t block_shared = (shared + kSharedReserved + 127) / 128 * 128;
    const int warp_registers = (registers_of(kernel) * 32 + 255) / 256 * 256;
    int blocks = std::min(arch.blocks_per_sm, arch.threads_per_sm / (32 * warps));
    blocks = std::min(blocks, static_cast<int>(arch.shared_per_sm() / block_shared));
    return std::min(blocks, std::max(1, kRegistersPerSm / (warp_registers * warps)));
}

std::string readable(const Kernel& kernel) {
    int status = 0;
    char* text = abi::__cxa_demangle(kernel.name.c_str(), nullptr, nullptr, &status);
    const std::string name = status == 0 ? text : kernel.name;
    std::free(text);
    return name;
}

[[noreturn]] void refuse(cudaError_t error, const Kernel& kernel, const std::string& why) {
    throw Fault(error, "launch of " + readable(kernel) + " refused: " + why);
}

void check_cluster(Kernel& kernel, LaunchConfig& config) {
    const exec::FunctionFacts facts = facts_of(kernel);
    dim3 required{0, 0, 0};
    if (facts.has_required_cluster) {
        required = {facts.required_cluster.x, facts.required_cluster.y, facts.required_cluster.z};
    } else if (kernel.required_cluster_set) {
        required = kernel.required_cluster;
    }
    if (count_of(required) != 0) {
        if (count_of(config.cluster) != 0 &&
            (config.cluster.x != required.x || config.cluster.y != required.y ||
             config.cluster.z != required.z)) {
            refuse(cudaErrorInvalidClusterSize, kernel,
                   "cluster " + text_of(config.cluster) + ", compiled for " + text_of(required));
        }
        config.cluster = required;
    }
    if (config.cluster.x == 0 && config.cluster.y == 0 && config.cluster.z == 0) {
        config.cluster = {1, 1, 1};
    }
    const dim3& c = config.cluster;
    if (count_of(c) == 0) {
        refuse(cudaErrorInvalidClusterSize, kernel, "cluster " + text_of(c) + " has a zero");
    }
    if (count_of(c) == 1) {
        return;
    }
    const Arch& arch = *settings().arch;
    if (!arch.clusters) {
        refuse(cudaErrorInvalidClusterSize, kernel,
               std::string("cluster ") + text_of(c) + " on " + arch.name + ", clusters need sm_90");
    }
    const unsigned limit = kernel.nonportable_cluster ? kLargestCluster : kPortableCluster;
    if (count_of(c) > limit) {
        refuse(cudaErrorInvalidClusterSize, kernel,
               "cluster " + text_of(c) + " has more than " + std::to_string(limit) +
                   " blocks (16 with cudaFuncAttributeNonPortableClusterSizeAllowed)");
    }
    if (config.grid.x % c.x || config.grid.y % c.y || config.grid.z % c.z) {
        refuse(cudaErrorInvalidClusterSize, kernel,
               "grid " + text_of(config.grid) + " is no multiple of cluster " + text_of(c));
    }
}

uint32_t check_bits(const check::Config& c) {
    return (c.bounds ? kCheckBounds : 0u) | (c.init ? kCheckInit : 0u) |
           (c.races ? kCheckRaces : 0u) | (c.barriers ? kCheckBarriers : 0u) |
           (c.aligned ? kCheckAligned : 0u) | (c.async ? kCheckAsync : 0u) |
           (c.tmem ? kCheckTmem : 0u);
}

// What cooperative_groups' grid.sync() counts in.
class GridWorkspace {
  public:
    GridWorkspace() {
        allocations().add(address(), sizeof words_, check::MemoryKind::Device, "grid workspace");
    }
    ~GridWorkspace() { allocations().remove(address()); }
    GridWorkspace(const GridWorkspace&) = delete;
    uint64_t address() const { return reinterpret_cast<uint64_t>(words_); }

  private:
    alignas(256) uint32_t words_[2] = {sizeof words_, 0};
};

Dim3 machine_dim(const dim3& d) {
    return {d.x, d.y, d.z};
}

void write_report(const Kernel& kernel, const LaunchConfig& config, size_t shared,
                  const LaunchResult& result) {
    const Settings& s = settings();
    const LaunchFacts facts{readable(kernel),
                            kernel.name,
                            s.arch->name,
                            schedule_name(s.schedule),
                            {config.grid.x, config.grid.y, config.grid.z},
                            {config.block.x, config.block.y, config.block.z},
                            {config.cluster.x, config.cluster.y, config.cluster.z},
                            static_cast<uint32_t>(config.dynamic_shared),
                            static_cast<uint32_t>(shared),
                            result.seconds,
                            result.error,
                            result.report};
    static const Counters none;
    std::ofstream(s.report, std::ios::app)
        << to_json(facts, result.counters ? *result.counters : none) + "\n";
}

}  // namespace

void check_launch(Kernel& kernel, LaunchConfig& config) {
    const dim3& g = config.grid;
    const dim3& b = config.block;
    if (count_of(g) == 0 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) {
        refuse(cudaErrorInvalidConfiguration, kernel,
               "grid " + text_of(g) + ", allowed is 1 to (2147483647, 65535, 65535)");
    }
    if (count_of(b) == 0 || b.x > 1024 || b.y > 1024 || b.z > 64 ||
        count_of(b) > kThreadsPerBlock) {
        refuse(cudaErrorInvalidConfiguration, kernel,
               "block " + text_of(b) + ", allowed are 1024 threads, at most 64 in z");
    }
    if (count_of(b) > static_cast<uint64_t>(max_threads(kernel))) {
        refuse(cudaErrorInvalidValue, kernel,
               "block " + text_of(b) + " exceeds the kernel's launch bounds of " +
                   std::to_string(max_threads(kernel)) + " threads");
    }
    const ptx::Function* function = image_of(*kernel.binary)->module->function(kernel.name);
    if (function && function->required_threads[0]) {
        const auto& r = function->required_threads;
        if (b.x != r[0] || b.y != std::max(r[1], 1u) || b.z != std::max(r[2], 1u)) {
            refuse(cudaErrorInvalidValue, kernel,
                   "block " + text_of(b) + " is not the .reqntid of the kernel");
        }
    }
    const size_t limit = dynamic_limit(kernel);
    if (config.dynamic_shared > limit) {
        refuse(
            cudaErrorInvalidValue, kernel,
            std::to_string(config.dynamic_shared) +
                " bytes of dynamic shared memory, allowed are " + std::to_string(limit) +
                "; cudaFuncAttributeMaxDynamicSharedMemorySize raises this to " +
                std::to_string(settings().arch->shared_optin() -
                               std::min(static_shared(kernel), settings().arch->shared_optin())));
    }
    check_cluster(kernel, config);
    if (config.cooperative) {
        const uint64_t resident =
            static_cast<uint64_t>(
                resident_blocks(kernel, static_cast<int>(count_of(b)), config.dynamic_shared)) *
            static_cast<uint64_t>(settings().sm_count());
        if (count_of(g) > resident) {
            refuse(cudaErrorCooperativeLaunchTooLarge, kernel,
                   "grid " + text_of(g) + " of a cooperative launch, the device holds " +
                       std::to_string(resident) + " blocks at once");
        }
    }
}

std::vector<uint8_t> pack_arguments(Kernel& kernel, void** arguments) {
    const std::vector<KernelParameter> parameters = parameters_of(kernel);
    size_t bytes = 0;
    for (const KernelParameter& p : parameters) {
        bytes = std::max<size_t>(bytes, p.offset + p.bytes);
    }
    std::vector<uint8_t> packed(bytes);
    for (size_t i = 0; i < parameters.size(); ++i) {
        std::memcpy(packed.data() + parameters[i].offset, arguments[i], parameters[i].bytes);
    }
    return packed;
}

void run_kernel(const KernelWork& work) {
    const Settings& s = settings();
    Kernel& kernel = *work.kernel;
    LaunchRequest request;
    request.image = image_of(*kernel.binary);
    request.function = kernel.name;
    request.grid = machine_dim(work.config.grid);
    request.block = machine_dim(work.config.block);
    request.cluster = machine_dim(work.config.cluster);
    request.dynamic_shared = work.config.dynamic_shared;
    request.arguments = work.arguments;
    request.cooperative = work.config.cooperative;
    request.options.arch = s.arch->number();
    request.options.threads =
        s.threads > 0 ? s.threads
                      : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    request.options.schedule = s.schedule;
    request.options.seed = s.seed;
    request.options.checks = check_bits(check::Config::parse(s.checks));
    request.options.counters = !s.report.empty();
    request.options.sm_count = s.sm_count();
    request.options.hang_seconds = s.hang_seconds;
    request.options.fp32_fp8_sums = s.fp32_fp8_sums;
    request.print = [](const std::string& text) {
        std::fwrite(text.data(), 1, text.size(), stdout);
    };
    const GridWorkspace workspace;
    request.grid_workspace = work.config.cooperative ? workspace.address() : 0;
    const LaunchResult result = exec::launch(request);
    if (!s.report.empty()) {
        write_report(kernel, work.config, static_shared(kernel), result);
    }
    if (result.error != 0) {
        throw Fault(result.error, result.report);
    }
}

namespace {

void launch_attribute(KernelWork& work, const cudaLaunchAttribute& attribute) {
    const cudaLaunchAttributeValue& value = attribute.val;
    switch (attribute.id) {
        case cudaLaunchAttributeClusterDimension:
            work.config.cluster = {value.clusterDim.x, value.clusterDim.y, value.clusterDim.z};
            break;
        case cudaLaunchAttributeCooperative:
            work.config.cooperative = value.cooperative != 0;
            break;
        // Hints, and orders between kernels that run one after the other here.
        case cudaLaunchAttributeIgnore:
        case cudaLaunchAttributeAccessPolicyWindow:
        case cudaLaunchAttributeSynchronizationPolicy:
        case cudaLaunchAttributeClusterSchedulingPolicyPreference:
        case cudaLaunchAttributeProgrammaticStreamSerialization:
        case cudaLaunchAttributePriority:
        case cudaLaunchAttributeMemSyncDomainMap:
        case cudaLaunchAttributeMemSyncDomain:
        case cudaLaunchAttributePreferredClusterDimension:
        case cudaLaunchAttributePreferredSharedMemoryCarveout:
            break;
        default:
            throw Fault(cudaErrorNotSupported, "launch attribute " + std::to_string(attribute.id) +
                                                   " of " + readable(*work.kernel) +
                                                   " is not known to the emulator");
    }
    work.attributes[attribute.id] = value;
}

cudaError_t launch(const void* function, const LaunchConfig& config, void** arguments,
                   cudaStream_t stream, const cudaLaunchAttribute* attributes = nullptr,
                   unsigned attribute_count = 0) {
    KernelWork work;
    work.kernel = &kernel_or_throw(function);
    work.config = config;
    for (unsigned i = 0; i < attribute_count; ++i) {
        launch_attribute(work, attributes[i]);
    }
    check_launch(*work.kernel, work.config);
    work.arguments = pack_arguments(*work.kernel, arguments);
    submit(stream, std::move(work));
    return cudaSuccess;
}

struct PendingCall {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
};
thread_local std::vector<PendingCall> t_calls;

cudaError_t set_attribute(Kernel& kernel, cudaFuncAttribute attribute, int value) {
    switch (attribute) {
        case cudaFuncAttributeMaxDynamicSharedMemorySize: {
            const size_t limit = settings().arch->shared_optin();
            const size_t used = static_shared(kernel);
            if (value < 0 || static_cast<size_t>(value) + used > limit) {
                return fail(
                    cudaErrorInvalidValue,
                    "cudaFuncAttributeMaxDynamicSharedMemorySize = " + std::to_string(value) +
                        " for " + readable(kernel) + ": " + settings().arch->name + " has " +
                        std::to_string(limit) + " bytes per block, of which " +
                        std::to_string(used) + " are static");
            }
            kernel.max_dynamic_shared = value;
            return cudaSuccess;
        }
        case cudaFuncAttributePreferredSharedMemoryCarveout:
            if (value < -1 || value > 100) {
                return cudaErrorInvalidValue;
            }
            kernel.carveout = value;
            return cudaSuccess;
        case cudaFuncAttributeNonPortableClusterSizeAllowed:
            kernel.nonportable_cluster = value != 0;
            return cudaSuccess;
        case cudaFuncAttributeRequiredClusterWidth:
        case cudaFuncAttributeRequiredClusterHeight:
        case cudaFuncAttributeRequiredClusterDepth: {
            dim3& c = kernel.required_cluster;
            (attribute == cudaFuncAttributeRequiredClusterWidth    ? c.x
             : attribute == cudaFuncAttributeRequiredClusterHeight ? c.y
                                                                   : c.z) =
                static_cast<unsigned>(value);
            kernel.required_cluster_set = c.x && c.y && c.z;
            return cudaSuccess;
        }
        case cudaFuncAttributeClusterSchedulingPolicyPreference:
            kernel.cluster_policy = value;
            return cudaSuccess;
        default:
            return cudaErrorInvalidValue;
    }
}

}  // namespace
}  // namespace emu

using namespace emu;

#pragma GCC visibility push(default)
extern "C" {

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
    t_calls.push_back({grid, block, shared, static_cast<cudaStream_t>(stream)});
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    if (t_calls.empty()) {
        return cudaErrorMissingConfiguration;
    }
    const PendingCall call = t_calls.back();
    t_calls.pop_back();
    *grid = call.grid;
    *block = call.block;
    *shared = call.shared;
    *static_cast<cudaStream_t*>(stream) = call.stream;
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t shared, cudaStream_t stream) {
    return api([&] {
        return launch(function, {.grid = grid, .block = block, .dynamic_shared = shared}, arguments,
                      stream);
    });
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared, cudaStream_t stream) {
    return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3 grid, dim3 block,
                                        void** arguments, size_t shared, cudaStream_t stream) {
    return api([&] {
        return launch(function,
                      {.grid = grid, .block = block, .dynamic_shared = shared, .cooperative = true},
                      arguments, stream);
    });
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                void** arguments) {
    return api([&] {
        return launch(function,
                      {.grid = config->gridDim,
                       .block = config->blockDim,
                       .dynamic_shared = config->dynamicSmemBytes},
                      arguments, config->stream, config->attrs, config->numAttrs);
    });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* out, const void* function) {
    return api([&] {
        Kernel& kernel = kernel_or_throw(function);
        const exec::FunctionFacts facts = facts_of(kernel);
        const std::string& target = image_of(*kernel.binary)->module->target;
        *out = {};
        out->sharedSizeBytes = facts.static_shared;
        out->constSizeBytes = facts.const_bytes;
        out->localSizeBytes = facts.local_bytes;
        out->maxThreadsPerBlock = max_threads(kernel);
        out->numRegs = registers_of(kernel);
        out->ptxVersion = target.size() > 3 ? std::atoi(target.c_str() + 3) : 0;
        out->binaryVersion = settings().arch->number();
        out->maxDynamicSharedSizeBytes = static_cast<int>(dynamic_limit(kernel));
        out->preferredShmemCarveout = kernel.carveout;
        out->clusterDimMustBeSet = facts.has_required_cluster;
        if (facts.has_required_cluster) {
            out->requiredClusterWidth = static_cast<int>(facts.required_cluster.x);
            out->requiredClusterHeight = static_cast<int>(facts.required_cluster.y);
            out->requiredClusterDepth = static_cast<int>(facts.required_cluster.z);
        }
        out->clusterSchedulingPolicyPreference = kernel.cluster_policy;
        out->nonPortableClusterSizeAllowed = kernel.nonportable_cluster;
        return cudaSuccess;
    });
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
    return api([&] { return set_attribute(kernel_or_throw(function), attribute, value); });
}

cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, cudaFuncAttribute attribute,
                                            int value, int device) {
    return api([&] {
        return device != 0 ? cudaErrorInvalidDevice
                           : set_attribute(kernel_or_throw(kernel), attribute, value);
    });
}

cudaError_t cudaFuncSetCacheConfig(const void* function, cudaFuncCache) {
    return api([&] {
        kernel_or_throw(function);
        return cudaSuccess;
    });
}

cudaError_t cudaFuncSetSharedMemConfig(const void* function, cudaSharedMemConfig) {
    return cudaFuncSetCacheConfig(function, cudaFuncCachePreferNone);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks,
                                                                   const void* function,
                                                                   int threads, size_t dynamic,
                                                                   unsigned) {
    return api([&] {
        *blocks = resident_blocks(kernel_or_throw(function), threads, dynamic);
        return cudaSuccess;
    });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                          int threads, size_t dynamic) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads,
                                                                  dynamic, 0);
}

cudaError_t cudaOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, const void* function,
                                                      int blocks, int threads) {
    return api([&] {
        Kernel& kernel = kernel_or_throw(function);
        if (blocks <= 0 || resident_blocks(kernel, threads, 0) < blocks) {
            return cudaErrorInvalidValue;
        }
        const size_t each =
            settings().arch->shared_per_sm() / static_cast<size_t>(blocks) / 128 * 128;
        const size_t used = static_shared(kernel) + kSharedReserved;
        *bytes = each > used ? std::min(each - used,
                                        settings().arch->shared_optin() - static_shared(kernel))
                             : 0;
        return cudaSuccess;
    });
}

cudaError_t cudaOccupancyMaxPotentialClusterSize(int* size, const void* function,
                                                 const cudaLaunchConfig_t*) {
    return api([&] {
        const Kernel& kernel = kernel_or_throw(function);
        *size =
            settings().arch->clusters
                ? static_cast<int>(kernel.nonportable_cluster ? kLargestCluster : kPortableCluster)
                : 1;
        return cudaSuccess;
    });
}

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* function,
                                           const cudaLaunchConfig_t* config) {
    return api([&] {
        KernelWork work;
        work.kernel = &kernel_or_throw(function);
        work.config = {.grid = config->gridDim,
                       .block = config->blockDim,
                       .dynamic_shared = config->dynamicSmemBytes};
        for (unsigned i = 0; i < config->numAttrs; ++i) {
            launch_attribute(work, config->attrs[i]);
        }
        check_cluster(*work.kernel, work.config);
        const int blocks =
            resident_blocks(*work.kernel, static_cast<int>(count_of(config->blockDim)),
                            config->dynamicSmemBytes) *
            settings().sm_count();
        *clusters = blocks / static_cast<int>(count_of(work.config.cluster));
        return cudaSuccess;
    });
}

}  // extern "C"
#pragma GCC visibility pop
