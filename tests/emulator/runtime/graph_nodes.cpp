// SPDX-License-Identifier: BSD-3-Clause
// Graph nodes of each kind: add, read back, change in a graph or in an executable.
#include <cstring>

#include "runtime/graph.h"

namespace emu {
namespace {

using Dependencies = const cudaGraphNode_t*;

cudaError_t add(cudaGraphNode_t* out, cudaGraph_t graph, Dependencies dependencies, size_t count,
                Work work) {
    std::vector<GraphNode*> before;
    for (size_t i = 0; i < count; ++i) {
        before.push_back(&find_node(dependencies[i]));
    }
    *out = reinterpret_cast<cudaGraphNode_t>(
        add_node(find_graph(graph), std::move(before), std::move(work)));
    return cudaSuccess;
}

// The node's work when it is of this kind.
template <class T>
T& work_of(GraphNode& node) {
    T* work = std::get_if<T>(&node.work);
    if (!work) {
        throw Fault(cudaErrorInvalidValue, "the graph node is of another type");
    }
    return *work;
}

template <class Params>
KernelWork kernel_work(const Params& p) {
    if (p.extra) {
        throw Fault(
            cudaErrorNotSupported,
            "kernel node arguments in the 'extra' form are not implemented in the emulator");
    }
    KernelWork work;
    work.kernel = &kernel_or_throw(p.func);
    work.config.grid = p.gridDim;
    work.config.block = p.blockDim;
    work.config.dynamic_shared = p.sharedMemBytes;
    check_launch(*work.kernel, work.config);
    work.arguments = pack_arguments(*work.kernel, p.kernelParams);
    return work;
}

FillWork fill_work(const cudaMemsetParams& p) {
    const size_t row = p.width * p.elementSize;
    return {.to = p.dst,
            .value = p.value,
            .element = p.elementSize,
            .width = p.width,
            .height = p.height,
            .pitch = p.height > 1 ? p.pitch : row};
}

CopyWork line(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    CopyWork copy;
    copy.to = to;
    copy.from = from;
    copy.width = bytes;
    copy.kind = kind;
    return copy;
}

void* symbol_at(const void* symbol, size_t offset, size_t bytes) {
    const DeviceSymbol s = find_symbol(symbol);
    if (offset > s.bytes || bytes > s.bytes - offset) {
        throw Fault(cudaErrorInvalidValue, "copy of " + std::to_string(bytes) +
                                               " bytes runs past the symbol's " +
                                               std::to_string(s.bytes) + " bytes");
    }
    return static_cast<char*>(s.address) + offset;
}

// New parameters for a node that stays of its kind; cluster shape and attributes of a kernel stay
// too.
void replace(GraphNode& node, Work work) {
    if (node.work.index() != work.index()) {
        throw Fault(cudaErrorInvalidValue, "the graph node is of another type");
    }
    if (auto* kernel = std::get_if<KernelWork>(&work)) {
        const auto& old = std::get<KernelWork>(node.work);
        kernel->config.cluster = old.config.cluster;
        kernel->config.cooperative = old.config.cooperative;
        kernel->attributes = old.attributes;
    }
    node.work = std::move(work);
}

cudaError_t change(cudaGraphNode_t node, Work work) {
    replace(find_node(node), std::move(work));
    return cudaSuccess;
}

cudaError_t change(cudaGraphExec_t exec, cudaGraphNode_t node, Work work) {
    replace(node_in(find_exec(exec), node), std::move(work));
    return cudaSuccess;
}

AllocWork alloc_work(const cudaMemAllocNodeParams& p) {
    void* pointer = device_allocate(p.bytesize, check::MemoryKind::Device);
    if (!pointer) {
        throw Fault(cudaErrorMemoryAllocation, "no memory for a graph's allocation node");
    }
    AllocWork work;
    work.params = p;
    work.params.dptr = pointer;
    work.block = graph_block(pointer);
    return work;
}

// cudaGraphAddNode and cudaGraph[Exec]NodeSetParams: one struct for every kind.
Work work_from(cudaGraphNodeParams& p) {
    switch (p.type) {
        case cudaGraphNodeTypeKernel:
            return kernel_work(p.kernel);
        case cudaGraphNodeTypeMemcpy:
            return cuboid(p.memcpy.copyParams);
        case cudaGraphNodeTypeMemset: {
            cudaMemsetParams fill;
            static_assert(sizeof fill == sizeof p.memset);
            std::memcpy(&fill, &p.memset, sizeof fill);
            return fill_work(fill);
        }
        case cudaGraphNodeTypeHost:
            return HostWork{p.host.fn, p.host.userData};
        case cudaGraphNodeTypeGraph:
            return ChildWork{clone_graph(find_graph(p.graph.graph))};
        case cudaGraphNodeTypeEmpty:
            return EmptyWork{};
        case cudaGraphNodeTypeWaitEvent:
            return EventWork{&find_event(p.eventWait.event), false};
        case cudaGraphNodeTypeEventRecord:
            return EventWork{&find_event(p.eventRecord.event), true};
        case cudaGraphNodeTypeMemAlloc: {
            cudaMemAllocNodeParams alloc;
            static_assert(sizeof alloc == sizeof p.alloc);
            std::memcpy(&alloc, &p.alloc, sizeof alloc);
            AllocWork work = alloc_work(alloc);
            p.alloc.dptr = work.params.dptr;
            return work;
        }
        case cudaGraphNodeTypeMemFree:
            return FreeWork{p.free.dptr};
        default:
            throw Fault(cudaErrorNotSupported, "graph nodes of type " + std::to_string(p.type) +
                                                   " are not implemented in the emulator");
    }
}

}  // namespace
}  // namespace emu

using namespace emu;

extern "C" {

cudaError_t cudaGraphAddNode(cudaGraphNode_t* node, cudaGraph_t graph, Dependencies dependencies,
                             const cudaGraphEdgeData*, size_t count,
                             cudaGraphNodeParams* parameters) {
    return api([&] { return add(node, graph, dependencies, count, work_from(*parameters)); });
}

cudaError_t cudaGraphNodeSetParams(cudaGraphNode_t node, cudaGraphNodeParams* parameters) {
    return api([&] { return change(node, work_from(*parameters)); });
}

cudaError_t cudaGraphExecNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                       cudaGraphNodeParams* parameters) {
    return api([&] { return change(exec, node, work_from(*parameters)); });
}

// ---- kernels ----

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                   Dependencies dependencies, size_t count,
                                   const cudaKernelNodeParams* parameters) {
    return api([&] { return add(node, graph, dependencies, count, kernel_work(*parameters)); });
}

cudaError_t cudaGraphKernelNodeGetParams(cudaGraphNode_t handle, cudaKernelNodeParams* out) {
    return api([&] {
        GraphNode& node = find_node(handle);
        KernelWork& work = work_of<KernelWork>(node);
        node.argument_pointers.clear();
        for (const KernelParameter& p : parameters_of(*work.kernel)) {
            node.argument_pointers.push_back(work.arguments.data() + p.offset);
        }
        *out = {};
        out->func = const_cast<void*>(work.kernel->host);
        out->gridDim = work.config.grid;
        out->blockDim = work.config.block;
        out->sharedMemBytes = static_cast<unsigned>(work.config.dynamic_shared);
        out->kernelParams = node.argument_pointers.data();
        return cudaSuccess;
    });
}

cudaError_t cudaGraphKernelNodeSetParams(cudaGraphNode_t node,
                                         const cudaKernelNodeParams* parameters) {
    return api([&] { return change(node, kernel_work(*parameters)); });
}

cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams* parameters) {
    return api([&] { return change(exec, node, kernel_work(*parameters)); });
}

cudaError_t cudaGraphKernelNodeGetAttribute(cudaGraphNode_t node, cudaLaunchAttributeID attribute,
                                            cudaLaunchAttributeValue* value) {
    return api([&] {
        *value = work_of<KernelWork>(find_node(node)).attributes[attribute];
        return cudaSuccess;
    });
}

cudaError_t cudaGraphKernelNodeSetAttribute(cudaGraphNode_t node, cudaLaunchAttributeID attribute,
                                            const cudaLaunchAttributeValue* value) {
    return api([&] {
        KernelWork& work = work_of<KernelWork>(find_node(node));
        if (attribute == cudaLaunchAttributeClusterDimension) {
            work.config.cluster = {value->clusterDim.x, value->clusterDim.y, value->clusterDim.z};
            check_launch(*work.kernel, work.config);
        } else if (attribute == cudaLaunchAttributeCooperative) {
            work.config.cooperative = value->cooperative != 0;
        }
        work.attributes[attribute] = *value;
        return cudaSuccess;
    });
}

cudaError_t cudaGraphKernelNodeCopyAttributes(cudaGraphNode_t to, cudaGraphNode_t from) {
    return api([&] {
        const KernelWork& source = work_of<KernelWork>(find_node(from));
        KernelWork& target = work_of<KernelWork>(find_node(to));
        target.attributes = source.attributes;
        target.config.cluster = source.config.cluster;
        target.config.cooperative = source.config.cooperative;
        return cudaSuccess;
    });
}

// ---- copies ----

cudaError_t cudaGraphAddMemcpyNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                   Dependencies dependencies, size_t count,
                                   const cudaMemcpy3DParms* parameters) {
    return api([&] { return add(node, graph, dependencies, count, cuboid(*parameters)); });
}

cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t* node, cudaGraph_t graph,
                                     Dependencies dependencies, size_t count, void* to,
                                     const void* from, size_t bytes, cudaMemcpyKind kind) {
    return api([&] { return add(node, graph, dependencies, count, line(to, from, bytes, kind)); });
}

cudaError_t cudaGraphAddMemcpyNodeToSymbol(cudaGraphNode_t* node, cudaGraph_t graph,
                                           Dependencies dependencies, size_t count,
                                           const void* symbol, const void* from, size_t bytes,
                                           size_t offset, cudaMemcpyKind kind) {
    return api([&] {
        return add(node, graph, dependencies, count,
                   line(symbol_at(symbol, offset, bytes), from, bytes, kind));
    });
}

cudaError_t cudaGraphAddMemcpyNodeFromSymbol(cudaGraphNode_t* node, cudaGraph_t graph,
                                             Dependencies dependencies, size_t count, void* to,
                                             const void* symbol, size_t bytes, size_t offset,
                                             cudaMemcpyKind kind) {
    return api([&] {
        return add(node, graph, dependencies, count,
                   line(to, symbol_at(symbol, offset, bytes), bytes, kind));
    });
}

cudaError_t cudaGraphMemcpyNodeGetParams(cudaGraphNode_t node, cudaMemcpy3DParms* out) {
    return api([&] {
        const CopyWork& work = work_of<CopyWork>(find_node(node));
        *out = {};
        const size_t rows = work.to_pitch ? work.to_slice / work.to_pitch : 1;
        out->dstPtr = {work.to, work.to_pitch ? work.to_pitch : work.width, work.width, rows};
        out->srcPtr = {const_cast<void*>(work.from), work.from_pitch ? work.from_pitch : work.width,
                       work.width, rows};
        out->extent = {work.width, work.height, work.depth};
        out->kind = work.kind;
        return cudaSuccess;
    });
}

cudaError_t cudaGraphMemcpyNodeSetParams(cudaGraphNode_t node,
                                         const cudaMemcpy3DParms* parameters) {
    return api([&] { return change(node, cuboid(*parameters)); });
}

cudaError_t cudaGraphMemcpyNodeSetParams1D(cudaGraphNode_t node, void* to, const void* from,
                                           size_t bytes, cudaMemcpyKind kind) {
    return api([&] { return change(node, line(to, from, bytes, kind)); });
}

cudaError_t cudaGraphExecMemcpyNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaMemcpy3DParms* parameters) {
    return api([&] { return change(exec, node, cuboid(*parameters)); });
}

cudaError_t cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t exec, cudaGraphNode_t node, void* to,
                                               const void* from, size_t bytes,
                                               cudaMemcpyKind kind) {
    return api([&] { return change(exec, node, line(to, from, bytes, kind)); });
}

// ---- fills ----

cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                   Dependencies dependencies, size_t count,
                                   const cudaMemsetParams* parameters) {
    return api([&] { return add(node, graph, dependencies, count, fill_work(*parameters)); });
}

cudaError_t cudaGraphMemsetNodeGetParams(cudaGraphNode_t node, cudaMemsetParams* out) {
    return api([&] {
        const FillWork& work = work_of<FillWork>(find_node(node));
        *out = {};
        out->dst = work.to;
        out->pitch = work.pitch;
        out->value = work.value;
        out->elementSize = work.element;
        out->width = work.width;
        out->height = work.height;
        return cudaSuccess;
    });
}

cudaError_t cudaGraphMemsetNodeSetParams(cudaGraphNode_t node, const cudaMemsetParams* parameters) {
    return api([&] { return change(node, fill_work(*parameters)); });
}

cudaError_t cudaGraphExecMemsetNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaMemsetParams* parameters) {
    return api([&] { return change(exec, node, fill_work(*parameters)); });
}

// ---- host functions ----

cudaError_t cudaGraphAddHostNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                 Dependencies dependencies, size_t count,
                                 const cudaHostNodeParams* parameters) {
    return api([&] {
        return add(node, graph, dependencies, count,
                   HostWork{parameters->fn, parameters->userData});
    });
}

cudaError_t cudaGraphHostNodeGetParams(cudaGraphNode_t node, cudaHostNodeParams* out) {
    return api([&] {
        const HostWork& work = work_of<HostWork>(find_node(node));
        *out = {};
        out->fn = work.function;
        out->userData = work.data;
        return cudaSuccess;
    });
}

cudaError_t cudaGraphHostNodeSetParams(cudaGraphNode_t node, const cudaHostNodeParams* parameters) {
    return api([&] { return change(node, HostWork{parameters->fn, parameters->userData}); });
}

cudaError_t cudaGraphExecHostNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                           const cudaHostNodeParams* parameters) {
    return api([&] { return change(exec, node, HostWork{parameters->fn, parameters->userData}); });
}

// ---- child graphs, empty nodes, events, memory ----

cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                       Dependencies dependencies, size_t count, cudaGraph_t child) {
    return api([&] {
        return add(node, graph, dependencies, count, ChildWork{clone_graph(find_graph(child))});
    });
}

cudaError_t cudaGraphChildGraphNodeGetGraph(cudaGraphNode_t node, cudaGraph_t* out) {
    return api([&] {
        *out = reinterpret_cast<cudaGraph_t>(work_of<ChildWork>(find_node(node)).graph.get());
        return cudaSuccess;
    });
}

cudaError_t cudaGraphExecChildGraphNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                                 cudaGraph_t child) {
    return api([&] { return change(exec, node, ChildWork{clone_graph(find_graph(child))}); });
}

cudaError_t cudaGraphAddEmptyNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                  Dependencies dependencies, size_t count) {
    return api([&] { return add(node, graph, dependencies, count, EmptyWork{}); });
}

cudaError_t cudaGraphAddEventRecordNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                        Dependencies dependencies, size_t count,
                                        cudaEvent_t event) {
    return api(
        [&] { return add(node, graph, dependencies, count, EventWork{&find_event(event), true}); });
}

cudaError_t cudaGraphAddEventWaitNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                      Dependencies dependencies, size_t count, cudaEvent_t event) {
    return api([&] {
        return add(node, graph, dependencies, count, EventWork{&find_event(event), false});
    });
}

cudaError_t cudaGraphAddMemAllocNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                     Dependencies dependencies, size_t count,
                                     cudaMemAllocNodeParams* parameters) {
    return api([&] {
        AllocWork work = alloc_work(*parameters);
        parameters->dptr = work.params.dptr;
        return add(node, graph, dependencies, count, std::move(work));
    });
}

cudaError_t cudaGraphMemAllocNodeGetParams(cudaGraphNode_t node, cudaMemAllocNodeParams* out) {
    return api([&] {
        *out = work_of<AllocWork>(find_node(node)).params;
        return cudaSuccess;
    });
}

cudaError_t cudaGraphAddMemFreeNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                    Dependencies dependencies, size_t count, void* pointer) {
    return api([&] { return add(node, graph, dependencies, count, FreeWork{pointer}); });
}

cudaError_t cudaDeviceGraphMemTrim(int device) {
    return api([&] { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; });
}

}  // extern "C"
