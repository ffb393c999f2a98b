// SPDX-License-Identifier: BSD-3-Clause
// Allocation: device, pinned, managed, stream ordered. Host and device share one address space.
#include <cstring>
#include <map>

#include "runtime/work.h"

namespace emu {
namespace {

struct Pinned {
    size_t bytes = 0;
    unsigned flags = 0;
    bool owned = false;  // made by cudaHostAlloc, not registered
};

struct Memory {
    check::Allocations allocations;
    check::DeviceHeap heap{allocations};
    std::map<void*, size_t> sizes;  // live blocks of the heap
    std::map<void*, Pinned> pinned;
    std::map<void*, bool>
        graph_blocks;  // true: freed outside of the graph, which keeps the address
};

Memory& memory() {
    static Memory& m = *new Memory;
    return m;
}

struct Pool {
    std::map<int, uint64_t> attributes;
};

Pool& default_pool() {
    static Pool& pool = *new Pool;
    return pool;
}

Pool*& current_pool() {
    static Pool* pool = &default_pool();
    return pool;
}

std::map<Pool*, std::unique_ptr<Pool>>& created_pools() {
    static auto& pools = *new std::map<Pool*, std::unique_ptr<Pool>>;
    return pools;
}

Pool& find_pool(cudaMemPool_t handle) {
    auto* pool = reinterpret_cast<Pool*>(handle);
    if (pool != &default_pool() && !created_pools().contains(pool)) {
        throw Fault(cudaErrorInvalidValue, "this is no memory pool");
    }
    return *pool;
}

cudaError_t allocate(void** pointer, size_t bytes, check::MemoryKind kind) {
    if (!pointer) {
        return cudaErrorInvalidValue;
    }
    *pointer = nullptr;
    if (bytes == 0) {
        return cudaSuccess;
    }
    *pointer = device_allocate(bytes, kind);
    return *pointer ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t allocate_async(void** pointer, size_t bytes, cudaStream_t handle) {
    Stream& stream = find_stream(handle);
    const cudaError_t error = allocate(pointer, bytes, check::MemoryKind::Device);
    if (error == cudaSuccess && *pointer && stream.capture) {
        AllocWork work;
        work.block = graph_block(*pointer);
        work.params.dptr = *pointer;
        work.params.bytesize = bytes;
        work.params.poolProps.allocType = cudaMemAllocationTypePinned;
        work.params.poolProps.location.type = cudaMemLocationTypeDevice;
        submit(handle, work);
    }
    return error;
}

cudaError_t host_allocate(void** pointer, size_t bytes, unsigned flags) {
    if (!pointer) {
        return cudaErrorInvalidValue;
    }
    *pointer = nullptr;
    if (bytes == 0) {
        return cudaSuccess;
    }
    *pointer = device_allocate(bytes, check::MemoryKind::HostRegistered);
    if (!*pointer) {
        return cudaErrorMemoryAllocation;
    }
    memory().pinned[*pointer] = {bytes, flags, true};
    return cudaSuccess;
}

// The pinned block that holds the pointer.
const std::pair<void* const, Pinned>* find_pinned(const void* pointer) {
    auto at = memory().pinned.upper_bound(const_cast<void*>(pointer));
    if (at == memory().pinned.begin()) {
        return nullptr;
    }
    --at;
    return static_cast<const char*>(pointer) <
                   static_cast<const char*>(at->first) + at->second.bytes
               ? &*at
               : nullptr;
}

}  // namespace

check::Allocations& allocations() {
    return memory().allocations;
}

void* device_allocate(size_t bytes, check::MemoryKind kind) {
    if (bytes > settings().memory || memory().heap.bytes_in_use() > settings().memory - bytes) {
        return nullptr;
    }
    void* pointer = memory().heap.allocate(bytes, kind);
    if (pointer) {
        memory().sizes[pointer] = bytes;
    }
    return pointer;
}

cudaError_t device_free(void* pointer) {
    if (!pointer) {
        return cudaSuccess;
    }
    const auto graph = memory().graph_blocks.find(pointer);
    if (graph != memory().graph_blocks.end()) {
        if (graph->second) {
            return fail(cudaErrorInvalidValue, "memory of a graph is freed twice");
        }
        allocations().remove(reinterpret_cast<uint64_t>(pointer));
        graph->second = true;
        return cudaSuccess;
    }
    memory().pinned.erase(pointer);
    memory().sizes.erase(pointer);
    if (!memory().heap.release(pointer)) {
        char text[96];
        std::snprintf(text, sizeof text, "free of %p, which is no live allocation's start",
                      pointer);
        return fail(cudaErrorInvalidValue, text);
    }
    return cudaSuccess;
}

std::shared_ptr<void> graph_block(void* pointer) {
    memory().graph_blocks[pointer] = false;
    return {pointer, [](void* p) {
                memory().graph_blocks.erase(p);
                device_free(p);
            }};
}

void revive_graph_block(void* pointer, size_t bytes) {
    bool& freed = memory().graph_blocks.at(pointer);
    if (freed) {
        allocations().add(reinterpret_cast<uint64_t>(pointer), bytes, check::MemoryKind::Device,
                          "graph memory");
        freed = false;
    }
}

void release_all_memory() {
    const std::map<void*, size_t> live = memory().sizes;
    for (const auto& [pointer, bytes] : live) {
        device_free(pointer);
    }
}

}  // namespace emu

using namespace emu;
using check::MemoryKind;

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
    return api([&] {
        forbid_during_capture("cudaMalloc");
        return allocate(pointer, bytes, MemoryKind::Device);
    });
}

cudaError_t cudaMallocManaged(void** pointer, size_t bytes, unsigned flags) {
    return api([&] {
        forbid_during_capture("cudaMallocManaged");
        if (bytes == 0 || (flags != cudaMemAttachGlobal && flags != cudaMemAttachHost)) {
            return cudaErrorInvalidValue;
        }
        return allocate(pointer, bytes, MemoryKind::Managed);
    });
}

cudaError_t cudaFree(void* pointer) {
    return api([&] {
        forbid_during_capture("cudaFree");
        return device_free(pointer);
    });
}

cudaError_t cudaMallocPitch(void** pointer, size_t* pitch, size_t width, size_t height) {
    return api([&] {
        forbid_during_capture("cudaMallocPitch");
        *pitch = (width + 511) / 512 * 512;
        return allocate(pointer, *pitch * height, MemoryKind::Device);
    });
}

cudaError_t cudaMalloc3D(cudaPitchedPtr* pointer, cudaExtent extent) {
    return api([&] {
        forbid_during_capture("cudaMalloc3D");
        const size_t pitch = (extent.width + 511) / 512 * 512;
        *pointer = {nullptr, pitch, extent.width, extent.height};
        return allocate(&pointer->ptr, pitch * extent.height * extent.depth, MemoryKind::Device);
    });
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags) {
    return api([&] {
        forbid_during_capture("cudaHostAlloc");
        return host_allocate(pointer, bytes, flags);
    });
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
    return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* pointer) {
    return api([&] {
        forbid_during_capture("cudaFreeHost");
        return device_free(pointer);
    });
}

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned flags) {
    return api([&] {
        if (!pointer || bytes == 0) {
            return cudaErrorInvalidValue;
        }
        if (find_pinned(pointer)) {
            return cudaErrorHostMemoryAlreadyRegistered;
        }
        allocations().add(reinterpret_cast<uint64_t>(pointer), bytes, MemoryKind::HostRegistered,
                          "cudaHostRegister");
        memory().pinned[pointer] = {bytes, flags, false};
        return cudaSuccess;
    });
}

cudaError_t cudaHostUnregister(void* pointer) {
    return api([&] {
        const auto at = memory().pinned.find(pointer);
        if (at == memory().pinned.end() || at->second.owned) {
            return cudaErrorHostMemoryNotRegistered;
        }
        allocations().remove(reinterpret_cast<uint64_t>(pointer));
        memory().pinned.erase(at);
        return cudaSuccess;
    });
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
    return api([&] {
        if (!find_pinned(host)) {
            return cudaErrorInvalidValue;
        }
        *device = host;
        return cudaSuccess;
    });
}

cudaError_t cudaHostGetFlags(unsigned* flags, void* host) {
    return api([&] {
        const auto* block = find_pinned(host);
        if (!block) {
            return cudaErrorInvalidValue;
        }
        *flags = block->second.flags | cudaHostAllocMapped;
        return cudaSuccess;
    });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* pointer) {
    return api([&] {
        if (!out) {
            return cudaErrorInvalidValue;
        }
        *out = {};
        out->device = -2;
        check::Allocation allocation;
        if (find_pinned(pointer)) {
            out->type = cudaMemoryTypeHost;
        } else if (!pointer ||
                   !allocations().find(reinterpret_cast<uint64_t>(pointer), 1, &allocation)) {
            out->type = cudaMemoryTypeUnregistered;
            out->hostPointer = const_cast<void*>(pointer);
            return cudaSuccess;
        } else {
            out->type = allocation.kind == MemoryKind::Managed ? cudaMemoryTypeManaged
                                                               : cudaMemoryTypeDevice;
        }
        out->device = 0;
        out->devicePointer = const_cast<void*>(pointer);
        out->hostPointer = out->type == cudaMemoryTypeDevice ? nullptr : const_cast<void*>(pointer);
        return cudaSuccess;
    });
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
    return api([&] {
        *total = settings().memory;
        *available = *total - std::min<size_t>(*total, memory().heap.bytes_in_use());
        return cudaSuccess;
    });
}

// ---- stream ordered ----

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
    return api([&] { return allocate_async(pointer, bytes, stream); });
}

cudaError_t cudaMallocFromPoolAsync(void** pointer, size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t stream) {
    return api([&] {
        find_pool(pool);
        return allocate_async(pointer, bytes, stream);
    });
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
    return api([&] {
        if (!memory().sizes.contains(pointer)) {
            return cudaErrorInvalidValue;
        }
        submit(stream, FreeWork{pointer});
        return cudaSuccess;
    });
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* out, const cudaMemPoolProps*) {
    return api([&] {
        auto pool = std::make_unique<Pool>();
        *out = reinterpret_cast<cudaMemPool_t>(pool.get());
        created_pools()[pool.get()] = std::move(pool);
        return cudaSuccess;
    });
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t handle) {
    return api([&] {
        Pool* pool = &find_pool(handle);
        if (pool == &default_pool()) {
            return cudaErrorInvalidValue;
        }
        if (current_pool() == pool) {
            current_pool() = &default_pool();
        }
        created_pools().erase(pool);
        return cudaSuccess;
    });
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
    return api([&] {
        uint64_t v = 0;
        std::memcpy(
            &v, value,
            attribute <= cudaMemPoolReuseAllowInternalDependencies ? sizeof(int) : sizeof v);
        find_pool(pool).attributes[attribute] = v;
        return cudaSuccess;
    });
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
    return api([&] {
        const auto& attributes = find_pool(pool).attributes;
        const auto at = attributes.find(attribute);
        if (attribute <= cudaMemPoolReuseAllowInternalDependencies) {
            const int v = at == attributes.end() ? 1 : static_cast<int>(at->second);
            std::memcpy(value, &v, sizeof v);
            return cudaSuccess;
        }
        uint64_t v = at == attributes.end() ? 0 : at->second;
        if (attribute == cudaMemPoolAttrUsedMemCurrent ||
            attribute == cudaMemPoolAttrReservedMemCurrent) {
            v = memory().heap.bytes_in_use();
        }
        std::memcpy(value, &v, sizeof v);
        return cudaSuccess;
    });
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
    return api([&] {
        find_pool(pool);
        return cudaSuccess;
    });
}

cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, const cudaMemAccessDesc*, size_t) {
    return cudaMemPoolTrimTo(pool, 0);
}

cudaError_t cudaMemPoolGetAccess(cudaMemAccessFlags* flags, cudaMemPool_t pool, cudaMemLocation*) {
    return api([&] {
        find_pool(pool);
        *flags = cudaMemAccessFlagsProtReadWrite;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
    return api([&] {
        *pool = reinterpret_cast<cudaMemPool_t>(&default_pool());
        return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
    });
}

cudaError_t cudaDeviceGetMemPool(cudaMemPool_t* pool, int device) {
    return api([&] {
        *pool = reinterpret_cast<cudaMemPool_t>(current_pool());
        return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
    });
}

cudaError_t cudaDeviceSetMemPool(int device, cudaMemPool_t pool) {
    return api([&] {
        current_pool() = &find_pool(pool);
        return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
    });
}

// ---- hints: one address space, nothing moves ----

cudaError_t cudaMemPrefetchAsync(const void*, size_t, cudaMemLocation, unsigned,
                                 cudaStream_t stream) {
    return api([&] {
        find_stream(stream);
        return cudaSuccess;
    });
}

cudaError_t cudaMemAdvise(const void*, size_t, cudaMemoryAdvise, cudaMemLocation) {
    return api([] { return cudaSuccess; });
}

cudaError_t cudaStreamAttachMemAsync(cudaStream_t stream, void*, size_t, unsigned) {
    return api([&] {
        find_stream(stream);
        return cudaSuccess;
    });
}

}  // extern "C"
