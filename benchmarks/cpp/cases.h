// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "limelight/limelight.h"

namespace bench {

/// One shape: q, k, v (batch, seqlen, heads, headdim), contiguous.
struct Case {
    int batch;
    int seqlen;
    int heads;
    int headdim;
    bool causal;
    limelight::Dtype dtype;

    std::string name() const;
    /// Elements of one of q, k, v and out.
    int64_t elements() const;
    /// 4 b s^2 h d, half if causal.
    double flops() const;
};

/// 16-bit floats as they lie in device memory.
uint16_t to_bits(float value, limelight::Dtype dtype);
float from_bits(uint16_t bits, limelight::Dtype dtype);
/// Half a unit in the last place of numbers near 1: 2^-11 for float16, 2^-8 for bfloat16.
double unit_roundoff(limelight::Dtype dtype);

/// Normal random numbers, rounded to dtype; equal seeds give equal numbers.
std::vector<uint16_t> random_values(int64_t count, limelight::Dtype dtype, uint64_t seed);

/// Largest (|out - exact| - bound) over sampled rows; above 0 the result is wrong.
///
/// exact is the plain formula in double. bound = u (2 |exact| + sum p |v|) + 1e-5: the kernel
/// rounds P (numerator and denominator alike) and the output to 16 bits, each by at most u
/// relative; 1e-5 covers its fp32 sums.
double excess_error(const Case& shape, const std::vector<uint16_t>& q,
                    const std::vector<uint16_t>& k, const std::vector<uint16_t>& v,
                    const std::vector<uint16_t>& out);

/// Shapes of flash-attention's benchmarks: `tokens` tokens, hidden size 2048.
std::vector<Case> standard_cases(const std::vector<int>& headdims, const std::vector<int>& seqlens,
                                 int tokens, limelight::Dtype dtype);

}  // namespace bench
