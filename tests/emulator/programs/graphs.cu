// SPDX-License-Identifier: BSD-3-Clause
// Capture into graphs, replay, updates, and what a capture refuses.
#include "expect.h"

__global__ void add(int* x, int value) {
    x[threadIdx.x] += value;
}
__global__ void sum(int* out, const int* a, const int* b) {
    out[threadIdx.x] = a[threadIdx.x] + b[threadIdx.x];
}

int *x, *y, *z, host_calls = 0;
void count_call(void* data) {
    *static_cast<int*>(data) += 1;
}

void clear() {
    OK(cudaMemset(x, 0, 128));
    OK(cudaMemset(y, 0, 128));
}

void capture_and_replay() {
    clear();
    cudaStream_t first, second;
    cudaEvent_t fork, join;
    OK(cudaStreamCreate(&first));
    OK(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
    OK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    OK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    cudaStreamCaptureStatus status;
    OK(cudaStreamBeginCapture(first, cudaStreamCaptureModeGlobal));
    OK(cudaStreamIsCapturing(first, &status));
    EXPECT(status == cudaStreamCaptureStatusActive);
    add<<<1, 32, 0, first>>>(x, 1);
    OK(cudaEventRecord(fork, first));
    OK(cudaStreamWaitEvent(second, fork, 0));
    add<<<1, 32, 0, second>>>(y, 10);
    add<<<1, 32, 0, first>>>(x, 2);
    OK(cudaEventRecord(join, second));
    OK(cudaStreamWaitEvent(first, join, 0));
    sum<<<1, 32, 0, first>>>(z, x, y);
    OK(cudaMemcpyAsync(z + 1, z, 4, cudaMemcpyDeviceToDevice, first));
    OK(cudaLaunchHostFunc(first, count_call, &host_calls));
    cudaGraph_t graph;
    OK(cudaStreamEndCapture(first, &graph));
    OK(cudaStreamIsCapturing(second, &status));
    EXPECT(status == cudaStreamCaptureStatusNone);
    OK(cudaDeviceSynchronize());
    EXPECT(x[0] == 0 && y[0] == 0 && host_calls == 0);  // nothing ran yet

    size_t nodes = 0, edges = 0, roots = 0;
    OK(cudaGraphGetNodes(graph, nullptr, &nodes));
    OK(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges));
    OK(cudaGraphGetRootNodes(graph, nullptr, &roots));
    EXPECT(nodes == 6 && edges == 6 && roots == 1);
    cudaGraphExec_t exec;
    OK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 3; ++i) {
        OK(cudaGraphLaunch(exec, first));
    }
    OK(cudaStreamSynchronize(first));
    EXPECT(x[5] == 9 && y[5] == 30 && z[5] == 39 && host_calls == 3);

    // A second capture with other arguments and the same shape updates the executable.
    cudaGraph_t other;
    OK(cudaStreamBeginCapture(first, cudaStreamCaptureModeThreadLocal));
    add<<<1, 32, 0, first>>>(x, 100);
    OK(cudaStreamEndCapture(first, &other));
    cudaGraphExecUpdateResultInfo info;
    GIVES(cudaErrorGraphExecUpdateFailure, cudaGraphExecUpdate(exec, other, &info));
    EXPECT(info.result == cudaGraphExecUpdateErrorTopologyChanged);
    cudaGraphExec_t small;
    OK(cudaGraphInstantiate(&small, other, 0));
    OK(cudaGraphDestroy(other));
    OK(cudaStreamBeginCapture(first, cudaStreamCaptureModeRelaxed));
    add<<<1, 32, 0, first>>>(x, 1000);
    OK(cudaStreamEndCapture(first, &other));
    OK(cudaGraphExecUpdate(small, other, &info));
    OK(cudaGraphLaunch(small, nullptr));
    OK(cudaDeviceSynchronize());
    EXPECT(x[0] == 1009);

    cudaGraphNode_t node;
    size_t one = 1;
    OK(cudaGraphGetNodes(other, &node, &one));
    cudaKernelNodeParams params;
    OK(cudaGraphKernelNodeGetParams(node, &params));
    EXPECT(params.func == reinterpret_cast<void*>(add) && params.blockDim.x == 32 &&
           *static_cast<int*>(params.kernelParams[1]) == 1000);
    int value = -1009;
    void* arguments[] = {&x, &value};
    params.kernelParams = arguments;
    OK(cudaGraphExecKernelNodeSetParams(small, node, &params));
    OK(cudaGraphLaunch(small, first));
    OK(cudaStreamSynchronize(first));
    EXPECT(x[0] == 0);
    OK(cudaGraphExecDestroy(small));
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
    OK(cudaStreamDestroy(first));
    OK(cudaStreamDestroy(second));
}

void built_by_hand() {
    clear();
    cudaGraph_t graph;
    OK(cudaGraphCreate(&graph, 0));
    cudaMemsetParams fill = {};
    fill.dst = x;
    fill.value = 7;
    fill.elementSize = 4;
    fill.width = 32;
    fill.height = 1;
    cudaGraphNode_t fill_node, kernel_node, copy_node;
    OK(cudaGraphAddMemsetNode(&fill_node, graph, nullptr, 0, &fill));
    int value = 5;
    void* arguments[] = {&x, &value};
    cudaKernelNodeParams kernel = {};
    kernel.func = reinterpret_cast<void*>(add);
    kernel.gridDim = dim3(1);
    kernel.blockDim = dim3(32);
    kernel.kernelParams = arguments;
    OK(cudaGraphAddKernelNode(&kernel_node, graph, &fill_node, 1, &kernel));
    OK(cudaGraphAddMemcpyNode1D(&copy_node, graph, &kernel_node, 1, y, x, 128,
                                cudaMemcpyDeviceToDevice));
    cudaGraphExec_t exec;
    OK(cudaGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    OK(cudaGraphLaunch(exec, nullptr));
    OK(cudaDeviceSynchronize());
    EXPECT(x[31] == 12 && y[31] == 12);
    OK(cudaGraphExecDestroy(exec));
}

// Memory that the graph allocates; a stream that goes away during the capture.
void memory_nodes() {
    clear();
    cudaStream_t stream, helper;
    cudaEvent_t fork, join;
    OK(cudaStreamCreate(&stream));
    OK(cudaStreamCreate(&helper));
    OK(cudaEventCreate(&fork));
    OK(cudaEventCreate(&join));
    int *inside, *outside;
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    OK(cudaMallocAsync(&inside, 128, stream));
    OK(cudaMallocAsync(&outside, 128, stream));
    OK(cudaMemsetAsync(inside, 0, 128, stream));
    OK(cudaEventRecord(fork, stream));
    OK(cudaStreamWaitEvent(helper, fork, 0));
    add<<<1, 32, 0, helper>>>(inside, 3);
    OK(cudaEventRecord(join, helper));
    OK(cudaStreamWaitEvent(stream, join, 0));
    OK(cudaStreamDestroy(helper));
    sum<<<1, 32, 0, stream>>>(outside, inside, inside);
    OK(cudaFreeAsync(inside, stream));
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 3; ++i) {
        OK(cudaGraphLaunch(exec, stream));
        OK(cudaMemcpy(x, outside, 128, cudaMemcpyDeviceToHost));
        EXPECT(x[31] == 6);
        OK(cudaFreeAsync(outside, stream));
        GIVES(cudaErrorInvalidValue, cudaMemcpy(x, outside, 128, cudaMemcpyDeviceToHost));
    }
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
    OK(cudaStreamDestroy(stream));
}

void refused() {
    cudaStream_t stream, other;
    cudaGraph_t graph;
    void* memory;
    OK(cudaStreamCreate(&stream));
    OK(cudaStreamCreate(&other));
    GIVES(cudaErrorStreamCaptureUnsupported,
          cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal));

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    GIVES(cudaErrorStreamCaptureUnsupported, cudaMalloc(&memory, 16));
    GIVES(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(stream, &graph));
    EXPECT(graph == nullptr);

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    OK(cudaMalloc(&memory, 16));
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphDestroy(graph));

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    GIVES(cudaErrorStreamCaptureUnsupported, cudaStreamSynchronize(stream));
    GIVES(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(stream, &graph));

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    add<<<1, 32>>>(x, 1);
    EXPECT(cudaGetLastError() == cudaErrorStreamCaptureImplicit);
    GIVES(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(stream, &graph));

    cudaEvent_t event;
    OK(cudaEventCreate(&event));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    OK(cudaEventRecord(event, stream));
    OK(cudaStreamWaitEvent(other, event, 0));
    add<<<1, 32, 0, other>>>(x, 1);
    GIVES(cudaErrorStreamCaptureUnjoined, cudaStreamEndCapture(stream, &graph));
    OK(cudaFree(memory));
    OK(cudaStreamDestroy(stream));
    OK(cudaStreamDestroy(other));
}

int main() {
    OK(cudaMallocManaged(&x, 128));
    OK(cudaMallocManaged(&y, 128));
    OK(cudaMallocManaged(&z, 128));
    capture_and_replay();
    built_by_hand();
    memory_nodes();
    refused();
    std::puts("ok");
}
