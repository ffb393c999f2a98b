// SPDX-License-Identifier: BSD-3-Clause
// Every way to get, copy and fill memory.
#include <cstring>
#include <vector>

#include "expect.h"

__device__ int counter = 5;
__device__ float vector[4] = {1.f, 2.f, 3.f, 4.f};
__constant__ int table[8] = {3, 1, 4, 1, 5, 9, 2, 6};
__managed__ int shared_with_host = 7;

__global__ void add_one(int* x, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        x[i] += 1;
    }
}

__global__ void touch_symbols(int* out) {
    out[threadIdx.x] = table[threadIdx.x] * 10 + counter;
    if (threadIdx.x == 0) {
        shared_with_host *= 2;
        vector[2] += 0.5f;
    }
}

void linear() {
    constexpr int kCount = 1000;
    std::vector<int> host(kCount);
    for (int i = 0; i < kCount; ++i) {
        host[i] = 3 * i;
    }
    int *a, *b;
    size_t before, after, total;
    OK(cudaMemGetInfo(&before, &total));
    OK(cudaMalloc(&a, kCount * sizeof(int)));
    OK(cudaMalloc(&b, kCount * sizeof(int)));
    OK(cudaMemGetInfo(&after, &total));
    EXPECT(after + 2 * kCount * sizeof(int) <= before && before <= total);
    EXPECT(reinterpret_cast<size_t>(a) % 256 == 0);
    OK(cudaMemcpy(a, host.data(), kCount * sizeof(int), cudaMemcpyHostToDevice));
    add_one<<<8, 128>>>(a, kCount);
    OK(cudaMemcpy(b, a, kCount * sizeof(int), cudaMemcpyDeviceToDevice));
    std::vector<int> back(kCount);
    OK(cudaMemcpy(back.data(), b, kCount * sizeof(int), cudaMemcpyDeviceToHost));
    for (int i = 0; i < kCount; ++i) {
        EXPECT(back[i] == 3 * i + 1);
    }
    OK(cudaMemset(b, 0x5a, 10));
    OK(cudaMemcpy(back.data(), b, 12, cudaMemcpyDefault));
    EXPECT(back[1] == 0x5a5a5a5a && back[2] == (7 & ~0xffff) + 0x5a5a);
    GIVES(cudaErrorInvalidValue,
          cudaMemcpy(b, host.data(), kCount * sizeof(int) + 1, cudaMemcpyHostToDevice));
    GIVES(cudaErrorInvalidValue, cudaMemcpy(back.data(), back.data(), 4, cudaMemcpyHostToDevice));
    GIVES(cudaErrorInvalidValue, cudaMemset(back.data(), 0, 4));
    OK(cudaFree(a));
    OK(cudaFree(b));
    OK(cudaFree(nullptr));
    GIVES(cudaErrorInvalidValue, cudaFree(a));
    GIVES(cudaErrorMemoryAllocation, cudaMalloc(&a, size_t{1} << 45));
    EXPECT(a == nullptr);
}

void planar() {
    constexpr int kWidth = 37, kHeight = 5;
    char *image, host[kHeight][kWidth], back[kHeight][64];
    size_t pitch;
    OK(cudaMallocPitch(&image, &pitch, kWidth, kHeight));
    EXPECT(pitch >= kWidth && pitch % 32 == 0);
    for (int y = 0; y < kHeight; ++y) {
        for (int x = 0; x < kWidth; ++x) {
            host[y][x] = static_cast<char>(y * 40 + x);
        }
    }
    OK(cudaMemset2D(image, pitch, 1, kWidth, kHeight));
    OK(cudaMemcpy2D(image, pitch, host, kWidth, kWidth - 1, kHeight, cudaMemcpyHostToDevice));
    OK(cudaMemcpy2D(back, 64, image, pitch, kWidth, kHeight, cudaMemcpyDeviceToHost));
    for (int y = 0; y < kHeight; ++y) {
        EXPECT(std::memcmp(back[y], host[y], kWidth - 1) == 0 && back[y][kWidth - 1] == 1);
    }
    GIVES(cudaErrorInvalidPitchValue,
          cudaMemcpy2D(image, pitch, host, 10, kWidth, kHeight, cudaMemcpyHostToDevice));
    OK(cudaFree(image));

    const cudaExtent extent = make_cudaExtent(16, 3, 2);
    cudaPitchedPtr cube;
    OK(cudaMalloc3D(&cube, extent));
    OK(cudaMemset3D(cube, 9, extent));
    char cells[2][3][16] = {};
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = cube;
    copy.dstPtr = make_cudaPitchedPtr(cells, 16, 16, 3);
    copy.dstPos = make_cudaPos(4, 1, 0);
    copy.extent = make_cudaExtent(8, 2, 2);
    copy.kind = cudaMemcpyDeviceToHost;
    OK(cudaMemcpy3D(&copy));
    EXPECT(cells[0][0][5] == 0 && cells[1][1][4] == 9 && cells[1][2][11] == 9 &&
           cells[1][2][12] == 0);
    OK(cudaFree(cube.ptr));
}

void symbols() {
    int *out, values[8], c = 0;
    OK(cudaMalloc(&out, sizeof values));
    touch_symbols<<<1, 8>>>(out);
    OK(cudaMemcpy(values, out, sizeof values, cudaMemcpyDeviceToHost));
    EXPECT(values[0] == 35 && values[5] == 95);
    EXPECT(shared_with_host == 14);
    OK(cudaMemcpyFromSymbol(&c, counter, sizeof c));
    EXPECT(c == 5);
    c = 1000;
    OK(cudaMemcpyToSymbol(counter, &c, sizeof c));
    const int two[2] = {70, 80};
    OK(cudaMemcpyToSymbol(table, two, sizeof two, 6 * sizeof(int)));
    touch_symbols<<<1, 8>>>(out);
    OK(cudaMemcpy(values, out, sizeof values, cudaMemcpyDeviceToHost));
    EXPECT(values[0] == 1030 && values[7] == 1800);
    void* address;
    size_t bytes;
    OK(cudaGetSymbolAddress(&address, vector));
    OK(cudaGetSymbolSize(&bytes, vector));
    float v[4];
    EXPECT(bytes == sizeof v);
    OK(cudaMemcpy(v, address, bytes, cudaMemcpyDeviceToHost));
    EXPECT(v[0] == 1.f && v[2] == 4.f);
    GIVES(cudaErrorInvalidValue, cudaMemcpyFromSymbol(v, vector, bytes, 4));
    static int no_symbol;
    GIVES(cudaErrorInvalidSymbol, cudaGetSymbolAddress(&address, &no_symbol));
    OK(cudaFree(out));
}

void host_side() {
    int *pinned, *managed, *device_view, *pool_memory, *device;
    OK(cudaMallocHost(&pinned, 400));
    OK(cudaMallocManaged(&managed, 400));
    OK(cudaMalloc(&device, 400));
    for (int i = 0; i < 100; ++i) {
        pinned[i] = managed[i] = i;
    }
    OK(cudaHostGetDevicePointer(&device_view, pinned, 0));
    add_one<<<1, 128>>>(device_view, 100);
    add_one<<<1, 128>>>(managed, 100);
    OK(cudaDeviceSynchronize());
    EXPECT(pinned[99] == 100 && managed[0] == 1);

    cudaPointerAttributes attributes;
    OK(cudaPointerGetAttributes(&attributes, pinned + 3));
    EXPECT(attributes.type == cudaMemoryTypeHost && attributes.devicePointer == pinned + 3);
    OK(cudaPointerGetAttributes(&attributes, managed));
    EXPECT(attributes.type == cudaMemoryTypeManaged && attributes.hostPointer == managed);
    OK(cudaPointerGetAttributes(&attributes, device + 99));
    EXPECT(attributes.type == cudaMemoryTypeDevice && attributes.device == 0);
    int local = 41;
    OK(cudaPointerGetAttributes(&attributes, &local));
    EXPECT(attributes.type == cudaMemoryTypeUnregistered);
    OK(cudaHostRegister(&local, sizeof local, cudaHostRegisterDefault));
    GIVES(cudaErrorHostMemoryAlreadyRegistered, cudaHostRegister(&local, sizeof local, 0));
    OK(cudaHostGetDevicePointer(&device_view, &local, 0));
    add_one<<<1, 32>>>(device_view, 1);
    OK(cudaHostUnregister(&local));
    EXPECT(local == 42);

    cudaMemPool_t pool;
    OK(cudaDeviceGetDefaultMemPool(&pool, 0));
    unsigned long long threshold = 1 << 20, read = 0;
    OK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
    OK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &read));
    EXPECT(read == threshold);
    OK(cudaMallocAsync(&pool_memory, 400, cudaStreamPerThread));
    OK(cudaMemsetAsync(pool_memory, 0, 400, cudaStreamPerThread));
    add_one<<<1, 128, 0, cudaStreamPerThread>>>(pool_memory, 100);
    OK(cudaMemcpyAsync(pinned, pool_memory, 400, cudaMemcpyDeviceToHost, cudaStreamPerThread));
    OK(cudaFreeAsync(pool_memory, cudaStreamPerThread));
    OK(cudaStreamSynchronize(cudaStreamPerThread));
    EXPECT(pinned[0] == 1 && pinned[99] == 1);
    OK(cudaFreeHost(pinned));
    OK(cudaFree(managed));
    OK(cudaFree(device));
}

int main() {
    linear();
    planar();
    symbols();
    host_side();
    std::puts("ok");
}
