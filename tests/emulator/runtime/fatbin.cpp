// SPDX-License-Identifier: BSD-3-Clause
#include "runtime/fatbin.h"

#include <cstring>

#include "runtime/decompress.h"
#include "runtime/state.h"

namespace emu {
namespace {

constexpr uint32_t kWrapperMagic = 0x466243b1, kFatMagic = 0xba55ed50;
constexpr unsigned long long kLz4 = 0x2000, kZstd = 0x8000, kArchSpecific = 0x100000,
                             kFamilySpecific = 0x200000;

struct Wrapper {
    uint32_t magic, version;
    const void* data;
    const void* more;
};

struct FatHeader {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
};

struct EntryHeader {
    uint16_t kind, version;
    uint32_t header_bytes;
    uint64_t bytes;  // with padding
    uint32_t stored_bytes;
    uint32_t name_at;
    uint16_t minor, major;
    uint32_t arch;
    uint32_t name_offset, name_bytes;
    uint64_t flags;
    uint64_t reserved;
    uint64_t expanded_bytes;
};
static_assert(sizeof(EntryHeader) == 64);

}  // namespace

std::string FatImage::name() const {
    std::string text = kind == Kind::Ptx ? "compute_" : "sm_";
    text += std::to_string(arch);
    if (variant != ' ') {
        text += variant;
    }
    return text;
}

std::vector<FatImage> read_fat_binary(const void* data) {
    Wrapper wrapper;
    std::memcpy(&wrapper, data, sizeof wrapper);
    if (wrapper.magic == kWrapperMagic) {
        data = wrapper.data;
    }
    FatHeader header;
    std::memcpy(&header, data, sizeof header);
    if (header.magic != kFatMagic) {
        throw Fault(cudaErrorInvalidKernelImage, "device code is no fat binary (bad magic number)");
    }
    std::vector<FatImage> images;
    const char* at = static_cast<const char*>(data) + header.header_bytes;
    const char* end = at + header.bytes;
    while (end - at >= static_cast<ptrdiff_t>(sizeof(EntryHeader))) {
        EntryHeader entry;
        std::memcpy(&entry, at, sizeof entry);
        if (entry.header_bytes < sizeof entry ||
            entry.bytes > static_cast<uint64_t>(end - at) - entry.header_bytes) {
            throw Fault(cudaErrorInvalidKernelImage, "fat binary has a damaged entry");
        }
        FatImage image;
        image.kind = entry.kind == 1   ? FatImage::Kind::Ptx
                     : entry.kind == 2 ? FatImage::Kind::Elf
                                       : FatImage::Kind::Other;
        image.arch = static_cast<int>(entry.arch);
        image.variant = entry.flags & kArchSpecific     ? 'a'
                        : entry.flags & kFamilySpecific ? 'f'
                                                        : ' ';
        image.data = at + entry.header_bytes;
        image.flags = entry.flags;
        const bool packed = entry.flags & (kLz4 | kZstd);
        image.bytes = packed ? entry.stored_bytes : entry.bytes;
        image.expanded = packed ? entry.expanded_bytes : 0;
        images.push_back(image);
        at += entry.header_bytes + entry.bytes;
    }
    return images;
}

const FatImage* choose_image(const std::vector<FatImage>& images, const Arch& arch) {
    const FatImage* best = nullptr;
    int best_rank = 0;
    for (const FatImage& image : images) {
        if (image.kind != FatImage::Kind::Ptx) {
            continue;
        }
        int rank = 0;  // 'a' of exactly this architecture before 'f' of its family before the
                       // newest plain one
        if (image.variant == 'a') {
            rank = image.arch == arch.number() ? 3000 : 0;
        } else if (image.variant == 'f') {
            rank = image.arch / 10 == arch.major && image.arch <= arch.number() ? 2000 + image.arch
                                                                                : 0;
        } else {
            rank = image.arch <= arch.number() ? 1000 + image.arch : 0;
        }
        if (rank > best_rank) {
            best_rank = rank;
            best = &image;
        }
    }
    return best;
}

std::string ptx_text(const FatImage& image) {
    const auto* bytes = static_cast<const uint8_t*>(image.data);
    std::string text;
    try {
        if (image.flags & kZstd) {
            text = decompress_zstd(bytes, image.bytes, image.expanded);
        } else if (image.flags & kLz4) {
            text = decompress_lz4(bytes, image.bytes, image.expanded);
        } else {
            text.assign(reinterpret_cast<const char*>(bytes), image.bytes);
        }
    } catch (const std::runtime_error& e) {
        throw Fault(cudaErrorInvalidKernelImage,
                    "PTX image " + image.name() + " cannot be decompressed: " + e.what());
    }
    text.resize(std::strlen(text.c_str()));
    return text;
}

}  // namespace emu
