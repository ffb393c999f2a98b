// SPDX-License-Identifier: BSD-3-Clause
// Times liblimelight's attention from C++ alone: verify sampled rows, rotate inputs past L2, CUDA
// events, median of rounds. Exit code 0; 1 if a case failed or was wrong; 2 without a GPU or with
// bad options.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "cases.h"
#include "device.h"
#include "limelight/limelight.h"

namespace {

using bench::Buffer;
using bench::Case;

constexpr const char* kUsage =
    "bench_attention [--headdim N,...] [--seqlen N,...] [--tokens N] [--dtype bfloat16|float16]\n"
    "                [--rounds N] [--verify-only] [--json FILE]\n";

struct Options {
    std::vector<int> headdims{64, 128, 256};
    std::vector<int> seqlens{512, 1024, 2048, 4096, 8192, 16384};
    int tokens = 16384;
    int rounds = 10;
    bool verify_only = false;
    limelight::Dtype dtype = limelight::Dtype::kBFloat16;
    std::string json;
};

struct Result {
    Case shape;
    std::string error;
    double median_us = 0;
    double min_us = 0;
    double tflops() const { return median_us > 0 ? shape.flops() / median_us / 1e6 : 0; }
};

struct BadOption : std::runtime_error {
    using std::runtime_error::runtime_error;
};

std::vector<int> positive_numbers(const std::string& name, const std::string& text) {
    std::vector<int> numbers;
    std::stringstream stream(text);
    for (std::string part; std::getline(stream, part, ',');) {
        char* end = nullptr;
        const long number = std::strtol(part.c_str(), &end, 10);
        if (end == part.c_str() || *end != '\0' || number <= 0 || number > (1 << 24)) {
            throw BadOption(name + " is '" + text +
                            "'; allowed: positive integers, separated by commas");
        }
        numbers.push_back(int(number));
    }
    if (numbers.empty()) {
        throw BadOption(name + " is empty; allowed: positive integers, separated by commas");
    }
    return numbers;
}

Options parse(int count, char** arguments) {
    Options options;
    for (int i = 1; i < count; ++i) {
        const std::string name = arguments[i];
        if (name == "--verify-only") {
            options.verify_only = true;
            continue;
        }
        if (i + 1 == count) {
            throw BadOption(name + " is no option, or its value is missing");
        }
        const std::string value = arguments[++i];
        if (name == "--headdim") {
            options.headdims = positive_numbers(name, value);
        } else if (name == "--seqlen") {
            options.seqlens = positive_numbers(name, value);
        } else if (name == "--tokens") {
            options.tokens = positive_numbers(name, value)[0];
        } else if (name == "--rounds") {
            options.rounds = positive_numbers(name, value)[0];
        } else if (name == "--json") {
            options.json = value;
        } else if (name == "--dtype" && (value == "bfloat16" || value == "float16")) {
            options.dtype =
                value == "bfloat16" ? limelight::Dtype::kBFloat16 : limelight::Dtype::kFloat16;
        } else {
            throw BadOption(name + " " + value + " is no option");
        }
    }
    return options;
}

/// Device tensors of one call.
struct Tensors {
    Buffer q, k, v, out;
};

limelight::AttentionParams params_of(const Case& shape, const Tensors& tensors, float* lse) {
    limelight::AttentionParams params;
    params.dtype = shape.dtype;
    params.batch = shape.batch;
    params.heads_q = params.heads_kv = shape.heads;
    params.headdim = params.headdim_v = shape.headdim;
    params.seqlen_q = params.seqlen_k = shape.seqlen;
    params.q = tensors.q.data();
    params.k = tensors.k.data();
    params.v = tensors.v.data();
    params.out = tensors.out.data();
    const int64_t row = int64_t{shape.heads} * shape.headdim;
    params.q_strides = params.k_strides = params.v_strides =
        params.out_strides = {row * shape.seqlen, row, shape.headdim};
    params.lse = lse;
    params.lse_batch_stride = int64_t{shape.heads} * shape.seqlen;
    params.lse_head_stride = shape.seqlen;
    params.softmax_scale = 1.0f / std::sqrt(float(shape.headdim));
    params.causal = shape.causal;
    params.window_right = shape.causal ? 0 : -1;
    return params;
}

void launch(const limelight::AttentionParams& params) {
    const limelight::Status status = limelight::attention_forward(params, nullptr);
    if (!status.ok()) {
        throw std::runtime_error(status.message());
    }
}

/// Mean microseconds of one of `iterations` calls that go round the input sets.
double time_round(const std::vector<limelight::AttentionParams>& sets, int iterations) {
    bench::Stopwatch watch;
    watch.start();
    for (int i = 0; i < iterations; ++i) {
        launch(sets[i % sets.size()]);
    }
    return watch.stop() / iterations;
}

Result run(const Case& shape, const Options& options, const bench::DeviceFacts& device) {
    const auto q = bench::random_values(shape.elements(), shape.dtype, 1);
    const auto k = bench::random_values(shape.elements(), shape.dtype, 2);
    const auto v = bench::random_values(shape.elements(), shape.dtype, 3);
    const size_t set_bytes = 4 * sizeof(uint16_t) * shape.elements();
    const size_t wanted = options.verify_only ? 1 : 2 + 2 * device.l2_bytes / set_bytes;
    const size_t count = std::max<size_t>(1, std::min(wanted, device.free_bytes / 2 / set_bytes));
    Buffer lse(2 * int64_t{shape.batch} * shape.heads * shape.seqlen);
    std::vector<Tensors> tensors;
    std::vector<limelight::AttentionParams> sets;
    for (size_t i = 0; i < count; ++i) {
        tensors.push_back({Buffer(q), Buffer(k), Buffer(v), Buffer(shape.elements())});
        sets.push_back(params_of(shape, tensors.back(), static_cast<float*>(lse.data())));
    }
    tensors[0].out.poison();
    launch(sets[0]);
    bench::check(cudaDeviceSynchronize(), "attention_forward");
    Result result{shape, "", 0, 0};
    const double excess = bench::excess_error(shape, q, k, v, tensors[0].out.read());
    if (!(excess <= 0)) {
        result.error = "wrong: error above its bound by " + std::to_string(excess);
    }
    if (!result.error.empty() || options.verify_only) {
        return result;
    }
    constexpr double kRoundUs = 30e3;
    const auto fitting = [](double us) { return std::clamp(int(kRoundUs / us) + 1, 1, 1000); };
    const int warm_up = std::max(3, fitting(time_round(sets, 3)));
    const int iterations = fitting(time_round(sets, warm_up));
    std::vector<double> rounds;
    for (int i = 0; i < options.rounds; ++i) {
        rounds.push_back(time_round(sets, iterations));
    }
    std::sort(rounds.begin(), rounds.end());
    const size_t middle = rounds.size() / 2;
    result.median_us =
        rounds.size() % 2 ? rounds[middle] : (rounds[middle - 1] + rounds[middle]) / 2;
    result.min_us = rounds[0];
    return result;
}

std::string quoted(const std::string& text) {
    std::string result = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            result += '\\';
        }
        result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return result + '"';
}

void write_json(const std::string& path, const bench::DeviceFacts& device,
                const std::vector<Result>& results, const std::string& command) {
    char date[32];
    const std::time_t now = std::time(nullptr);
    std::strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S+00:00", std::gmtime(&now));
    std::ofstream file(path);
    file << "{\"schema\": 1, \"date\": \"" << date << "\", \"command\": " << quoted(command)
         << ",\n \"limelight\": " << quoted(limelight::version())
         << ", \"architectures\": " << quoted(limelight::build_architectures())
         << ",\n \"gpu\": {\"name\": " << quoted(device.name) << ", \"capability\": ["
         << device.major << ", " << device.minor << "], \"sm_count\": " << device.sm_count
         << ", \"max_clock_khz\": " << device.clock_khz << ", \"l2_bytes\": " << device.l2_bytes
         << ", \"driver\": " << device.driver << ", \"runtime\": " << device.runtime
         << "},\n \"results\": [";
    const char* separator = "\n";
    for (const Result& result : results) {
        file << separator << "  {\"case\": " << quoted(result.shape.name())
             << ", \"flops\": " << result.shape.flops() << ", \"median_us\": " << result.median_us
             << ", \"min_us\": " << result.min_us << ", \"tflops\": " << result.tflops()
             << ", \"error\": " << quoted(result.error) << "}";
        separator = ",\n";
    }
    file << "\n]}\n";
    if (!file.flush()) {
        throw std::runtime_error("cannot write " + path);
    }
}

int benchmark(const Options& options, const std::string& command) {
    const bench::DeviceFacts device = bench::require_gpu();
    if (const limelight::Status status = limelight::check_device(); !status.ok()) {
        throw bench::NoGpu(status.message());
    }
    std::printf("%s (sm %d.%d), limelight %s for %s\n", device.name.c_str(), device.major,
                device.minor, limelight::version(), limelight::build_architectures());
    std::printf("%-46s %10s %10s %8s\n", "case", "us", "min us", "TFLOP/s");
    std::vector<Result> results;
    bool failed = false;
    for (const Case& shape :
         bench::standard_cases(options.headdims, options.seqlens, options.tokens, options.dtype)) {
        Result result{shape, "", 0, 0};
        try {
            result = run(shape, options, device);
        } catch (const std::exception& error) {
            result.error = error.what();
        }
        if (!result.error.empty()) {
            failed = true;
            std::printf("%-46s %s\n", shape.name().c_str(), result.error.c_str());
        } else if (options.verify_only) {
            std::printf("%-46s correct\n", shape.name().c_str());
        } else {
            std::printf("%-46s %10.1f %10.1f %8.1f\n", shape.name().c_str(), result.median_us,
                        result.min_us, result.tflops());
        }
        std::fflush(stdout);
        results.push_back(result);
        if (!options.json.empty()) {
            write_json(options.json, device, results, command);
        }
    }
    return failed ? 1 : 0;
}

}  // namespace

int main(int count, char** arguments) {
    std::string command;
    for (int i = 0; i < count; ++i) {
        command += (i ? " " : "") + std::string(arguments[i]);
    }
    try {
        return benchmark(parse(count, arguments), command);
    } catch (const BadOption& error) {
        std::fprintf(stderr, "bench_attention: %s\n%s", error.what(), kUsage);
        return 2;
    } catch (const bench::NoGpu& error) {
        std::fprintf(stderr, "bench_attention: %s\n", error.what());
        return 2;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "bench_attention: %s\n", error.what());
        return 1;
    }
}
