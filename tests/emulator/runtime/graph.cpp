// SPDX-License-Identifier: BSD-3-Clause
// Graphs as a whole: topology, clones, instantiation, launch, update.
#include "runtime/graph.h"

#include <algorithm>
#include <fstream>
#include <set>

namespace emu {
namespace {

struct Graphs {
    std::map<Graph*, std::unique_ptr<Graph>> graphs;
    std::set<Graph*> children;  // owned by nodes
    std::set<GraphNode*> nodes;
    std::map<GraphExec*, std::unique_ptr<GraphExec>> executables;
};

Graphs& graphs() {
    static Graphs& g = *new Graphs;
    return g;
}

// Child graphs are owned by their nodes; both sets must forget what goes away.
std::shared_ptr<Graph> make_shared_graph() {
    std::shared_ptr<Graph> graph(new Graph, [](Graph* g) {
        for (const auto& node : g->nodes) {
            graphs().nodes.erase(node.get());
        }
        graphs().children.erase(g);
        delete g;
    });
    graphs().children.insert(graph.get());
    return graph;
}

cudaError_t instantiate(cudaGraphExec_t* out, cudaGraph_t handle, unsigned long long flags) {
    auto exec = std::make_unique<GraphExec>();
    exec->graph = clone_graph(find_graph(handle));
    exec->order = sorted(*exec->graph);
    exec->flags = flags;
    *out = reinterpret_cast<cudaGraphExec_t>(exec.get());
    graphs().executables[exec.get()] = std::move(exec);
    return cudaSuccess;
}

// Node of `to` for each node of `from` in order of creation, empty when the graphs differ in shape.
cudaGraphExecUpdateResult compare(const Graph& from, const Graph& to, const GraphNode*& culprit) {
    if (from.nodes.size() != to.nodes.size()) {
        return cudaGraphExecUpdateErrorTopologyChanged;
    }
    auto index = [](const Graph& graph) {
        std::map<const GraphNode*, size_t> at;
        for (size_t i = 0; i < graph.nodes.size(); ++i) {
            at[graph.nodes[i].get()] = i;
        }
        return at;
    };
    const auto at_from = index(from);
    const auto at_to = index(to);
    for (size_t i = 0; i < from.nodes.size(); ++i) {
        const GraphNode& a = *from.nodes[i];
        const GraphNode& b = *to.nodes[i];
        culprit = &a;
        if (node_type(a) != node_type(b)) {
            return cudaGraphExecUpdateErrorNodeTypeChanged;
        }
        std::set<size_t> before_a, before_b;
        for (const GraphNode* n : a.before) {
            before_a.insert(at_from.at(n));
        }
        for (const GraphNode* n : b.before) {
            before_b.insert(at_to.at(n));
        }
        if (before_a != before_b) {
            return cudaGraphExecUpdateErrorTopologyChanged;
        }
    }
    culprit = nullptr;
    return cudaGraphExecUpdateSuccess;
}

}  // namespace

Graph* new_graph() {
    auto graph = std::make_unique<Graph>();
    Graph* out = graph.get();
    graphs().graphs[out] = std::move(graph);
    return out;
}

void delete_graph(Graph* graph) {
    for (const auto& node : graph->nodes) {
        graphs().nodes.erase(node.get());
    }
    for (cudaUserObject_t object : graph->user_objects) {
        cudaUserObjectRelease(object, 1);
    }
    graphs().graphs.erase(graph);
}

Graph& find_graph(cudaGraph_t handle) {
    auto* graph = reinterpret_cast<Graph*>(handle);
    if (!graphs().graphs.contains(graph) && !graphs().children.contains(graph)) {
        throw Fault(cudaErrorInvalidValue, "this is no graph");
    }
    return *graph;
}

GraphNode& find_node(cudaGraphNode_t handle) {
    auto* node = reinterpret_cast<GraphNode*>(handle);
    if (!graphs().nodes.contains(node)) {
        throw Fault(cudaErrorInvalidValue, "this is no graph node");
    }
    return *node;
}

GraphExec& find_exec(cudaGraphExec_t handle) {
    auto* exec = reinterpret_cast<GraphExec*>(handle);
    if (!graphs().executables.contains(exec)) {
        throw Fault(cudaErrorInvalidValue, "this is no executable graph");
    }
    return *exec;
}

GraphNode& node_in(GraphExec& exec, cudaGraphNode_t node) {
    const auto at = exec.graph->copies.find(reinterpret_cast<const GraphNode*>(node));
    if (at == exec.graph->copies.end()) {
        throw Fault(cudaErrorInvalidValue,
                    "the node is not of the graph that this executable was made from");
    }
    return *at->second;
}

bool reaches(const GraphNode& node, const std::vector<GraphNode*>& ends) {
    std::set<const GraphNode*> seen;
    std::vector<const GraphNode*> open(ends.begin(), ends.end());
    while (!open.empty()) {
        const GraphNode* at = open.back();
        open.pop_back();
        if (at == &node) {
            return true;
        }
        if (seen.insert(at).second) {
            open.insert(open.end(), at->before.begin(), at->before.end());
        }
    }
    return false;
}

GraphNode* add_node(Graph& graph, std::vector<GraphNode*> before, Work work) {
    auto node = std::make_unique<GraphNode>();
    node->graph = &graph;
    node->work = std::move(work);
    node->before = std::move(before);
    graphs().nodes.insert(node.get());
    graph.nodes.push_back(std::move(node));
    return graph.nodes.back().get();
}

GraphNode* capture_work(Stream& stream, Work work) {
    GraphNode* node = add_node(*stream.capture->graph, stream.tail, std::move(work));
    stream.tail = {node};
    return node;
}

cudaGraphNodeType node_type(const GraphNode& node) {
    struct {
        cudaGraphNodeType operator()(const EmptyWork&) const { return cudaGraphNodeTypeEmpty; }
        cudaGraphNodeType operator()(const KernelWork&) const { return cudaGraphNodeTypeKernel; }
        cudaGraphNodeType operator()(const CopyWork&) const { return cudaGraphNodeTypeMemcpy; }
        cudaGraphNodeType operator()(const FillWork&) const { return cudaGraphNodeTypeMemset; }
        cudaGraphNodeType operator()(const HostWork&) const { return cudaGraphNodeTypeHost; }
        cudaGraphNodeType operator()(const EventWork& w) const {
            return w.record ? cudaGraphNodeTypeEventRecord : cudaGraphNodeTypeWaitEvent;
        }
        cudaGraphNodeType operator()(const AllocWork&) const { return cudaGraphNodeTypeMemAlloc; }
        cudaGraphNodeType operator()(const FreeWork&) const { return cudaGraphNodeTypeMemFree; }
        cudaGraphNodeType operator()(const ChildWork&) const { return cudaGraphNodeTypeGraph; }
    } type;
    return std::visit(type, node.work);
}

std::shared_ptr<Graph> clone_graph(const Graph& graph) {
    std::shared_ptr<Graph> copy = make_shared_graph();
    for (const auto& node : graph.nodes) {
        GraphNode* twin = add_node(*copy, {}, node->work);
        if (auto* child = std::get_if<ChildWork>(&twin->work)) {
            child->graph = clone_graph(*child->graph);
        }
        twin->enabled = node->enabled;
        copy->copies[node.get()] = twin;
    }
    for (const auto& node : graph.nodes) {
        for (const GraphNode* before : node->before) {
            copy->copies[node.get()]->before.push_back(copy->copies[before]);
        }
    }
    return copy;
}

std::vector<GraphNode*> sorted(const Graph& graph) {
    std::vector<GraphNode*> order;
    std::set<const GraphNode*> done;
    while (order.size() < graph.nodes.size()) {
        const size_t had = order.size();
        for (const auto& node : graph.nodes) {
            const bool ready = std::all_of(node->before.begin(), node->before.end(),
                                           [&](const GraphNode* n) { return done.contains(n); });
            if (ready && !done.contains(node.get())) {
                order.push_back(node.get());
                done.insert(node.get());
            }
        }
        if (order.size() == had) {
            throw Fault(cudaErrorInvalidValue, "the graph has a cycle");
        }
    }
    return order;
}

void run_nodes(const Graph& graph, const std::vector<GraphNode*>& order) {
    std::set<const void*> own;  // memory that stays with the graph although a node of it frees it
    for (const auto& node : graph.nodes) {
        if (const auto* alloc = std::get_if<AllocWork>(&node->work)) {
            own.insert(alloc->block.get());
        }
    }
    for (const GraphNode* node : order) {
        if (!node->enabled) {
            continue;
        }
        const auto* release = std::get_if<FreeWork>(&node->work);
        if (release && own.contains(release->pointer)) {
            continue;
        }
        perform(node->work);
    }
}

void perform(const Work& work) {
    struct {
        void operator()(const EmptyWork&) const {}
        void operator()(const KernelWork& w) const { run_kernel(w); }
        void operator()(const CopyWork& w) const { run_copy(w); }
        void operator()(const FillWork& w) const { run_fill(w); }
        void operator()(const HostWork& w) const { w.function(w.data); }
        void operator()(const EventWork& w) const {
            if (w.record) {
                Event& event = find_event(reinterpret_cast<cudaEvent_t>(w.event));
                event.recorded = true;
                event.seconds = host_seconds();
                event.capture.reset();
                event.nodes.clear();
            }
        }
        void operator()(const AllocWork& w) const {
            revive_graph_block(w.block.get(), w.params.bytesize);
        }
        void operator()(const FreeWork& w) const {
            if (device_free(w.pointer) != cudaSuccess) {
                throw Fault(cudaErrorInvalidValue, "free of memory that is not allocated");
            }
        }
        void operator()(const ChildWork& w) const { run_nodes(*w.graph, sorted(*w.graph)); }
    } run;
    std::visit(run, work);
}

}  // namespace emu

using namespace emu;

struct CUuserObject_st {
    void* pointer;
    cudaHostFn_t destroy;
    unsigned references;
};

extern "C" {

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned flags) {
    return api([&] {
        if (flags != 0) {
            return cudaErrorInvalidValue;
        }
        *graph = reinterpret_cast<cudaGraph_t>(new_graph());
        return cudaSuccess;
    });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return api([&] {
        delete_graph(&find_graph(graph));
        return cudaSuccess;
    });
}

cudaError_t cudaGraphClone(cudaGraph_t* out, cudaGraph_t graph) {
    return api([&] {
        const std::shared_ptr<Graph> copy = clone_graph(find_graph(graph));
        Graph* owned = new_graph();
        std::swap(owned->nodes, copy->nodes);
        std::swap(owned->copies, copy->copies);
        for (const auto& node : owned->nodes) {
            node->graph = owned;
        }
        *out = reinterpret_cast<cudaGraph_t>(owned);
        return cudaSuccess;
    });
}

cudaError_t cudaGraphNodeFindInClone(cudaGraphNode_t* out, cudaGraphNode_t original,
                                     cudaGraph_t clone) {
    return api([&] {
        const auto& copies = find_graph(clone).copies;
        const auto at = copies.find(reinterpret_cast<const GraphNode*>(original));
        if (at == copies.end()) {
            return cudaErrorInvalidValue;
        }
        *out = reinterpret_cast<cudaGraphNode_t>(at->second);
        return cudaSuccess;
    });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags) {
    return api([&] { return instantiate(exec, graph, flags); });
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph,
                                          unsigned long long flags) {
    return cudaGraphInstantiate(exec, graph, flags);
}

cudaError_t cudaGraphInstantiateWithParams(cudaGraphExec_t* exec, cudaGraph_t graph,
                                           cudaGraphInstantiateParams* parameters) {
    return api([&] {
        parameters->errNode_out = nullptr;
        parameters->result_out = cudaGraphInstantiateSuccess;
        return instantiate(exec, graph, parameters->flags);
    });
}

cudaError_t cudaGraphExecGetFlags(cudaGraphExec_t exec, unsigned long long* flags) {
    return api([&] {
        *flags = find_exec(exec).flags;
        return cudaSuccess;
    });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    return api([&] {
        graphs().executables.erase(&find_exec(exec));
        return cudaSuccess;
    });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream) {
    return api([&] {
        find_exec(exec);
        find_stream(stream);
        return cudaSuccess;
    });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream) {
    return api([&] {
        const GraphExec& exec = find_exec(handle);
        if (find_stream(stream).capture) {
            submit(stream, ChildWork{clone_graph(*exec.graph)});
            return cudaSuccess;
        }
        run_nodes(*exec.graph, exec.order);
        return cudaSuccess;
    });
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t handle, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo* info) {
    return api([&] {
        GraphExec& exec = find_exec(handle);
        const Graph& source = find_graph(graph);
        const GraphNode* culprit = nullptr;
        const cudaGraphExecUpdateResult result = compare(source, *exec.graph, culprit);
        if (info) {
            *info = {};
            info->result = result;
            info->errorNode = reinterpret_cast<cudaGraphNode_t>(const_cast<GraphNode*>(culprit));
        }
        if (result != cudaGraphExecUpdateSuccess) {
            return cudaErrorGraphExecUpdateFailure;
        }
        for (size_t i = 0; i < source.nodes.size(); ++i) {
            GraphNode& node = *exec.graph->nodes[i];
            node.work = source.nodes[i]->work;
            if (auto* child = std::get_if<ChildWork>(&node.work)) {
                child->graph = clone_graph(*child->graph);
            }
            exec.graph->copies[source.nodes[i].get()] = &node;
        }
        return cudaSuccess;
    });
}

static cudaError_t list_nodes(const std::vector<GraphNode*>& nodes, cudaGraphNode_t* out,
                              size_t* count) {
    if (out) {
        for (size_t i = 0; i < *count; ++i) {
            out[i] = i < nodes.size() ? reinterpret_cast<cudaGraphNode_t>(nodes[i]) : nullptr;
        }
        *count = std::min(*count, nodes.size());
    } else {
        *count = nodes.size();
    }
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* out, size_t* count) {
    return api([&] {
        std::vector<GraphNode*> nodes;
        for (const auto& node : find_graph(graph).nodes) {
            nodes.push_back(node.get());
        }
        return list_nodes(nodes, out, count);
    });
}

cudaError_t cudaGraphGetRootNodes(cudaGraph_t graph, cudaGraphNode_t* out, size_t* count) {
    return api([&] {
        std::vector<GraphNode*> nodes;
        for (const auto& node : find_graph(graph).nodes) {
            if (node->before.empty()) {
                nodes.push_back(node.get());
            }
        }
        return list_nodes(nodes, out, count);
    });
}

cudaError_t cudaGraphGetEdges(cudaGraph_t graph, cudaGraphNode_t* from, cudaGraphNode_t* to,
                              cudaGraphEdgeData* data, size_t* count) {
    return api([&] {
        std::vector<GraphNode*> tails, heads;
        for (const auto& node : find_graph(graph).nodes) {
            for (GraphNode* before : node->before) {
                tails.push_back(before);
                heads.push_back(node.get());
            }
        }
        for (size_t i = 0; data && i < *count; ++i) {
            data[i] = {};
        }
        size_t again = *count;
        list_nodes(tails, from, count);
        return to ? list_nodes(heads, to, &again) : cudaSuccess;
    });
}

cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t* out,
                                         cudaGraphEdgeData*, size_t* count) {
    return api([&] { return list_nodes(find_node(node).before, out, count); });
}

cudaError_t cudaGraphNodeGetDependentNodes(cudaGraphNode_t node, cudaGraphNode_t* out,
                                           cudaGraphEdgeData*, size_t* count) {
    return api([&] {
        GraphNode& self = find_node(node);
        std::vector<GraphNode*> after;
        for (const auto& other : self.graph->nodes) {
            if (std::find(other->before.begin(), other->before.end(), &self) !=
                other->before.end()) {
                after.push_back(other.get());
            }
        }
        return list_nodes(after, out, count);
    });
}

cudaError_t cudaGraphAddDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                     const cudaGraphNode_t* to, const cudaGraphEdgeData*,
                                     size_t count) {
    return api([&] {
        find_graph(graph);
        for (size_t i = 0; i < count; ++i) {
            find_node(to[i]).before.push_back(&find_node(from[i]));
        }
        return cudaSuccess;
    });
}

cudaError_t cudaGraphRemoveDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                        const cudaGraphNode_t* to, const cudaGraphEdgeData*,
                                        size_t count) {
    return api([&] {
        find_graph(graph);
        for (size_t i = 0; i < count; ++i) {
            if (std::erase(find_node(to[i]).before, &find_node(from[i])) == 0) {
                return cudaErrorInvalidValue;
            }
        }
        return cudaSuccess;
    });
}

cudaError_t cudaGraphDestroyNode(cudaGraphNode_t handle) {
    return api([&] {
        GraphNode* node = &find_node(handle);
        Graph* graph = node->graph;
        for (const auto& other : graph->nodes) {
            std::erase(other->before, node);
        }
        graphs().nodes.erase(node);
        std::erase_if(graph->nodes, [&](const auto& n) { return n.get() == node; });
        return cudaSuccess;
    });
}

cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* type) {
    return api([&] {
        *type = node_type(find_node(node));
        return cudaSuccess;
    });
}

cudaError_t cudaGraphNodeSetEnabled(cudaGraphExec_t exec, cudaGraphNode_t node, unsigned enabled) {
    return api([&] {
        node_in(find_exec(exec), node).enabled = enabled != 0;
        return cudaSuccess;
    });
}

cudaError_t cudaGraphNodeGetEnabled(cudaGraphExec_t exec, cudaGraphNode_t node, unsigned* enabled) {
    return api([&] {
        *enabled = node_in(find_exec(exec), node).enabled;
        return cudaSuccess;
    });
}

cudaError_t cudaGraphDebugDotPrint(cudaGraph_t graph, const char* path, unsigned) {
    return api([&] {
        std::ofstream out(path);
        out << "digraph {\n";
        std::map<const GraphNode*, size_t> at;
        for (const auto& node : find_graph(graph).nodes) {
            at.emplace(node.get(), at.size());
            out << "  n" << at[node.get()] << " [label=\""
                << (node_type(*node) == cudaGraphNodeTypeKernel
                        ? std::get<KernelWork>(node->work).kernel->name
                        : "type " + std::to_string(node_type(*node)))
                << "\"];\n";
        }
        for (const auto& [node, index] : at) {
            for (const GraphNode* before : node->before) {
                out << "  n" << at[before] << " -> n" << index << ";\n";
            }
        }
        out << "}\n";
        return out ? cudaSuccess : cudaErrorOperatingSystem;
    });
}

// ---- user objects ----

cudaError_t cudaUserObjectCreate(cudaUserObject_t* out, void* pointer, cudaHostFn_t destroy,
                                 unsigned references, unsigned) {
    return api([&] {
        *out = new CUuserObject_st{pointer, destroy, references};
        return cudaSuccess;
    });
}

cudaError_t cudaUserObjectRetain(cudaUserObject_t object, unsigned count) {
    return api([&] {
        object->references += count;
        return cudaSuccess;
    });
}

cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned count) {
    return api([&] {
        if (count > object->references) {
            return cudaErrorInvalidValue;
        }
        object->references -= count;
        if (object->references == 0) {
            object->destroy(object->pointer);
            delete object;
        }
        return cudaSuccess;
    });
}

cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned count,
                                      unsigned flags) {
    return api([&] {
        if (!(flags & cudaGraphUserObjectMove)) {
            object->references += count;
        }
        find_graph(graph).user_objects.insert(find_graph(graph).user_objects.end(), count, object);
        return cudaSuccess;
    });
}

cudaError_t cudaGraphReleaseUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned count) {
    return api([&] {
        auto& objects = find_graph(graph).user_objects;
        for (unsigned i = 0; i < count; ++i) {
            const auto at = std::find(objects.begin(), objects.end(), object);
            if (at == objects.end()) {
                return cudaErrorInvalidValue;
            }
            objects.erase(at);
            cudaUserObjectRelease(object, 1);
        }
        return cudaSuccess;
    });
}

}  // extern "C"
