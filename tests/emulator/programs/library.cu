// SPDX-License-Identifier: BSD-3-Clause
// PTX that the program makes at run time, as NVRTC would.
#include "expect.h"

const char* const kText = R"(
.version 8.0
.target sm_80
.address_size 64
.global .align 4 .u32 offset = 7;
.visible .entry add_to(.param .u64 p, .param .u32 v)
{
    .reg .b64 %rd<3>;
    .reg .b32 %r<6>;
    ld.param.u64 %rd1, [p];
    ld.param.u32 %r1, [v];
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd1, %rd1, %rd2;
    ld.global.u32 %r3, [%rd1];
    ld.global.u32 %r4, [offset];
    add.s32 %r3, %r3, %r1;
    add.s32 %r3, %r3, %r4;
    st.global.u32 [%rd1], %r3;
    ret;
}
)";

int main() {
    cudaLibrary_t library;
    cudaKernel_t kernel;
    OK(cudaLibraryLoadData(&library, kText, nullptr, nullptr, 0, nullptr, nullptr, 0));
    OK(cudaLibraryGetKernel(&kernel, library, "add_to"));
    unsigned count;
    OK(cudaLibraryGetKernelCount(&count, library));
    EXPECT(count == 1);
    int *x, value = 100;
    OK(cudaMallocManaged(&x, 128));
    for (int i = 0; i < 32; ++i) {
        x[i] = i;
    }
    void* arguments[] = {&x, &value};
    OK(cudaLaunchKernel(kernel, dim3(1), dim3(32), arguments, 0, nullptr));
    OK(cudaDeviceSynchronize());
    EXPECT(x[31] == 138);
    void* offset;
    size_t bytes;
    OK(cudaLibraryGetGlobal(&offset, &bytes, library, "offset"));
    EXPECT(bytes == 4 && *static_cast<int*>(offset) == 7);
    GIVES(cudaErrorSymbolNotFound, cudaLibraryGetKernel(&kernel, library, "no_such"));
    OK(cudaLibraryUnload(library));
    GIVES(
        cudaErrorInvalidPtx,
        cudaLibraryLoadData(&library, ".version 8.0\n.target sm_80\n.address_size 64\n.entry x( {",
                            nullptr, nullptr, 0, nullptr, nullptr, 0));
    std::puts("ok");
}
