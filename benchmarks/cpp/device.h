// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace bench {

/// The program cannot run on this machine.
struct NoGpu : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Throws std::runtime_error with the CUDA error's text.
void check(cudaError_t error, const char* what);

struct DeviceFacts {
    std::string name;
    int major = 0;
    int minor = 0;
    int sm_count = 0;
    int clock_khz = 0;
    size_t l2_bytes = 0;
    size_t free_bytes = 0;
    int driver = 0;
    int runtime = 0;
};

/// Facts of device 0; throws NoGpu where there is none.
DeviceFacts require_gpu();

/// Device memory of 16-bit values, freed with the object.
class Buffer {
  public:
    explicit Buffer(int64_t elements);
    explicit Buffer(const std::vector<uint16_t>& values);
    Buffer(Buffer&& other) noexcept;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer();

    void* data() const { return data_; }
    std::vector<uint16_t> read() const;
    /// Fill with NaN, so that values nobody writes are seen.
    void poison();

  private:
    void* data_ = nullptr;
    int64_t elements_ = 0;
};

/// Microseconds of device time between start() and stop() on the null stream.
class Stopwatch {
  public:
    Stopwatch();
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;
    ~Stopwatch();
    void start();
    double stop();

  private:
    cudaEvent_t begin_ = nullptr;
    cudaEvent_t end_ = nullptr;
};

}  // namespace bench
