// SPDX-License-Identifier: BSD-3-Clause
#include "check/lanes.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace emu::check {
namespace {

// Calls f(lane, address of a word, whether all of it is touched) until it is true.
template <class F>
bool each_word(const uint32_t* address, uint32_t mask, uint32_t bytes, F f) {
    for (uint32_t m = mask; m != 0; m &= m - 1) {
        const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(m));
        const uint32_t first = address[lane] & ~3u;
        for (uint32_t at = first; at < address[lane] + bytes; at += 4) {
            if (f(lane, at, bytes >= 4)) {
                return true;
            }
        }
    }
    return false;
}

}  // namespace

WarpLanes::WarpLanes(uint32_t warps, size_t ranks, uint64_t shared_bytes, uint32_t rank_shift)
    : rank_shift_(rank_shift),
      offset_mask_((1u << rank_shift) - 1),
      words_(shared_bytes / 4 + 8),
      sections_(warps) {
    for (size_t rank = 0; rank < ranks; ++rank) {
        // calloc: pages that no warp writes are never touched.
        ranks_.emplace_back(static_cast<Tags*>(std::calloc(words_, sizeof(Tags))));
        if (!ranks_.back()) {
            throw std::bad_alloc();
        }
    }
    for (Section& section : sections_) {
        begin(section);
    }
}

void WarpLanes::begin(Section& section) {
    if (last_number_ == kLastNumber) {
        last_number_ = 0;
        for (const auto& tags : ranks_) {
            std::memset(static_cast<void*>(tags.get()), 0, words_ * sizeof(Tags));
        }
        for (Section& other : sections_) {
            begin(other);
        }
    }
    section.number = ++last_number_;
    section.used = section.wrote = false;
    section.tagged = 0;
    section.reads.clear();
    section.writes.clear();
}

bool WarpLanes::clashes(uint32_t tag, const Section& section, uint32_t lane, bool whole,
                        bool writes) const {
    if (tag >> 8 != section.number || (tag & kLane) == lane) {
        return false;
    }
    const bool both = whole || (tag & kWhole) != 0;
    // Several lanes wrote one value in one instruction: each may read it.
    return both && (writes || (tag & kLane) != kSeveral || (tag & kWhole) == 0);
}

uint32_t WarpLanes::merged(uint32_t tag, uint32_t section, uint32_t lane, bool whole) {
    const uint32_t now = section << 8 | lane | (whole ? kWhole : 0);
    if (tag >> 8 != section) {
        return now;
    }
    if ((tag & kLane) == lane) {
        return tag | now;
    }
    return section << 8 | kSeveral | (tag & now & kWhole);
}

void WarpLanes::note(std::vector<Entry>& log, const Entry& entry) {
    if (log.size() == kLog) {
        log.clear();
    }
    log.push_back(entry);
}

void WarpLanes::tag_reads(Section& s) {
    for (; s.tagged < s.reads.size(); ++s.tagged) {
        const Entry& e = s.reads[s.tagged];
        each_word(e.address, e.mask, e.bytes, [&](uint32_t lane, uint32_t at, bool whole) {
            uint32_t& tag = tags_at(at)->reader;
            tag = merged(tag, s.number, lane, whole);
            return false;
        });
    }
}

WarpLanes::Clash WarpLanes::found(const Section& s, uint32_t address, uint32_t lane, uint32_t tag,
                                  bool wrote) const {
    Clash clash;
    clash.now = static_cast<int>(lane);
    clash.address = address;
    clash.wrote_before = wrote;
    clash.before = (tag & kLane) == kSeveral ? -1 : static_cast<int>(tag & kLane);
    for (const Entry& e : wrote ? s.writes : s.reads) {
        each_word(e.address, e.mask, e.bytes, [&](uint32_t other, uint32_t at, bool) {
            if (at == address && other != lane) {
                clash.pc_before = e.pc;
                clash.before = static_cast<int>(other);
            }
            return false;
        });
    }
    return clash;
}

template <class Address>
bool WarpLanes::read(uint32_t warp, uint32_t pc, const Address* address, uint32_t mask,
                     uint32_t bytes, Clash* clash) {
    Section& s = sections_[warp];
    if (s.reads.size() == kLog) {
        tag_reads(s);
        s.tagged = 0;
    }
    s.used = true;
    note(s.reads, Entry{pc, mask, bytes, {}});
    Entry& e = s.reads.back();
    for (int lane = 0; lane < 32; ++lane) {
        e.address[lane] = static_cast<uint32_t>(address[lane]);
    }
    if (!s.wrote) {
        return false;
    }
    return each_word(e.address, mask, bytes, [&](uint32_t lane, uint32_t at, bool whole) {
        const uint32_t tag = tags_at(at)->writer;
        if (!clashes(tag, s, lane, whole, false)) {
            return false;
        }
        *clash = found(s, at, lane, tag, true);
        return true;
    });
}

template <class Address>
bool WarpLanes::write(uint32_t warp, uint32_t pc, const Address* address, uint32_t mask,
                      uint32_t bytes, Clash* clash) {
    Section& s = sections_[warp];
    tag_reads(s);
    s.used = s.wrote = true;
    Entry e{pc, mask, bytes, {}};
    for (int lane = 0; lane < 32; ++lane) {
        e.address[lane] = static_cast<uint32_t>(address[lane]);
    }
    const bool bad = each_word(e.address, mask, bytes, [&](uint32_t lane, uint32_t at, bool whole) {
        const Tags& tags = *tags_at(at);
        const bool after_write = clashes(tags.writer, s, lane, whole, true);
        if (!after_write && !clashes(tags.reader, s, lane, whole, true)) {
            return false;
        }
        *clash = found(s, at, lane, after_write ? tags.writer : tags.reader, after_write);
        return true;
    });
    if (bad) {
        return true;
    }
    each_word(e.address, mask, bytes, [&](uint32_t lane, uint32_t at, bool whole) {
        uint32_t& tag = tags_at(at)->writer;
        tag = merged(tag, s.number, lane, whole);
        return false;
    });
    note(s.writes, e);
    return false;
}

template bool WarpLanes::read(uint32_t, uint32_t, const uint32_t*, uint32_t, uint32_t, Clash*);
template bool WarpLanes::read(uint32_t, uint32_t, const uint64_t*, uint32_t, uint32_t, Clash*);
template bool WarpLanes::write(uint32_t, uint32_t, const uint32_t*, uint32_t, uint32_t, Clash*);
template bool WarpLanes::write(uint32_t, uint32_t, const uint64_t*, uint32_t, uint32_t, Clash*);

}  // namespace emu::check
