// SPDX-License-Identifier: BSD-3-Clause
#include "runtime/counters.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <map>

namespace emu {
namespace {

std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (c == '\n') {
            out += "\\n";
        } else if (static_cast<unsigned char>(c) < 32) {
            char code[8];
            std::snprintf(code, sizeof code, "\\u%04x", c);
            out += code;
        } else {
            out += c;
        }
    }
    return out + '"';
}

// Builds one JSON object, a field at a time.
class Object {
  public:
    Object& raw(const char* key, const std::string& value) {
        text_ += text_.empty() ? "{" : ", ";
        text_ += '"';
        text_ += key;
        text_ += "\": ";
        text_ += value;
        return *this;
    }
    Object& text(const char* key, const std::string& value) { return raw(key, quoted(value)); }
    Object& number(const char* key, uint64_t value) { return raw(key, std::to_string(value)); }
    Object& triple(const char* key, const uint32_t (&v)[3]) {
        return raw(key, "[" + std::to_string(v[0]) + ", " + std::to_string(v[1]) + ", " +
                            std::to_string(v[2]) + "]");
    }
    std::string done() const { return (text_.empty() ? "{" : text_) + "}"; }

  private:
    std::string text_;
};

std::string by_class(const std::array<uint64_t, kClasses>& counts) {
    Object o;
    for (size_t i = 0; i < kClasses; ++i) {
        if (counts[i]) {
            o.number(class_name(static_cast<Class>(i)), counts[i]);
        }
    }
    return o.done();
}

}  // namespace

const char* class_name(Class c) {
    switch (c) {
        case Class::integer:
            return "integer";
        case Class::fp32:
            return "fp32";
        case Class::fp16:
            return "fp16";
        case Class::fp64:
            return "fp64";
        case Class::special:
            return "special";
        case Class::convert:
            return "convert";
        case Class::move:
            return "move";
        case Class::predicate:
            return "predicate";
        case Class::control:
            return "control";
        case Class::load:
            return "load";
        case Class::store:
            return "store";
        case Class::atomic:
            return "atomic";
        case Class::shuffle:
            return "shuffle";
        case Class::barrier:
            return "barrier";
        case Class::matrix:
            return "matrix";
        case Class::async_copy:
            return "async_copy";
        case Class::fence:
            return "fence";
        default:
            return "other";
    }
}

void SectorSet::select(uint64_t page) {
    auto& slot = pages_[page];
    if (!slot) {
        slot = std::make_unique<Page>();
        slot->fill(0);
    }
    cached_page_ = page;
    cached_ = slot.get();
}

void SectorSet::merge(const SectorSet& other) {
    for (const auto& [page, bits] : other.pages_) {
        select(page);
        for (size_t i = 0; i < bits->size(); ++i) {
            (*cached_)[i] |= (*bits)[i];
        }
    }
}

uint64_t SectorSet::bytes() const {
    uint64_t sectors = 0;
    for (const auto& [page, bits] : pages_) {
        for (const uint64_t word : *bits) {
            sectors += static_cast<uint64_t>(std::popcount(word));
        }
    }
    return 32 * sectors;
}

uint64_t Counters::total_thread_instructions() const {
    uint64_t sum = 0;
    for (const uint64_t n : thread_instructions) {
        sum += n;
    }
    return sum;
}

uint64_t Counters::total_warp_instructions() const {
    uint64_t sum = 0;
    for (const uint64_t n : warp_instructions) {
        sum += n;
    }
    return sum;
}

void Counters::merge(const Counters& other) {
    for (size_t i = 0; i < kClasses; ++i) {
        warp_instructions[i] += other.warp_instructions[i];
        thread_instructions[i] += other.thread_instructions[i];
    }
    ex2 += other.ex2;
    tensor_flops += other.tensor_flops;
    shared_requests += other.shared_requests;
    shared_wavefronts += other.shared_wavefronts;
    shared_conflicts += other.shared_conflicts;
    for (const auto& [line, site] : other.shared_sites) {
        SharedSite& mine = shared_sites[line];
        mine.requests += site.requests;
        mine.wavefronts += site.wavefronts;
        mine.ideal += site.ideal;
    }
    global_load_bytes += other.global_load_bytes;
    global_store_bytes += other.global_store_bytes;
    global_load_sectors += other.global_load_sectors;
    global_store_sectors += other.global_store_sectors;
    async_load_bytes += other.async_load_bytes;
    async_store_bytes += other.async_store_bytes;
    load_set.merge(other.load_set);
    store_set.merge(other.store_set);
    barrier_waits += other.barrier_waits;
    mbarrier_waits += other.mbarrier_waits;
    async_waits += other.async_waits;
}

std::string to_json(const LaunchFacts& facts, const Counters& c) {
    char seconds[32];
    std::snprintf(seconds, sizeof seconds, "%.6f", facts.host_seconds);
    Object sites;
    for (const auto& [line, site] :
         std::map<int, SharedSite>(c.shared_sites.begin(), c.shared_sites.end())) {
        sites.raw(std::to_string(line).c_str(),
                  Object()
                      .number("requests", site.requests)
                      .number("wavefronts", site.wavefronts)
                      .number("conflicts", site.wavefronts - site.ideal)
                      .done());
    }
    return Object()
        .text("kernel", facts.kernel)
        .text("symbol", facts.symbol)
        .text("arch", facts.arch)
        .text("schedule", facts.schedule)
        .triple("grid", facts.grid)
        .triple("block", facts.block)
        .triple("cluster", facts.cluster)
        .number("dynamic_shared_bytes", facts.dynamic_shared_bytes)
        .number("static_shared_bytes", facts.static_shared_bytes)
        .number("error", static_cast<uint64_t>(facts.error))
        .text("fault", facts.fault)
        .raw("host_seconds", seconds)
        .number("warp_instructions", c.total_warp_instructions())
        .number("thread_instructions", c.total_thread_instructions())
        .raw("warp_instructions_by_class", by_class(c.warp_instructions))
        .raw("thread_instructions_by_class", by_class(c.thread_instructions))
        .number("ex2", c.ex2)
        .number("tensor_flops", c.tensor_flops)
        .number("shared_requests", c.shared_requests)
        .number("shared_wavefronts", c.shared_wavefronts)
        .number("shared_conflicts", c.shared_conflicts)
        .raw("shared_by_ptx_line", sites.done())
        .number("global_load_bytes", c.global_load_bytes)
        .number("global_store_bytes", c.global_store_bytes)
        .number("global_load_sectors", c.global_load_sectors)
        .number("global_store_sectors", c.global_store_sectors)
        .number("async_load_bytes", c.async_load_bytes)
        .number("async_store_bytes", c.async_store_bytes)
        .number("global_load_unique_bytes", c.load_set.bytes())
        .number("global_store_unique_bytes", c.store_set.bytes())
        .number("barrier_waits", c.barrier_waits)
        .number("mbarrier_waits", c.mbarrier_waits)
        .number("async_waits", c.async_waits)
        .done();
}

}  // namespace emu
