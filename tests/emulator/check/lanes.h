// SPDX-License-Identifier: BSD-3-Clause
// Races between lanes of one warp through shared memory.
//
// A warp's section lasts from one thing that may order its lanes in memory to the next: a barrier,
// bar.warp.sync, a wait for an mbarrier, an acquire. In a section two lanes must not touch the same
// bytes in two instructions, one of them writing. Shuffles, votes and matches converge lanes but
// order no memory, so they end no section.
//
// A tag per 4 bytes says which lane wrote them last, another which read them, in which section.
// Reads are only logged; the log becomes tags when the same section writes.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace emu::check {

class WarpLanes {
  public:
    struct Clash {
        int now = 0, before = 0;  // lanes; before < 0: several
        uint32_t address = 0;     // of the word
        bool wrote_before = false;
        uint32_t pc_before = ~0u;  // ~0: no longer known
    };

    // shared_bytes: of one CTA's window.
    WarpLanes(uint32_t warps, size_t ranks, uint64_t shared_bytes, uint32_t rank_shift);

    // Lanes `mask` of a warp read or write `bytes` each, not through atomics or strong accesses.
    // True: a clash with another lane.
    template <class Address>
    bool read(uint32_t warp, uint32_t pc, const Address* address, uint32_t mask, uint32_t bytes,
              Clash* clash);
    template <class Address>
    bool write(uint32_t warp, uint32_t pc, const Address* address, uint32_t mask, uint32_t bytes,
               Clash* clash);
    // The warp's section ends.
    void order(uint32_t warp) {
        Section& s = sections_[warp];
        if (s.used) {
            begin(s);
        }
    }

  private:
    struct Entry {
        uint32_t pc, mask, bytes;
        uint32_t address[32];
    };
    // A tag: section << 8 | whole word << 7 | lane, or kSeveral.
    struct Tags {
        uint32_t writer = 0, reader = 0;
    };
    static constexpr uint32_t kWhole = 0x80, kSeveral = 32, kLane = 0x3f;
    static constexpr uint32_t kLastNumber = (1u << 24) - 1;
    static constexpr size_t kLog = 256;
    struct Section {
        uint32_t number = 0;
        bool used = false, wrote = false;
        size_t tagged = 0;  // reads that are tags already
        std::vector<Entry> reads, writes;
    };
    struct Free {
        void operator()(Tags* tags) const { std::free(tags); }
    };

    void begin(Section& section);
    Tags* tags_at(uint32_t address) {
        return ranks_[address >> rank_shift_].get() + ((address & offset_mask_) >> 2);
    }
    void tag_reads(Section& section);
    bool clashes(uint32_t tag, const Section& section, uint32_t lane, bool whole,
                 bool writes) const;
    static uint32_t merged(uint32_t tag, uint32_t section, uint32_t lane, bool whole);
    Clash found(const Section& section, uint32_t address, uint32_t lane, uint32_t tag,
                bool wrote) const;
    static void note(std::vector<Entry>& log, const Entry& entry);

    uint32_t rank_shift_, offset_mask_;
    uint32_t last_number_ = 0;
    uint64_t words_;
    std::vector<std::unique_ptr<Tags[], Free>> ranks_;
    std::vector<Section> sections_;
};

}  // namespace emu::check
