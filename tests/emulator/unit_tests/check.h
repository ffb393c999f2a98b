// SPDX-License-Identifier: BSD-3-Clause
// Assertions of the unit tests: count failures, show the first few.
#pragma once

#include <cstdio>
#include <sstream>

namespace emu::test {

inline int failures = 0;
inline long checks = 0;

template <class A, class B>
void equal(const A& got, const B& want, const char* text, const char* file, int line) {
    ++checks;
    if (!(got == want) && ++failures <= 20) {
        std::ostringstream os;
        os << +got << ", expected " << +want;
        std::printf("%s:%d: %s: %s\n", file, line, text, os.str().c_str());
    }
}
inline int finish(const char* name) {
    std::printf("%s: %ld checks, %d failures\n", name, checks, failures);
    return failures != 0;
}

}  // namespace emu::test

#define CHECK_EQ(got, want) ::emu::test::equal((got), (want), #got, __FILE__, __LINE__)
#define CHECK_TRUE(condition) \
    ::emu::test::equal(static_cast<bool>(condition), true, #condition, __FILE__, __LINE__)
