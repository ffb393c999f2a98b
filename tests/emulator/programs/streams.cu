// SPDX-License-Identifier: BSD-3-Clause
// Streams, events, host functions.
#include "expect.h"

__global__ void scale(float* x, float factor) {
    x[threadIdx.x] *= factor;
}

void on_host(void* data) {
    *static_cast<int*>(data) += 1;
}
void on_callback(cudaStream_t, cudaError_t status, void* data) {
    *static_cast<int*>(data) += status == cudaSuccess ? 10 : 0;
}

int main() {
    cudaStream_t a, b;
    OK(cudaStreamCreate(&a));
    OK(cudaStreamCreateWithPriority(&b, cudaStreamNonBlocking, -1));
    int least, greatest, priority;
    unsigned flags;
    OK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    OK(cudaStreamGetPriority(b, &priority));
    OK(cudaStreamGetFlags(b, &flags));
    EXPECT(least == 0 && greatest < 0 && priority == -1 && flags == cudaStreamNonBlocking);
    unsigned long long id_a, id_b;
    OK(cudaStreamGetId(a, &id_a));
    OK(cudaStreamGetId(b, &id_b));
    EXPECT(id_a != id_b);

    float *x, host[32];
    OK(cudaMallocManaged(&x, sizeof host));
    for (int i = 0; i < 32; ++i) {
        x[i] = static_cast<float>(i);
    }
    cudaEvent_t start, stop, untimed;
    OK(cudaEventCreate(&start));
    OK(cudaEventCreate(&stop));
    OK(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
    float ms = -1;
    GIVES(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&ms, start, stop));
    OK(cudaEventRecord(start, a));
    scale<<<1, 32, 0, a>>>(x, 2.f);
    OK(cudaEventRecord(untimed, a));
    OK(cudaStreamWaitEvent(b, untimed, 0));
    scale<<<1, 32, 0, b>>>(x, 3.f);
    OK(cudaEventRecord(stop, b));
    OK(cudaEventSynchronize(stop));
    OK(cudaEventQuery(stop));
    OK(cudaEventElapsedTime(&ms, start, stop));
    EXPECT(ms > 0 && ms < 60000);
    GIVES(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&ms, start, untimed));
    int calls = 0;
    OK(cudaLaunchHostFunc(b, on_host, &calls));
    OK(cudaStreamAddCallback(b, on_callback, &calls, 0));
    OK(cudaStreamSynchronize(a));
    OK(cudaStreamSynchronize(b));
    OK(cudaStreamQuery(b));
    EXPECT(calls == 11);
    EXPECT(x[31] == 186.f);
    OK(cudaEventDestroy(start));
    GIVES(cudaErrorInvalidResourceHandle, cudaEventRecord(start, a));
    OK(cudaStreamDestroy(a));
    GIVES(cudaErrorInvalidResourceHandle, cudaStreamSynchronize(a));
    OK(cudaStreamDestroy(b));
    std::puts("ok");
}
