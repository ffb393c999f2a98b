// SPDX-License-Identifier: BSD-3-Clause
#include "cases.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace bench {

using limelight::Dtype;

std::string Case::name() const {
    return std::string("forward-") + (dtype == Dtype::kBFloat16 ? "bfloat16" : "float16") + "-d" +
           std::to_string(headdim) + (causal ? "-causal" : "-full") + "-b" + std::to_string(batch) +
           "-s" + std::to_string(seqlen) + "-h" + std::to_string(heads);
}

int64_t Case::elements() const {
    return int64_t{batch} * seqlen * heads * headdim;
}

double Case::flops() const {
    const double full = 4.0 * batch * double(seqlen) * seqlen * heads * headdim;
    return causal ? full / 2 : full;
}

uint16_t to_bits(float value, Dtype dtype) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    if (dtype == Dtype::kBFloat16) {
        return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
    // Normal float16 numbers only: what random_values draws is far from both ends of the range.
    const uint32_t sign = (bits >> 16) & 0x8000;
    const uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude < 0x38800000) {  // below 2^-14
        return static_cast<uint16_t>(sign);
    }
    const uint32_t shifted = magnitude - (112u << 23);
    return static_cast<uint16_t>(sign | ((shifted + 0xfff + ((shifted >> 13) & 1)) >> 13));
}

float from_bits(uint16_t bits, Dtype dtype) {
    if (dtype == Dtype::kBFloat16) {
        const uint32_t wide = uint32_t{bits} << 16;
        float value;
        std::memcpy(&value, &wide, sizeof(value));
        return value;
    }
    const int exponent = (bits >> 10) & 31;
    const int fraction = bits & 1023;
    float value;
    if (exponent == 31) {
        value = fraction ? std::numeric_limits<float>::quiet_NaN()
                         : std::numeric_limits<float>::infinity();
    } else {
        value = exponent ? std::ldexp(float(1024 + fraction), exponent - 25)
                         : std::ldexp(float(fraction), -24);
    }
    return bits & 0x8000 ? -value : value;
}

double unit_roundoff(Dtype dtype) {
    return dtype == Dtype::kBFloat16 ? 0x1p-8 : 0x1p-11;
}

std::vector<uint16_t> random_values(int64_t count, Dtype dtype, uint64_t seed) {
    std::mt19937_64 engine(seed);
    std::normal_distribution<float> normal;
    // A block of draws repeated at odd offsets: filling gigabytes by single draws would take
    // minutes.
    constexpr int64_t kBlock = (1 << 20) + 7;
    std::vector<uint16_t> block(std::min(count, kBlock));
    for (auto& value : block) {
        value = to_bits(normal(engine), dtype);
    }
    std::vector<uint16_t> values(count);
    for (int64_t first = 0; first < count; first += kBlock) {
        std::copy_n(block.begin(), std::min(kBlock, count - first), values.begin() + first);
    }
    return values;
}

double excess_error(const Case& shape, const std::vector<uint16_t>& q,
                    const std::vector<uint16_t>& k, const std::vector<uint16_t>& v,
                    const std::vector<uint16_t>& out) {
    const auto value = [&](const std::vector<uint16_t>& tensor, int b, int s, int h, int d) {
        const int64_t index =
            ((int64_t{b} * shape.seqlen + s) * shape.heads + h) * shape.headdim + d;
        return double(from_bits(tensor[index], shape.dtype));
    };
    std::mt19937 engine(11);
    const auto below = [&](int bound) { return int(engine() % unsigned(bound)); };
    double excess = -std::numeric_limits<double>::infinity();
    std::vector<double> p(shape.seqlen);
    for (int sample = 0; sample < 16; ++sample) {
        const int b = below(shape.batch);
        const int h = below(shape.heads);
        const int i = sample == 0 ? 0 : sample == 1 ? shape.seqlen - 1 : below(shape.seqlen);
        const int keys = shape.causal ? i + 1 : shape.seqlen;
        double largest = -std::numeric_limits<double>::infinity();
        for (int j = 0; j < keys; ++j) {
            double dot = 0;
            for (int d = 0; d < shape.headdim; ++d) {
                dot += value(q, b, i, h, d) * value(k, b, j, h, d);
            }
            p[j] = dot / std::sqrt(double(shape.headdim));
            largest = std::max(largest, p[j]);
        }
        double sum = 0;
        for (int j = 0; j < keys; ++j) {
            p[j] = std::exp(p[j] - largest);
            sum += p[j];
        }
        for (int d = 0; d < shape.headdim; ++d) {
            double exact = 0;
            double magnitude = 0;
            for (int j = 0; j < keys; ++j) {
                const double term = p[j] / sum * value(v, b, j, h, d);
                exact += term;
                magnitude += std::abs(term);
            }
            const double bound =
                unit_roundoff(shape.dtype) * (2 * std::abs(exact) + magnitude) + 1e-5;
            const double error = std::abs(value(out, b, i, h, d) - exact);
            excess = std::isnan(error) ? std::numeric_limits<double>::infinity()
                                       : std::max(excess, error - bound);
        }
    }
    return excess;
}

std::vector<Case> standard_cases(const std::vector<int>& headdims, const std::vector<int>& seqlens,
                                 int tokens, Dtype dtype) {
    std::vector<Case> cases;
    for (const int headdim : headdims) {
        for (const bool causal : {false, true}) {
            for (const int seqlen : seqlens) {
                cases.push_back({std::max(1, tokens / seqlen), seqlen, std::max(1, 2048 / headdim),
                                 headdim, causal, dtype});
            }
        }
    }
    return cases;
}

}  // namespace bench
