// SPDX-License-Identifier: BSD-3-Clause
// What a stream can be given to do. Work is performed at once, or becomes a graph node when the
// stream is capturing.
#pragma once

#include <functional>
#include <variant>

#include "runtime/state.h"

namespace emu {

struct KernelWork {
    Kernel* kernel = nullptr;
    LaunchConfig config;
    std::vector<uint8_t> arguments;
    std::map<int, cudaLaunchAttributeValue> attributes;  // what a graph node of it answers
};

// width bytes x height rows x depth slices; rows lie pitch bytes apart, slices slice bytes apart.
struct CopyWork {
    void* to = nullptr;
    const void* from = nullptr;
    size_t width = 0, height = 1, depth = 1;
    size_t to_pitch = 0, to_slice = 0, from_pitch = 0, from_slice = 0;
    cudaMemcpyKind kind = cudaMemcpyDefault;
};

struct FillWork {
    void* to = nullptr;
    unsigned value = 0;
    unsigned element = 1;  // bytes of value: 1, 2 or 4
    size_t width = 0;      // elements
    size_t height = 1, depth = 1;
    size_t pitch = 0, slice = 0;  // bytes
};

struct HostWork {
    cudaHostFn_t function = nullptr;
    void* data = nullptr;
};

struct Event {
    unsigned flags = 0;
    bool recorded = false;
    double seconds = 0;  // host clock
    std::weak_ptr<Capture> capture;
    std::vector<GraphNode*> nodes;  // what the event stands for inside that capture
};

struct EventWork {
    Event* event = nullptr;
    bool record = true;  // false: wait
};

// Memory of a graph: taken when the node is made, given back with the last graph that holds the
// node.
struct AllocWork {
    cudaMemAllocNodeParams params{};
    std::shared_ptr<void> block;
};

struct FreeWork {
    void* pointer = nullptr;
};

struct ChildWork {
    std::shared_ptr<Graph> graph;
};

struct EmptyWork {};

using Work = std::variant<EmptyWork, KernelWork, CopyWork, FillWork, HostWork, EventWork, AllocWork,
                          FreeWork, ChildWork>;

// Runs it now. Throws Fault; a kernel's fault is the launch's error.
void perform(const Work& work);
// Into the stream: performed, or captured. Throws Fault.
void submit(cudaStream_t stream, Work work);

Event& find_event(cudaEvent_t event);
double host_seconds();

// Adds a node after the stream's last ones and makes it the stream's last one.
GraphNode* capture_work(Stream& stream, Work work);

void run_kernel(const KernelWork& work);
CopyWork cuboid(const cudaMemcpy3DParms& parameters);
void run_copy(const CopyWork& copy);
void run_fill(const FillWork& fill);

}  // namespace emu
