// SPDX-License-Identifier: BSD-3-Clause
// Copies and fills: linear, 2D, 3D, symbols. Everything becomes a CopyWork or FillWork in a stream.
#include <cstring>

#include "runtime/work.h"

namespace emu {
namespace {

bool bounds_checked() {
    return settings().checks == "all" || settings().checks.find("bounds") != std::string::npos;
}

std::string pointer_text(const void* pointer) {
    char text[32];
    std::snprintf(text, sizeof text, "%p", pointer);
    return text;
}

// One end of a copy or fill: `bytes` from pointer must lie in one allocation when the device owns
// that end.
void check_end(const char* call, const void* pointer, size_t bytes, bool device) {
    if (!bounds_checked() || bytes == 0) {
        return;
    }
    const auto address = reinterpret_cast<uint64_t>(pointer);
    check::Allocation holder;
    if (allocations().find(address, bytes, &holder)) {
        if (!device && holder.kind == check::MemoryKind::Device) {
            throw Fault(cudaErrorInvalidValue,
                        std::string(call) + ": " + pointer_text(pointer) +
                            " is device memory where the copy's direction says host");
        }
        return;
    }
    if (device || allocations().find(address, 1)) {
        throw Fault(cudaErrorInvalidValue, std::string(call) + " " + std::to_string(bytes) +
                                               " bytes at " + pointer_text(pointer) + ": " +
                                               allocations().nearest(address, bytes));
    }
}

size_t span(size_t width, size_t height, size_t depth, size_t pitch, size_t slice) {
    return width == 0 || height == 0 || depth == 0
               ? 0
               : (depth - 1) * slice + (height - 1) * pitch + width;
}

CopyWork linear(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    return {.to = to,
            .from = from,
            .width = bytes,
            .to_pitch = bytes,
            .to_slice = bytes,
            .from_pitch = bytes,
            .from_slice = bytes,
            .kind = kind};
}

CopyWork planar(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                size_t height, cudaMemcpyKind kind) {
    if (width > to_pitch || width > from_pitch) {
        throw Fault(cudaErrorInvalidPitchValue,
                    "2D copy of rows of " + std::to_string(width) + " bytes with pitches " +
                        std::to_string(to_pitch) + " and " + std::to_string(from_pitch));
    }
    return {.to = to,
            .from = from,
            .width = width,
            .height = height,
            .to_pitch = to_pitch,
            .to_slice = to_pitch * height,
            .from_pitch = from_pitch,
            .from_slice = from_pitch * height,
            .kind = kind};
}

cudaError_t copy_now(const CopyWork& copy) {
    forbid_during_capture("a synchronous copy");
    submit(nullptr, copy);
    return cudaSuccess;
}

cudaError_t copy_in(cudaStream_t stream, const CopyWork& copy) {
    submit(stream, copy);
    return cudaSuccess;
}

CopyWork to_symbol(const void* symbol, const void* from, size_t bytes, size_t offset,
                   cudaMemcpyKind kind) {
    const DeviceSymbol s = find_symbol(symbol);
    if (offset > s.bytes || bytes > s.bytes - offset) {
        throw Fault(cudaErrorInvalidValue, "copy of " + std::to_string(bytes) +
                                               " bytes at offset " + std::to_string(offset) +
                                               " to a symbol of " + std::to_string(s.bytes) +
                                               " bytes");
    }
    return linear(static_cast<char*>(s.address) + offset, from, bytes, kind);
}

CopyWork from_symbol(void* to, const void* symbol, size_t bytes, size_t offset,
                     cudaMemcpyKind kind) {
    const DeviceSymbol s = find_symbol(symbol);
    if (offset > s.bytes || bytes > s.bytes - offset) {
        throw Fault(cudaErrorInvalidValue, "copy of " + std::to_string(bytes) +
                                               " bytes at offset " + std::to_string(offset) +
                                               " from a symbol of " + std::to_string(s.bytes) +
                                               " bytes");
    }
    return linear(to, static_cast<const char*>(s.address) + offset, bytes, kind);
}

cudaError_t fill_in(cudaStream_t stream, const FillWork& fill) {
    submit(stream, fill);
    return cudaSuccess;
}

cudaError_t fill_now(const FillWork& fill) {
    forbid_during_capture("a synchronous memset");
    return fill_in(nullptr, fill);
}

FillWork fill_bytes(void* to, int value, size_t bytes) {
    return {.to = to,
            .value = static_cast<uint8_t>(value),
            .width = bytes,
            .pitch = bytes,
            .slice = bytes};
}

FillWork fill_rows(void* to, size_t pitch, int value, size_t width, size_t height, size_t depth,
                   size_t slice) {
    if (width > pitch && height > 1) {
        throw Fault(cudaErrorInvalidPitchValue, "memset of rows of " + std::to_string(width) +
                                                    " bytes with pitch " + std::to_string(pitch));
    }
    return {.to = to,
            .value = static_cast<uint8_t>(value),
            .width = width,
            .height = height,
            .depth = depth,
            .pitch = pitch,
            .slice = slice};
}

FillWork fill_cuboid(const cudaPitchedPtr& p, int value, const cudaExtent& e) {
    return fill_rows(p.ptr, p.pitch, value, e.width, e.height, e.depth, p.pitch * p.ysize);
}

}  // namespace

CopyWork cuboid(const cudaMemcpy3DParms& p) {
    if (p.srcArray || p.dstArray) {
        throw Fault(cudaErrorNotSupported,
                    "copies of cudaArrays are not implemented in the emulator");
    }
    CopyWork copy;
    copy.width = p.extent.width;
    copy.height = p.extent.height;
    copy.depth = p.extent.depth;
    copy.to_pitch = p.dstPtr.pitch;
    copy.to_slice = p.dstPtr.pitch * p.dstPtr.ysize;
    copy.from_pitch = p.srcPtr.pitch;
    copy.from_slice = p.srcPtr.pitch * p.srcPtr.ysize;
    copy.to = static_cast<char*>(p.dstPtr.ptr) + p.dstPos.z * copy.to_slice +
              p.dstPos.y * copy.to_pitch + p.dstPos.x;
    copy.from = static_cast<const char*>(p.srcPtr.ptr) + p.srcPos.z * copy.from_slice +
                p.srcPos.y * copy.from_pitch + p.srcPos.x;
    copy.kind = p.kind;
    return copy;
}

void run_copy(const CopyWork& c) {
    if (c.kind < cudaMemcpyHostToHost || c.kind > cudaMemcpyDefault) {
        throw Fault(cudaErrorInvalidMemcpyDirection,
                    "copy kind " + std::to_string(c.kind) + ", allowed is 0 to 4");
    }
    const size_t to_span = span(c.width, c.height, c.depth, c.to_pitch, c.to_slice);
    const size_t from_span = span(c.width, c.height, c.depth, c.from_pitch, c.from_slice);
    if (to_span == 0) {
        return;
    }
    if (!c.to || !c.from) {
        throw Fault(cudaErrorInvalidValue, "copy with a null pointer");
    }
    if (c.kind == cudaMemcpyDefault) {  // each end is what its address says
        if (allocations().find(reinterpret_cast<uint64_t>(c.to), 1)) {
            check_end("copy to", c.to, to_span, true);
        }
        if (allocations().find(reinterpret_cast<uint64_t>(c.from), 1)) {
            check_end("copy from", c.from, from_span, true);
        }
    } else {
        check_end("copy to", c.to, to_span,
                  c.kind == cudaMemcpyHostToDevice || c.kind == cudaMemcpyDeviceToDevice);
        check_end("copy from", c.from, from_span,
                  c.kind == cudaMemcpyDeviceToHost || c.kind == cudaMemcpyDeviceToDevice);
    }
    for (size_t z = 0; z < c.depth; ++z) {
        char* to = static_cast<char*>(c.to) + z * c.to_slice;
        const char* from = static_cast<const char*>(c.from) + z * c.from_slice;
        for (size_t y = 0; y < c.height; ++y) {
            std::memmove(to + y * c.to_pitch, from + y * c.from_pitch, c.width);
        }
    }
}

void run_fill(const FillWork& f) {
    if (f.element != 1 && f.element != 2 && f.element != 4) {
        throw Fault(cudaErrorInvalidValue, "memset element of " + std::to_string(f.element) +
                                               " bytes, allowed are 1, 2, 4");
    }
    check_end("memset of", f.to, span(f.width * f.element, f.height, f.depth, f.pitch, f.slice),
              true);
    for (size_t z = 0; z < f.depth; ++z) {
        for (size_t y = 0; y < f.height; ++y) {
            char* row = static_cast<char*>(f.to) + z * f.slice + y * f.pitch;
            if (f.element == 1) {
                std::memset(row, static_cast<int>(f.value), f.width);
                continue;
            }
            for (size_t x = 0; x < f.width; ++x) {
                std::memcpy(row + x * f.element, &f.value, f.element);
            }
        }
    }
}

}  // namespace emu

using namespace emu;

extern "C" {

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    return api([&] { return copy_now(linear(to, from, bytes, kind)); });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return api([&] { return copy_in(stream, linear(to, from, bytes, kind)); });
}

cudaError_t cudaMemcpyPeer(void* to, int to_device, const void* from, int from_device,
                           size_t bytes) {
    return api([&] {
        return to_device || from_device
                   ? cudaErrorInvalidDevice
                   : copy_now(linear(to, from, bytes, cudaMemcpyDeviceToDevice));
    });
}

cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device,
                                size_t bytes, cudaStream_t stream) {
    return api([&] {
        return to_device || from_device
                   ? cudaErrorInvalidDevice
                   : copy_in(stream, linear(to, from, bytes, cudaMemcpyDeviceToDevice));
    });
}

cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                         size_t width, size_t height, cudaMemcpyKind kind) {
    return api(
        [&] { return copy_now(planar(to, to_pitch, from, from_pitch, width, height, kind)); });
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
    return api([&] {
        return copy_in(stream, planar(to, to_pitch, from, from_pitch, width, height, kind));
    });
}

cudaError_t cudaMemcpy3D(const cudaMemcpy3DParms* p) {
    return api([&] { return copy_now(cuboid(*p)); });
}

cudaError_t cudaMemcpy3DAsync(const cudaMemcpy3DParms* p, cudaStream_t stream) {
    return api([&] { return copy_in(stream, cuboid(*p)); });
}

cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, size_t bytes, size_t offset,
                               cudaMemcpyKind kind) {
    return api([&] { return copy_now(to_symbol(symbol, from, bytes, offset, kind)); });
}

cudaError_t cudaMemcpyToSymbolAsync(const void* symbol, const void* from, size_t bytes,
                                    size_t offset, cudaMemcpyKind kind, cudaStream_t stream) {
    return api([&] { return copy_in(stream, to_symbol(symbol, from, bytes, offset, kind)); });
}

cudaError_t cudaMemcpyFromSymbol(void* to, const void* symbol, size_t bytes, size_t offset,
                                 cudaMemcpyKind kind) {
    return api([&] { return copy_now(from_symbol(to, symbol, bytes, offset, kind)); });
}

cudaError_t cudaMemcpyFromSymbolAsync(void* to, const void* symbol, size_t bytes, size_t offset,
                                      cudaMemcpyKind kind, cudaStream_t stream) {
    return api([&] { return copy_in(stream, from_symbol(to, symbol, bytes, offset, kind)); });
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
    return api([&] { return fill_now(fill_bytes(to, value, bytes)); });
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
    return api([&] { return fill_in(stream, fill_bytes(to, value, bytes)); });
}

cudaError_t cudaMemset2D(void* to, size_t pitch, int value, size_t width, size_t height) {
    return api([&] { return fill_now(fill_rows(to, pitch, value, width, height, 1, 0)); });
}

cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
    return api([&] { return fill_in(stream, fill_rows(to, pitch, value, width, height, 1, 0)); });
}

cudaError_t cudaMemset3D(cudaPitchedPtr to, int value, cudaExtent extent) {
    return api([&] { return fill_now(fill_cuboid(to, value, extent)); });
}

cudaError_t cudaMemset3DAsync(cudaPitchedPtr to, int value, cudaExtent extent,
                              cudaStream_t stream) {
    return api([&] { return fill_in(stream, fill_cuboid(to, value, extent)); });
}

}  // extern "C"
