// SPDX-License-Identifier: BSD-3-Clause
// The part of DLPack's binary interface (version 1) that reads a tensor without owning it:
// https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once

#include <cstdint>

namespace limelight::dlpack {

struct Device {
    int32_t type;
    int32_t index;
};

struct DataType {
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
};

struct Tensor {
    void* data;
    Device device;
    int32_t ndim;
    DataType dtype;
    int64_t* shape;
    int64_t* strides;  // in elements
    uint64_t byte_offset;
};

// Table a framework hangs on its tensor type as the capsule `__dlpack_c_exchange_api__`.
struct ExchangeApi {
    struct {
        uint32_t major;
        uint32_t minor;
    } version;
    ExchangeApi* previous;
    void* allocate;
    void* managed_from_object;
    void* managed_to_object;
    int (*tensor_from_object)(void* object,
                              Tensor* out);  // borrows; 0 or -1 with a Python error set
    void* current_stream;
};

constexpr uint8_t kInt = 0;
constexpr uint8_t kUInt = 1;
constexpr uint8_t kFloat = 2;
constexpr uint8_t kBFloat = 4;
constexpr uint8_t kFloat8E4M3 = 10;

}  // namespace limelight::dlpack
