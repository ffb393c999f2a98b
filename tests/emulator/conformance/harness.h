// SPDX-License-Identifier: BSD-3-Clause
// Runs the kernels of a conformance program over jobs read from a file: program <jobs> <results>.
//
// Job: name[64], then 12 int32 (grid, block, cluster, dynamic shared bytes, input bytes, output
// bytes, map, 5 spare), the tensor map's fields when map is 1 (MapFields), the input. Result per
// job: int32 cudaError_t, then the output bytes. The run stops at the first failing job, because
// errors of a context are sticky.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

struct Entry {
    const char* name;
    const void* kernel;
};

struct Job {
    char name[64];
    int32_t grid, block, cluster, shared, in_bytes, out_bytes, map, spare[5];
};

struct MapFields {
    int32_t type, rank, swizzle, nan_fill;
    int64_t dims[5], strides[5];
    int32_t box[5], steps[5];
};

inline int encode_map(CUtensorMap* map, const MapFields& f, void* base) {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                         cudaEnableDefault, &found) != cudaSuccess) {
        return 1;
    }
    cuuint64_t dims[5], strides[5];
    cuuint32_t box[5], steps[5];
    for (int i = 0; i < 5; ++i) {
        dims[i] = static_cast<cuuint64_t>(f.dims[i]);
        strides[i] = static_cast<cuuint64_t>(f.strides[i]);
        box[i] = static_cast<cuuint32_t>(f.box[i]);
        steps[i] = static_cast<cuuint32_t>(f.steps[i]);
    }
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function)(
        map, static_cast<CUtensorMapDataType>(f.type), static_cast<cuuint32_t>(f.rank), base, dims,
        strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
        static_cast<CUtensorMapSwizzle>(f.swizzle), CU_TENSOR_MAP_L2_PROMOTION_NONE,
        static_cast<CUtensorMapFloatOOBfill>(f.nan_fill));
}

inline cudaError_t run_job(const Job& job, const void* kernel, const MapFields* fields,
                           const std::vector<char>& in, std::vector<char>& out) {
    char *device_in = nullptr, *device_out = nullptr;
    cudaMalloc(reinterpret_cast<void**>(&device_in), in.size() + 16);
    cudaMalloc(reinterpret_cast<void**>(&device_out), out.size() + 16);
    cudaMemcpy(device_in, in.data(), in.size(), cudaMemcpyHostToDevice);
    cudaMemset(device_out, 0xcd, out.size());
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, job.shared);
    CUtensorMap map;
    void* plain[] = {&device_in, &device_out};
    void* mapped[] = {&map, &device_in, &device_out};
    if (fields != nullptr && encode_map(&map, *fields, device_in) != 0) {
        return cudaErrorInvalidValue;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(job.grid));
    config.blockDim = dim3(static_cast<unsigned>(job.block));
    config.dynamicSmemBytes = static_cast<size_t>(job.shared);
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(job.cluster), 1, 1};
    config.attrs = &attribute;
    config.numAttrs = job.cluster > 1 ? 1 : 0;
    cudaError_t error = cudaLaunchKernelExC(&config, kernel, fields != nullptr ? mapped : plain);
    if (error == cudaSuccess) {
        error = cudaDeviceSynchronize();
    }
    if (error == cudaSuccess) {
        cudaMemcpy(out.data(), device_out, out.size(), cudaMemcpyDeviceToHost);
    }
    cudaFree(device_in);
    cudaFree(device_out);
    return error;
}

inline int run_jobs(int argc, char** argv, const Entry* entries, size_t count) {
    std::FILE* jobs = argc == 3 ? std::fopen(argv[1], "rb") : nullptr;
    std::FILE* results = argc == 3 ? std::fopen(argv[2], "wb") : nullptr;
    if (jobs == nullptr || results == nullptr) {
        std::fprintf(stderr, "usage: %s <jobs> <results>\n", argv[0]);
        return 2;
    }
    Job job;
    while (std::fread(&job, sizeof job, 1, jobs) == 1) {
        MapFields fields;
        if (job.map && std::fread(&fields, sizeof fields, 1, jobs) != 1) {
            return 2;
        }
        std::vector<char> in(static_cast<size_t>(job.in_bytes)),
            out(static_cast<size_t>(job.out_bytes));
        if (!in.empty() && std::fread(in.data(), in.size(), 1, jobs) != 1) {
            return 2;
        }
        const void* kernel = nullptr;
        for (size_t i = 0; i < count; ++i) {
            if (std::strcmp(entries[i].name, job.name) == 0) {
                kernel = entries[i].kernel;
            }
        }
        const int32_t error =
            kernel
                ? static_cast<int32_t>(run_job(job, kernel, job.map ? &fields : nullptr, in, out))
                : -1;
        std::fwrite(&error, sizeof error, 1, results);
        std::fwrite(out.data(), out.size(), 1, results);
        if (error != 0) {
            std::fprintf(
                stderr, "%s: error %d %s\n", job.name, error,
                error > 0 ? cudaGetErrorString(static_cast<cudaError_t>(error)) : "no such kernel");
            break;
        }
    }
    std::fclose(jobs);
    std::fclose(results);
    return 0;
}
