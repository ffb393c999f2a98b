// SPDX-License-Identifier: BSD-3-Clause
// A failed expectation prints its line and ends the program with 1.
#pragma once
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

#define EXPECT(condition)                                                     \
    do {                                                                      \
        if (!(condition)) {                                                   \
            std::printf("line %d: %s does not hold\n", __LINE__, #condition); \
            std::exit(1);                                                     \
        }                                                                     \
    } while (0)

#define OK(call)                                                                             \
    do {                                                                                     \
        const cudaError_t error_ = (call);                                                   \
        if (error_ != cudaSuccess) {                                                         \
            std::printf("line %d: %s gave %s\n", __LINE__, #call, cudaGetErrorName(error_)); \
            std::exit(1);                                                                    \
        }                                                                                    \
    } while (0)

#define GIVES(error, call)                                                                   \
    do {                                                                                     \
        const cudaError_t error_ = (call);                                                   \
        if (error_ != (error)) {                                                             \
            std::printf("line %d: %s gave %s\n", __LINE__, #call, cudaGetErrorName(error_)); \
            std::exit(1);                                                                    \
        }                                                                                    \
        cudaGetLastError();                                                                  \
    } while (0)
