// SPDX-License-Identifier: BSD-3-Clause
#include "check/allocations.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emu::check {
namespace {

std::string hex(uint64_t value) {
    char text[24];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

const char* kind_name(MemoryKind kind) {
    switch (kind) {
        case MemoryKind::Device:
            return "device memory";
        case MemoryKind::HostRegistered:
            return "registered host memory";
        case MemoryKind::ModuleGlobal:
            return "module variable";
        case MemoryKind::Constant:
            return "constant bank";
        case MemoryKind::Managed:
            return "managed memory";
        case MemoryKind::Parameter:
            return "kernel parameters";
    }
    return "memory";
}

std::string describe(const Allocation& a) {
    return "'" + a.name + "' (" + kind_name(a.kind) + ", " + std::to_string(a.bytes) +
           " bytes at " + hex(a.base) + ")";
}

std::string count_bytes(uint64_t n) {
    return std::to_string(n) + (n == 1 ? " byte" : " bytes");
}

}  // namespace

void Allocations::add(uint64_t base, uint64_t bytes, MemoryKind kind, std::string name,
                      bool read_only) {
    std::unique_lock lock(mutex_);
    live_[base] = Allocation{base, bytes, kind, read_only, std::move(name)};
    longest_ = std::max(longest_, bytes);
    for (auto it = freed_.begin(); it != freed_.end();) {
        const bool overlaps =
            it->second.base < base + bytes && base < it->second.base + it->second.bytes;
        it = overlaps ? freed_.erase(it) : std::next(it);
    }
    version_.fetch_add(1, std::memory_order_release);
}

bool Allocations::remove(uint64_t base) {
    constexpr size_t kRemembered = 256;
    std::unique_lock lock(mutex_);
    const auto it = live_.find(base);
    if (it == live_.end()) {
        return false;
    }
    if (freed_.size() >= kRemembered) {
        freed_.erase(freed_.begin());
    }
    freed_[base] = std::move(it->second);
    live_.erase(it);
    version_.fetch_add(1, std::memory_order_release);
    return true;
}

bool Allocations::find(uint64_t address, uint64_t bytes, Allocation* out) const {
    std::shared_lock lock(mutex_);
    auto it = live_.upper_bound(address);
    // Registered host tensors may overlap (views of one storage): the holder may begin far before.
    while (it != live_.begin()) {
        --it;
        if (address - it->first >= longest_) {
            break;
        }
        const Allocation& a = it->second;
        if (address - a.base < a.bytes && bytes <= a.bytes - (address - a.base)) {
            if (out != nullptr) {
                *out = a;
            }
            return true;
        }
    }
    return false;
}

bool Allocations::starts_at(uint64_t base, Allocation* out) const {
    std::shared_lock lock(mutex_);
    const auto it = live_.find(base);
    if (it != live_.end() && out != nullptr) {
        *out = it->second;
    }
    return it != live_.end();
}

std::string Allocations::nearest(uint64_t address, uint64_t bytes) const {
    std::shared_lock lock(mutex_);
    for (const auto& [base, a] : freed_) {
        if (address >= base && address < base + a.bytes) {
            return "use after free: " + count_bytes(address - base) + " into " + describe(a) +
                   ", which was freed";
        }
    }
    const Allocation* best = nullptr;
    uint64_t distance = ~uint64_t{0};
    std::string text;
    for (const auto& [base, a] : live_) {
        const uint64_t end = base + a.bytes;
        uint64_t d;
        std::string where;
        if (address >= base && address < end) {
            d = 0;
            where = "starts " + count_bytes(end - address) + " before the end of ";
        } else if (address >= end) {
            d = address - end;
            where = d == 0 ? "just past the end of " : count_bytes(d) + " past the end of ";
        } else {
            d = base - address;
            where = count_bytes(d) + " before ";
        }
        if (d < distance) {
            distance = d;
            best = &a;
            text = where;
        }
    }
    (void)bytes;
    if (best == nullptr) {
        return "no memory is allocated or registered";
    }
    if (distance > (uint64_t{1} << 30)) {
        return std::string(address < 65536 ? "a null pointer or small integer used as one; " : "") +
               "far from every allocation";
    }
    return text + describe(*best);
}

bool Allocations::check_slow(AllocationCache& cache, const uint64_t* address, uint32_t mask,
                             uint32_t bytes, bool write) const {
    for (uint32_t m = mask; m != 0; m &= m - 1) {
        if (!check_range(cache, address[__builtin_ctz(m)], bytes, write)) {
            return false;
        }
    }
    return true;
}

bool Allocations::check_range(AllocationCache& cache, uint64_t address, uint64_t bytes,
                              bool write) const {
    if (cache.version != version()) {
        cache = AllocationCache{};
        cache.version = version();
    }
    for (const AllocationCache::Range& r : cache.ranges) {
        if (address >= r.base && address < r.end && bytes <= r.end - address) {
            return !(write && r.read_only);
        }
    }
    Allocation a;
    if (!find(address, bytes, &a)) {
        return false;
    }
    cache.ranges[cache.next++ % AllocationCache::kRanges] = {a.base, a.base + a.bytes, a.read_only};
    return !(write && a.read_only);
}

Fault Allocations::fault(const LaunchInfo& launch, const Site& site, const uint64_t* address,
                         uint32_t mask, uint32_t bytes, bool write) const {
    AllocationCache cache;
    for (uint32_t m = mask; m != 0; m &= m - 1) {
        const int lane = __builtin_ctz(m);
        if (!check_range(cache, address[lane], bytes, write)) {
            Site at = site;
            at.lane = lane;
            return fault(launch, at, address[lane], bytes, write);
        }
    }
    return fault(launch, site, address[0], bytes, write);
}

Fault Allocations::fault(const LaunchInfo& launch, const Site& site, uint64_t address,
                         uint64_t bytes, bool write) const {
    Allocation a;
    const bool read_only = find(address, bytes, &a);
    const std::string what =
        std::string(write ? "write" : "read") + " of " + count_bytes(bytes) + " at " + hex(address);
    const std::string text = read_only ? "illegal " + what + ": " + describe(a) + " is read-only"
                                       : "out-of-bounds " + what + ": " + nearest(address, bytes);
    return fault_at(fault::kIllegalAddress, text, launch, site);
}

uint32_t misaligned_lanes(const uint64_t* address, uint32_t mask, uint32_t bytes) {
    uint32_t bad = 0;
    for (int lane = 0; lane < 32; ++lane) {
        bad |= uint32_t{(address[lane] & (bytes - 1)) != 0} << lane;
    }
    return bad & mask;
}

uint32_t misaligned_lanes(const uint32_t* address, uint32_t mask, uint32_t bytes) {
    uint32_t bad = 0;
    for (int lane = 0; lane < 32; ++lane) {
        bad |= uint32_t{(address[lane] & (bytes - 1)) != 0} << lane;
    }
    return bad & mask;
}

Fault misaligned(const LaunchInfo& launch, const Site& site, const char* space, uint64_t address,
                 uint32_t bytes) {
    return fault_at(fault::kMisalignedAddress,
                    "misaligned " + std::string(space) + " access: address " + hex(address) +
                        " is no multiple of the access size of " + count_bytes(bytes),
                    launch, site);
}

Fault shared_out_of_bounds(const LaunchInfo& launch, const Site& site, uint64_t offset,
                           uint64_t bytes, uint64_t shared_bytes, bool write) {
    std::string text = "out-of-bounds shared memory " + std::string(write ? "write" : "read") +
                       " of " + count_bytes(bytes) + " at shared+" + hex(offset) + ": ";
    if (offset >= shared_bytes) {
        text += offset == shared_bytes ? "just past" : count_bytes(offset - shared_bytes) + " past";
    } else {
        text += "reaches past";
    }
    text += " the end of the block's " + count_bytes(shared_bytes) + " of shared memory";
    return fault_at(fault::kIllegalAddress, text, launch, site);
}

DeviceHeap::~DeviceHeap() {
    for (auto& [address, block] : blocks_) {
        allocations_.remove(address);
        std::free(block.raw);
    }
    for (auto& [order, entry] : quarantine_) {
        std::free(entry.second.raw);
    }
}

void* DeviceHeap::allocate(size_t bytes, MemoryKind kind) {
    constexpr uint64_t zone = Allocations::kRedZone;
    constexpr size_t alignment = 256;
    const uint64_t rounded = (std::max<uint64_t>(bytes, 1) + alignment - 1) / alignment * alignment;
    const uint64_t raw_bytes = rounded + 2 * zone;
    void* raw = std::aligned_alloc(alignment, raw_bytes);
    if (raw == nullptr) {
        return nullptr;
    }
    std::lock_guard lock(mutex_);
    const uint64_t address = reinterpret_cast<uint64_t>(raw) + zone;
    blocks_[address] = Block{raw, raw_bytes, bytes};
    in_use_ += bytes;
    allocations_.add(address, bytes, kind, "allocation " + std::to_string(++serial_));
    return reinterpret_cast<void*>(address);
}

bool DeviceHeap::release(void* pointer) {
    std::lock_guard lock(mutex_);
    const auto it = blocks_.find(reinterpret_cast<uint64_t>(pointer));
    if (it == blocks_.end()) {
        return false;
    }
    allocations_.remove(it->first);
    const Block block = it->second;
    in_use_ -= block.bytes;
    if (block.raw_bytes <= quarantine_limit_) {
        std::memset(pointer, 0xdf, block.bytes);
        quarantine_[releases_++] = {it->first, block};
        quarantined_ += block.raw_bytes;
    } else {
        std::free(block.raw);
    }
    blocks_.erase(it);
    while (quarantined_ > quarantine_limit_) {
        const auto oldest = quarantine_.begin();
        quarantined_ -= oldest->second.second.raw_bytes;
        std::free(oldest->second.second.raw);
        quarantine_.erase(oldest);
    }
    return true;
}

uint64_t DeviceHeap::bytes_in_use() const {
    std::lock_guard lock(mutex_);
    return in_use_;
}

}  // namespace emu::check
