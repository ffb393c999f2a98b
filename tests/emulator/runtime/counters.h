// SPDX-License-Identifier: BSD-3-Clause
// What one kernel launch did, in numbers. Every host thread of exec fills its own Counters; launch
// merges them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "exec/machine.h"

namespace emu {

inline constexpr size_t kClasses = static_cast<size_t>(Class::count);

const char* class_name(Class c);  // "integer", "fp32", ...

// Set of the 32-byte sectors touched: one bit per sector, pages of 4096 sectors.
class SectorSet {
  public:
    void add(uint64_t address, uint64_t bytes) {
        if (bytes == 0) {
            return;
        }
        for (uint64_t s = address >> 5, last = (address + bytes - 1) >> 5; s <= last; ++s) {
            const uint64_t page = s >> 12;
            if (page != cached_page_ || cached_ == nullptr) {
                select(page);
            }
            (*cached_)[(s & 4095) >> 6] |= uint64_t{1} << (s & 63);
        }
    }
    void merge(const SectorSet& other);
    uint64_t bytes() const;  // 32 x number of sectors

  private:
    using Page = std::array<uint64_t, 64>;
    void select(uint64_t page);
    std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
    uint64_t cached_page_ = 0;
    Page* cached_ = nullptr;
};

// Shared-memory traffic of one PTX instruction, keyed by its PTX line.
struct SharedSite {
    uint64_t requests = 0;    // warp instructions
    uint64_t wavefronts = 0;  // passes through the 32 banks of 4 bytes
    uint64_t ideal = 0;       // wavefronts without any bank conflict
};

struct Counters {
    std::array<uint64_t, kClasses> warp_instructions{};
    std::array<uint64_t, kClasses> thread_instructions{};

    uint64_t ex2 = 0;  // threads that executed ex2
    uint64_t tensor_flops =
        0;  // 2 * m * n * k of every dense matrix instruction (integer ones too)

    uint64_t shared_requests = 0;
    uint64_t shared_wavefronts = 0;
    uint64_t shared_conflicts = 0;  // wavefronts above the ideal
    std::unordered_map<int, SharedSite> shared_sites;

    // Generic loads and stores: bytes asked for by threads, 32-byte sectors per warp instruction.
    uint64_t global_load_bytes = 0;
    uint64_t global_store_bytes = 0;
    uint64_t global_load_sectors = 0;
    uint64_t global_store_sectors = 0;
    // Asynchronous copies (cp.async, bulk, tensor): bytes that really moved.
    uint64_t async_load_bytes = 0;
    uint64_t async_store_bytes = 0;
    SectorSet load_set;   // all reads of global memory
    SectorSet store_set;  // all writes of global memory

    uint64_t barrier_waits = 0;   // a warp stopped at bar or barrier.cluster
    uint64_t mbarrier_waits = 0;  // a warp stopped at an mbarrier phase
    uint64_t async_waits = 0;     // a warp stopped at a wait_group or bulk wait_group

    void count(Class c, unsigned lanes) {
        warp_instructions[static_cast<size_t>(c)] += 1;
        thread_instructions[static_cast<size_t>(c)] += lanes;
    }
    void shared_access(int ptx_line, uint64_t wavefronts, uint64_t ideal) {
        shared_requests += 1;
        shared_wavefronts += wavefronts;
        shared_conflicts += wavefronts - ideal;
        SharedSite& site = shared_sites[ptx_line];
        site.requests += 1;
        site.wavefronts += wavefronts;
        site.ideal += ideal;
    }
    void global_load(uint64_t address, uint64_t bytes) {
        global_load_bytes += bytes;
        load_set.add(address, bytes);
    }
    void global_store(uint64_t address, uint64_t bytes) {
        global_store_bytes += bytes;
        store_set.add(address, bytes);
    }
    void async_load(uint64_t address, uint64_t bytes) {
        async_load_bytes += bytes;
        load_set.add(address, bytes);
    }
    void async_store(uint64_t address, uint64_t bytes) {
        async_store_bytes += bytes;
        store_set.add(address, bytes);
    }
    uint64_t total_thread_instructions() const;
    uint64_t total_warp_instructions() const;
    void merge(const Counters& other);
};

// The fields of one report line that exec does not know.
struct LaunchFacts {
    std::string kernel;  // demangled
    std::string symbol;
    std::string arch;
    std::string schedule;
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t cluster[3];
    uint32_t dynamic_shared_bytes;
    uint32_t static_shared_bytes;
    double host_seconds;
    int error;  // cudaError_t, 0 when the kernel ended well
    std::string fault;
};

// One line of JSON without the newline.
std::string to_json(const LaunchFacts& facts, const Counters& counters);

}  // namespace emu
