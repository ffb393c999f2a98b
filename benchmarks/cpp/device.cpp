// SPDX-License-Identifier: BSD-3-Clause
#include "device.h"

#include <utility>

namespace bench {

void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess) {
        throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
    }
}

DeviceFacts require_gpu() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
        throw NoGpu(std::string("this benchmark needs an NVIDIA GPU, and there is none: ") +
                    (error == cudaSuccess ? "0 devices" : cudaGetErrorString(error)) +
                    "; run it on a machine with a GPU");
    }
    check(cudaSetDevice(0), "cudaSetDevice(0)");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    DeviceFacts facts;
    facts.name = properties.name;
    facts.major = properties.major;
    facts.minor = properties.minor;
    facts.sm_count = properties.multiProcessorCount;
    facts.l2_bytes = properties.l2CacheSize;
    size_t total = 0;
    check(cudaMemGetInfo(&facts.free_bytes, &total), "cudaMemGetInfo");
    check(cudaDeviceGetAttribute(&facts.clock_khz, cudaDevAttrClockRate, 0),
          "cudaDevAttrClockRate");
    check(cudaDriverGetVersion(&facts.driver), "cudaDriverGetVersion");
    check(cudaRuntimeGetVersion(&facts.runtime), "cudaRuntimeGetVersion");
    return facts;
}

Buffer::Buffer(int64_t elements) : elements_(elements) {
    check(cudaMalloc(&data_, elements * sizeof(uint16_t)), "cudaMalloc");
}

Buffer::Buffer(const std::vector<uint16_t>& values) : Buffer(int64_t(values.size())) {
    check(
        cudaMemcpy(data_, values.data(), values.size() * sizeof(uint16_t), cudaMemcpyHostToDevice),
        "cudaMemcpy");
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), elements_(std::exchange(other.elements_, 0)) {}

Buffer::~Buffer() {
    cudaFree(data_);
}

std::vector<uint16_t> Buffer::read() const {
    std::vector<uint16_t> values(elements_);
    check(
        cudaMemcpy(values.data(), data_, values.size() * sizeof(uint16_t), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
    return values;
}

void Buffer::poison() {
    check(cudaMemset(data_, 0xff, elements_ * sizeof(uint16_t)), "cudaMemset");
}

Stopwatch::Stopwatch() {
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
}

Stopwatch::~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
}

void Stopwatch::start() {
    check(cudaEventRecord(begin_, nullptr), "cudaEventRecord");
}

double Stopwatch::stop() {
    check(cudaEventRecord(end_, nullptr), "cudaEventRecord");
    check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return 1e3 * milliseconds;
}

}  // namespace bench
