// SPDX-License-Identifier: BSD-3-Clause
#include "exec/builtin.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "exec/memory.h"

namespace emu {

namespace {

template <class T>
T argument(Warp& w, int lane, uint32_t offset) {
    T v;
    std::memcpy(
        &v, w.frame.data() + static_cast<size_t>(lane) * w.launch->program->frame_bytes + offset,
        sizeof v);
    return v;
}

template <class T>
void result(Warp& w, int lane, uint32_t offset, T value) {
    if (offset != ~0u) {
        std::memcpy(
            w.frame.data() + static_cast<size_t>(lane) * w.launch->program->frame_bytes + offset,
            &value, sizeof value);
    }
}

std::string device_string(Warp& w, uint64_t address, int lane) {
    std::string text;
    while (address && text.size() < 4096) {
        const char ch = static_cast<char>(*resolve_generic(w, address++, 1, lane));
        if (!ch) {
            break;
        }
        text.push_back(ch);
    }
    return text;
}

// The arguments lie one after another, each aligned to its size, floats as doubles.
std::string format(Warp& w, int lane, const std::string& text, uint64_t arguments, int& count) {
    std::string out;
    uint64_t at = arguments;
    auto take = [&](unsigned bytes) {
        at = (at + bytes - 1) / bytes * bytes;
        uint64_t v = 0;
        std::memcpy(&v, resolve_generic(w, at, bytes, lane), bytes);
        at += bytes;
        return v;
    };
    for (size_t k = 0; k < text.size(); ++k) {
        if (text[k] != '%') {
            out.push_back(text[k]);
            continue;
        }
        std::string spec = "%";
        int longs = 0;
        for (++k; k < text.size(); ++k) {
            const char ch = text[k];
            if (ch == 'l' || ch == 'j' || ch == 'z' || ch == 't') {
                longs += ch == 'l' ? 1 : 2;
            } else if (ch == 'h') {
                continue;
            } else if (ch == '*') {
                spec += std::to_string(static_cast<int>(take(4)));
            } else if (std::strchr("-+ #0123456789.", ch)) {
                spec.push_back(ch);
            } else {
                break;
            }
        }
        const char kind = k < text.size() ? text[k] : '%';
        char buffer[512];
        buffer[0] = 0;
        switch (kind) {
            case '%':
                out.push_back('%');
                continue;
            case 'd':
            case 'i':
                std::snprintf(buffer, sizeof buffer, (spec + "lld").c_str(),
                              longs ? static_cast<long long>(take(8))
                                    : static_cast<long long>(static_cast<int32_t>(take(4))));
                break;
            case 'u':
            case 'x':
            case 'X':
            case 'o':
                std::snprintf(buffer, sizeof buffer, (spec + "ll" + kind).c_str(),
                              static_cast<unsigned long long>(take(longs ? 8 : 4)));
                break;
            case 'c':
                std::snprintf(buffer, sizeof buffer, (spec + "c").c_str(),
                              static_cast<int>(take(4)));
                break;
            case 's': {
                const std::string inner = device_string(w, take(8), lane);
                std::snprintf(buffer, sizeof buffer, (spec + "s").c_str(), inner.c_str());
                break;
            }
            case 'p':
                std::snprintf(buffer, sizeof buffer, "0x%llx",
                              static_cast<unsigned long long>(take(8)));
                break;
            default:
                std::snprintf(buffer, sizeof buffer, (spec + kind).c_str(),
                              std::bit_cast<double>(take(8)));
                break;
        }
        out += buffer;
        ++count;
    }
    return out;
}

void print(Warp& w, const std::string& text) {
    std::lock_guard lock(w.launch->print_mutex);
    if (w.launch->request->print) {
        w.launch->request->print(text);
    } else {
        std::fwrite(text.data(), 1, text.size(), stdout);
    }
}

void vprintf_(Warp& w, uint32_t active, const uint32_t* a, uint32_t r) {
    for_lanes(active, [&](int l) {
        int count = 0;
        print(w, format(w, l, device_string(w, argument<uint64_t>(w, l, a[0]), l),
                        argument<uint64_t>(w, l, a[1]), count));
        result(w, l, r, count);
    });
}

void assertfail(Warp& w, uint32_t active, const uint32_t* a, uint32_t) {
    const int l = __builtin_ctz(active);
    w.fail(fault::kAssert,
           device_string(w, argument<uint64_t>(w, l, a[1]), l) + ":" +
               std::to_string(argument<uint32_t>(w, l, a[2])) + ": " +
               device_string(w, argument<uint64_t>(w, l, a[3]), l) + ": Assertion `" +
               device_string(w, argument<uint64_t>(w, l, a[0]), l) + "` failed",
           l);
}

void malloc_(Warp& w, uint32_t active, const uint32_t* a, uint32_t r) {
    for_lanes(active, [&](int l) {
        const auto bytes = argument<uint64_t>(w, l, a[0]);
        void* p = std::aligned_alloc(16, (bytes + 31) / 16 * 16);
        result(w, l, r, reinterpret_cast<uint64_t>(p));
    });
}

void free_(Warp& w, uint32_t active, const uint32_t* a, uint32_t) {
    for_lanes(active,
              [&](int l) { std::free(reinterpret_cast<void*>(argument<uint64_t>(w, l, a[0]))); });
}

}  // namespace

Builtin builtin_named(const std::string& name) {
    if (name == "vprintf") {
        return vprintf_;
    }
    if (name == "__assertfail") {
        return assertfail;
    }
    if (name == "malloc") {
        return malloc_;
    }
    return name == "free" ? free_ : nullptr;
}

}  // namespace emu
