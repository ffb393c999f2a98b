// SPDX-License-Identifier: BSD-3-Clause
// What the files of the runtime share: the lock and errors around each API call, kernels, streams,
// memory.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "check/allocations.h"
#include "exec/fault.h"
#include "exec/machine.h"
#include "runtime/settings.h"

// The header declares the exported functions, so it is read with default visibility.
#pragma GCC visibility push(default)
#include <cuda_runtime_api.h>
#pragma GCC visibility pop

namespace emu {

// ---- errors
// ----------------------------------------------------------------------------------------------------------

// One lock for the whole runtime: calls of several host threads happen one after the other.
std::recursive_mutex& runtime_mutex();

// Stores the thread's last error (and the device's, when it is one that only cudaDeviceReset
// clears); returns it.
cudaError_t record_error(cudaError_t error);
// The text that cannot travel in an error code: kept for limelight_emulator_last_report(), printed
// unless quiet.
void explain(const std::string& text);
cudaError_t fail(cudaError_t error,
                 const std::string& text);  // explain, then the error, not yet recorded
cudaError_t sticky_error();
void clear_errors();
const std::string& last_report();

// Whether this host thread has the device's context: its first call that is no mere query binds it.
bool& context_is_bound();

// API functions that ask without using the device: they bind no context.
template <class F>
cudaError_t query(F&& body) noexcept {
    const std::lock_guard lock(runtime_mutex());
    if (!environment_error().empty()) {
        explain(environment_error());
        return record_error(cudaErrorInitializationError);
    }
    if (sticky_error() != cudaSuccess) {
        return record_error(sticky_error());
    }
    try {
        return record_error(body());
    } catch (const Fault& fault) {
        explain(fault.text);
        return record_error(static_cast<cudaError_t>(fault.error));
    } catch (const std::bad_alloc&) {
        return record_error(cudaErrorMemoryAllocation);
    } catch (const std::exception& e) {
        explain(std::string("emulator: ") + e.what());
        return record_error(cudaErrorUnknown);
    }
}

// Every other API function is `return api([&] { ...; return cudaSuccess; });`
template <class F>
cudaError_t api(F&& body) noexcept {
    context_is_bound() = true;
    return query(body);
}

// ---- memory
// ----------------------------------------------------------------------------------------------------------

check::Allocations& allocations();
void* device_allocate(size_t bytes, check::MemoryKind kind);  // nullptr: over the device's memory
cudaError_t device_free(void* pointer);
std::shared_ptr<void> graph_block(void* pointer);      // frees the block with its last owner
void revive_graph_block(void* pointer, size_t bytes);  // a launch allocates again what was freed
void release_all_memory();

// ---- modules and kernels
// ---------------------------------------------------------------------------------------------

struct FatBinary;

struct Kernel {
    FatBinary* binary = nullptr;
    const void* host = nullptr;   // address of the host stub
    std::string name;             // mangled
    int max_dynamic_shared = -1;  // cudaFuncAttributeMaxDynamicSharedMemorySize, -1: never set
    int carveout = -1;
    bool nonportable_cluster = false;
    bool required_cluster_set = false;
    dim3 required_cluster{0, 0, 0};
    int cluster_policy = 0;
};

// `function`: address of the host stub, or a cudaKernel_t / cudaFunction_t. nullptr when there is
// no such kernel.
Kernel* find_kernel(const void* function);
Kernel& kernel_or_throw(const void* function);  // Fault{cudaErrorInvalidDeviceFunction}
// Loaded for the chosen architecture on first use. Throws Fault when there is no PTX image that it
// can run.
std::shared_ptr<Image> image_of(FatBinary& binary);
exec::FunctionFacts facts_of(Kernel& kernel);
std::vector<KernelParameter> parameters_of(Kernel& kernel);
struct DeviceSymbol {
    void* address;
    size_t bytes;
};
DeviceSymbol find_symbol(const void* host_variable);  // throws Fault{cudaErrorInvalidSymbol}
void forget_images();                                 // globals go back to their initial values

// ---- launches
// --------------------------------------------------------------------------------------------------------

struct LaunchConfig {
    dim3 grid, block, cluster{0, 0, 0};  // cluster 0: none asked for
    size_t dynamic_shared = 0;
    bool cooperative = false;
};

// Throws Fault when the device cannot run this configuration; fills in the kernel's own cluster
// shape.
void check_launch(Kernel& kernel, LaunchConfig& config);
std::vector<uint8_t> pack_arguments(Kernel& kernel, void** arguments);

// ---- streams
// ---------------------------------------------------------------------------------------------------------

struct Graph;
struct GraphNode;
struct Stream;

// One stream capture; all streams that joined it share this object.
struct Capture {
    Graph* graph = nullptr;
    bool own_graph = true;  // made by BeginCapture, handed out by EndCapture
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    bool invalid = false;
    unsigned long long id = 0;
    Stream* origin = nullptr;
    std::thread::id thread;
    std::vector<Stream*> streams;
    std::vector<GraphNode*> left;  // last nodes of streams that were destroyed during the capture
};

struct Stream {
    unsigned flags = cudaStreamDefault;
    int priority = 0;
    unsigned long long id = 0;
    std::shared_ptr<Capture> capture;  // nullptr when not capturing
    std::vector<GraphNode*> tail;      // what the next captured node depends on
    std::map<int, cudaLaunchAttributeValue> attributes;
};

// Throws Fault{cudaErrorInvalidResourceHandle} for what is no stream; nullptr is the legacy default
// stream.
Stream& find_stream(cudaStream_t stream);
// Throws Fault{cudaErrorStreamCaptureUnsupported} and invalidates captures when an unsafe call
// comes during one.
void forbid_during_capture(const char* call);
// ---- driver entry points
// ---------------------------------------------------------------------------------------------

void* driver_function(const std::string& name);  // nullptr when the emulator has none of this name

}  // namespace emu
