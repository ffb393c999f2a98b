// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdarg>
#include <cstdio>

namespace limelight {

/// Outcome of every call of the library; nothing throws across the library's border and nothing
/// exits the process.
class Status {
  public:
    enum class Code : int {
        kOk = 0,
        kInvalidArgument = 1,  ///< the arguments contradict each other or the documented limits
        kUnsupported = 2,      ///< valid attention, but no kernel of this library computes it
        kCudaError = 3,        ///< the CUDA runtime refused; the message holds its text
    };

    Status() = default;

    /// printf-style message, cut at 511 characters.
    __attribute__((format(printf, 2, 3))) static Status error(Code code, const char* format, ...) {
        Status status;
        status.code_ = code;
        va_list arguments;
        va_start(arguments, format);
        std::vsnprintf(status.message_, sizeof(status.message_), format, arguments);
        va_end(arguments);
        return status;
    }

    bool ok() const { return code_ == Code::kOk; }
    Code code() const { return code_; }
    const char* message() const { return message_; }

  private:
    Code code_ = Code::kOk;
    char message_[512] = "";
};

}  // namespace limelight
