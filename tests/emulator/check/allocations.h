// SPDX-License-Identifier: BSD-3-Clause
// The memory a kernel may touch: device allocations, registered host tensors, module globals,
// constant banks.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <string>

#include "check/report.h"

namespace emu::check {

enum class MemoryKind : uint8_t {
    Device,
    HostRegistered,
    ModuleGlobal,
    Constant,
    Managed,
    Parameter
};

struct Allocation {
    uint64_t base = 0;
    uint64_t bytes = 0;
    MemoryKind kind = MemoryKind::Device;
    bool read_only = false;
    std::string name;  // "cudaMalloc #4", "K", "table" ...
};

// The last allocations that one host thread hit; makes the usual check two comparisons. One per
// Warp is best.
struct AllocationCache {
    struct Range {
        uint64_t base = 1, end = 0;
        bool read_only = false;
    };
    static constexpr uint32_t kRanges = 8;
    Range ranges[kRanges];
    uint32_t next = 0;
    uint64_t version = ~uint64_t{0};
};

class Allocations {
  public:
    static constexpr uint64_t kRedZone =
        256;  // bytes the allocator leaves free around a device allocation

    void add(uint64_t base, uint64_t bytes, MemoryKind kind, std::string name,
             bool read_only = false);
    bool remove(uint64_t base);  // false when no allocation starts there; remembered for
                                 // use-after-free texts
    // The allocation that holds all of [address, address + bytes).
    bool find(uint64_t address, uint64_t bytes, Allocation* out = nullptr) const;
    bool starts_at(uint64_t base, Allocation* out = nullptr) const;
    // "4 bytes past the end of 'K' (registered host tensor, 4096 bytes at 0x...)".
    std::string nearest(uint64_t address, uint64_t bytes) const;
    uint64_t version() const { return version_.load(std::memory_order_acquire); }

    // Global accesses of one warp instruction; true when every active lane lies in one allocation
    // (and may write).
    bool check(AllocationCache& cache, const uint64_t* address, uint32_t mask, uint32_t bytes,
               bool write) const {
        if (cache.version != version()) {
            cache = AllocationCache{};
            cache.version = version();
        }
        uint64_t low = ~uint64_t{0}, high = 0;
        for (int lane = 0; lane < 32; ++lane) {
            const uint64_t a = address[lane];
            const bool active = (mask >> lane) & 1;
            low = active && a < low ? a : low;
            high = active && a > high ? a : high;
        }
        if (mask == 0) {
            return true;
        }
        for (const AllocationCache::Range& r : cache.ranges) {
            if (low >= r.base && high < r.end && bytes <= r.end - high && !(write && r.read_only)) {
                return true;
            }
        }
        return check_slow(cache, address, mask, bytes, write);
    }
    bool check_range(AllocationCache& cache, uint64_t address, uint64_t bytes, bool write) const;

    // The fault for the first bad lane after check() said false.
    Fault fault(const LaunchInfo& launch, const Site& site, const uint64_t* address, uint32_t mask,
                uint32_t bytes, bool write) const;
    Fault fault(const LaunchInfo& launch, const Site& site, uint64_t address, uint64_t bytes,
                bool write) const;

  private:
    bool check_slow(AllocationCache& cache, const uint64_t* address, uint32_t mask, uint32_t bytes,
                    bool write) const;

    mutable std::shared_mutex mutex_;
    std::map<uint64_t, Allocation> live_;
    uint64_t longest_ = 0;  // bytes of the longest allocation so far
    std::map<uint64_t, Allocation>
        freed_;  // by base; an entry goes when a new allocation overlaps it
    std::atomic<uint64_t> version_{0};
};

// cudaErrorMisalignedAddress when an active lane's address is no multiple of `bytes`; 0 lanes when
// all are aligned.
uint32_t misaligned_lanes(const uint64_t* address, uint32_t mask, uint32_t bytes);
uint32_t misaligned_lanes(const uint32_t* address, uint32_t mask, uint32_t bytes);
Fault misaligned(const LaunchInfo& launch, const Site& site, const char* space, uint64_t address,
                 uint32_t bytes);
// cudaErrorIllegalAddress for shared memory: offset within the CTA's window of `shared_bytes`.
Fault shared_out_of_bounds(const LaunchInfo& launch, const Site& site, uint64_t offset,
                           uint64_t bytes, uint64_t shared_bytes, bool write);

// cudaMalloc and cudaFree for the runtime: 256-byte aligned blocks between red zones, registered in
// Allocations; freed blocks are poisoned and kept unused until `quarantine_bytes` of younger ones
// follow.
class DeviceHeap {
  public:
    explicit DeviceHeap(Allocations& allocations, uint64_t quarantine_bytes = uint64_t{64} << 20)
        : allocations_(allocations), quarantine_limit_(quarantine_bytes) {}
    ~DeviceHeap();
    void* allocate(size_t bytes,
                   MemoryKind kind = MemoryKind::Device);  // nullptr when the host has no memory
    bool release(void* pointer);                           // false: not a live block of this heap
    uint64_t bytes_in_use() const;

  private:
    struct Block {
        void* raw = nullptr;
        uint64_t raw_bytes = 0, bytes = 0;
    };
    Allocations& allocations_;
    mutable std::mutex mutex_;
    std::map<uint64_t, Block> blocks_;
    std::map<uint64_t, std::pair<uint64_t, Block>>
        quarantine_;  // by order of release -> (address, block)
    uint64_t quarantine_limit_, quarantined_ = 0, in_use_ = 0, serial_ = 0, releases_ = 0;
};

}  // namespace emu::check
