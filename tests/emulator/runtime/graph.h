// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "runtime/work.h"

namespace emu {

struct GraphNode {
    Graph* graph = nullptr;
    Work work;
    std::vector<GraphNode*> before;  // nodes that it depends on
    bool enabled = true;
    std::vector<void*> argument_pointers;  // what GetParams hands out
};

struct Graph {
    std::vector<std::unique_ptr<GraphNode>> nodes;  // in order of creation
    std::map<const GraphNode*, GraphNode*>
        copies;  // original -> node here, for clones and executables
    std::vector<cudaUserObject_t> user_objects;
    bool is_child = false;
};

struct GraphExec {
    std::shared_ptr<Graph> graph;   // a clone of the graph it was made from
    std::vector<GraphNode*> order;  // a topological one
    unsigned long long flags = 0;
};

Graph* new_graph();
void delete_graph(Graph* graph);
Graph& find_graph(cudaGraph_t graph);        // Fault{cudaErrorInvalidValue}
GraphNode& find_node(cudaGraphNode_t node);  // Fault{cudaErrorInvalidValue}
GraphExec& find_exec(cudaGraphExec_t exec);
// The executable's copy of a node of the graph it was made from.
GraphNode& node_in(GraphExec& exec, cudaGraphNode_t node);

// True when some node of `ends` is `node` or depends on it.
bool reaches(const GraphNode& node, const std::vector<GraphNode*>& ends);
GraphNode* add_node(Graph& graph, std::vector<GraphNode*> before, Work work);
cudaGraphNodeType node_type(const GraphNode& node);
std::shared_ptr<Graph> clone_graph(const Graph& graph);
std::vector<GraphNode*> sorted(const Graph& graph);  // Fault{cudaErrorInvalidValue} on a cycle
void run_nodes(const Graph& graph, const std::vector<GraphNode*>& order);

}  // namespace emu
