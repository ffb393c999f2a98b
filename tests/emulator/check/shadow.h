// SPDX-License-Identifier: BSD-3-Clause
// Shadow memory: per 4 bytes the last writer and the readers since, as ids of access records.
//
// A cell is {writer, readers}. A writer is a record id. Readers are one record id, or (high bit) a
// list node {record, rest}. A word that was accessed in parts has (high bit of writer) an entry
// with a cell per byte. What an access makes of a cell depends on nothing but the cell, so one warp
// instruction works out each distinct cell once and repeats the result for its other words.
#pragma once
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

#include "check/allocations.h"
#include "check/clock.h"
#include "check/report.h"

namespace emu::check {

enum class Op : uint8_t { Read, Write, Atomic };  // Atomic: reads and writes at once
enum class Proxy : uint8_t { Generic, Async };
enum class Scope : uint8_t { None, Cta, Cluster, Gpu, Sys };

struct Access {
    AgentId agent = 0;
    uint32_t pc = 0;
    Op op = Op::Read;
    Scope scope = Scope::None;  // None: weak; else a strong (atomic, relaxed, acquire, release,
                                // volatile) access
};

struct Record {
    uint64_t first = 0;  // address of the first active lane, of the latest use of the record
    uint32_t cluster = 0, agent = 0, owner = 0, epoch = 0, pc = 0;  // owner: warp that issued it
    int32_t stride = 0;  // between lanes; kNoStride when irregular
    uint32_t mask = 0;   // 0: not lane-wise
    uint16_t bytes = 0;
    Op op = Op::Read;
    Scope scope = Scope::None;
    Proxy proxy = Proxy::Generic;
    bool async = false;
    static constexpr int32_t kNoStride = INT32_MIN;
};

// Append-only table with stable elements; ids from 1. Several threads may take ids at once.
template <class T>
class StableTable {
  public:
    static constexpr uint32_t kChunk = 1024, kChunks = 8192, kTake = 32;
    struct Cursor {
        uint32_t next = 0, end = 0;
    };
    StableTable() : chunks_(new std::unique_ptr<T[]>[kChunks]) {}
    T& operator[](uint32_t id) { return chunks_[id / kChunk][id % kChunk]; }
    const T& operator[](uint32_t id) const { return chunks_[id / kChunk][id % kChunk]; }
    uint32_t add(Cursor& cursor, const T& value) {  // 0 when the table is full
        if (cursor.next == cursor.end && !take(cursor)) {
            return 0;
        }
        (*this)[cursor.next] = value;
        return cursor.next++;
    }

  private:
    bool take(Cursor& cursor) {
        std::lock_guard lock(mutex_);
        if (used_ + kTake > kChunk * kChunks) {
            return false;
        }
        if (!chunks_[used_ / kChunk]) {
            chunks_[used_ / kChunk] = std::make_unique<T[]>(kChunk);
        }
        cursor = {std::max(used_, 1u), used_ + kTake};
        used_ += kTake;
        return true;
    }
    std::unique_ptr<std::unique_ptr<T[]>[]> chunks_;
    std::mutex mutex_;
    uint32_t used_ = 0;
};

struct alignas(8) Cell {
    uint32_t writer = 0, readers = 0;
    bool operator==(const Cell&) const = default;
};
struct ReaderNode {
    uint32_t record = 0, rest = 0;
};
struct ByteCells {
    Cell byte[4];
};
constexpr uint32_t kIndirect = 0x80000000u;

struct ShadowTables {
    StableTable<Record> records;
    StableTable<ReaderNode> nodes;
    StableTable<ByteCells> bytes;
};

// The accessing agent and what it knows.
struct View {
    const Clocks* known = nullptr;
    Record self;  // what will be recorded
    // Async: epochs of the issuer up to these precede the operation, of all its lanes and of one.
    uint32_t issuer_epoch = 0, issuer_single = 0;
};

enum class Conflict : uint8_t { None, Race, ProxyFence };

class ShadowEngine {
  public:
    // warps: of the cluster.
    ShadowEngine(ShadowTables& tables, uint32_t cluster, uint32_t warps_per_cta, uint32_t warps,
                 uint32_t max_readers)
        : tables_(tables),
          cluster_(cluster),
          warps_per_cta_(warps_per_cta),
          warps_(warps),
          max_readers_(max_readers) {}

    struct Clash {  // thrown by the accesses below
        Conflict kind;
        uint32_t other;  // record
        uint32_t byte;   // within the word
    };
    // Results of the running instruction for the cells it met.
    struct Memo {
        Cell from[8], to[8];
        uint32_t count = 0;
    };
    uint32_t add_record(const Record& record) { return tables_.records.add(records_, record); }
    Record& record(uint32_t id) { return tables_.records[id]; }
    void touch(const View& view, uint32_t id, Cell& cell, uint32_t byte_mask, Memo& memo) {
        if (byte_mask == 15 && memo.count != 0 && cell == memo.from[0]) {
            cell = memo.to[0];
            return;
        }
        touch_slow(view, id, cell, byte_mask, memo);
    }
    // True when all the words are like the one met last, and then done.
    template <uint32_t kWords>
    static bool repeat(Cell* cells, const Memo& memo) {
        const uint64_t from = std::bit_cast<uint64_t>(memo.from[0]),
                       to = std::bit_cast<uint64_t>(memo.to[0]);
        uint64_t words[kWords], differ = memo.count == 0;
        std::memcpy(words, cells, sizeof words);
        for (uint32_t w = 0; w < kWords; ++w) {
            differ |= words[w] ^ from;
        }
        if (differ != 0) {
            return false;
        }
        for (uint32_t w = 0; w < kWords; ++w) {
            words[w] = to;
        }
        std::memcpy(static_cast<void*>(cells), words, sizeof words);
        return true;
    }

  private:
    void touch_slow(const View& view, uint32_t id, Cell& cell, uint32_t byte_mask, Memo& memo);
    Cell step(const View& view, uint32_t id, Cell cell, uint32_t byte);
    Conflict conflict(const View& view, const Record& other) const;
    bool happened_before(const View& view, const Record& other) const;
    bool visible_to_async(const View& view, const Record& other) const;
    // A warp has two places in a clock: what all its lanes did, and what single lanes did.
    bool of_single_lane(const Record& r) const {
        return r.agent < warps_ && r.mask != 0 && (r.mask & (r.mask - 1)) == 0;
    }
    AgentId place(const Record& r) const { return of_single_lane(r) ? r.agent + warps_ : r.agent; }
    bool same_scope(const Record& a, const Record& b) const;
    uint32_t insert_reader(const View& view, uint32_t id, uint32_t readers);
    uint32_t cons(uint32_t record, uint32_t rest);

    ShadowTables& tables_;
    uint32_t cluster_, warps_per_cta_, warps_, max_readers_;
    StableTable<Record>::Cursor records_;
    StableTable<ReaderNode>::Cursor nodes_;
    StableTable<ByteCells>::Cursor bytes_;
    struct Interned {
        uint32_t record = 0, rest = 0, node = 0;
    };
    Interned interned_[1024];
};

// Vector clocks kept at a synchronisation location, by scope of the release.
struct ScopedClocks {
    Clock::Foreign c, p;  // by cluster serial, the own one too
};
struct SyncLocation {
    ScopedClocks gpu;
    std::unordered_map<uint64_t, ScopedClocks> cluster, cta;  // by cluster serial; by linear CTA
};

// Global memory of one launch, used by all its clusters from several host threads.
class GlobalShadow {
  public:
    static constexpr uint64_t kPageBytes = 65536;
    struct Page {
        std::atomic_flag busy = ATOMIC_FLAG_INIT;
        Cell cells[kPageBytes / 4];
    };
    class PageLock {
      public:
        explicit PageLock(Page& page) : page_(page) {
            while (page_.busy.test_and_set(std::memory_order_acquire)) {
                __builtin_ia32_pause();
            }
        }
        ~PageLock() { page_.busy.clear(std::memory_order_release); }
        PageLock(const PageLock&) = delete;

      private:
        Page& page_;
    };

    // names: to call addresses by the name of their allocation; may be null.
    explicit GlobalShadow(const LaunchInfo& launch, const Allocations* names = nullptr)
        : launch_(launch), names_(names) {}
    ~GlobalShadow();
    GlobalShadow(const GlobalShadow&) = delete;

  private:
    friend class ClusterRaces;
    uint32_t enroll(std::vector<uint64_t> ctas);  // serial number of a new cluster
    uint64_t cta_of(uint32_t cluster, uint32_t rank) const;
    Page& page(uint64_t number);
    struct SyncShard {
        std::mutex mutex;
        std::unordered_map<uint64_t, SyncLocation> locations;
    };
    SyncShard& shard(uint64_t key) { return shards_[(key >> 3) * 0x9e3779b97f4a7c15u >> 58]; }

    const LaunchInfo& launch_;
    const Allocations* names_;
    ShadowTables tables_;
    mutable std::shared_mutex mutex_;
    std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
    std::vector<std::vector<uint64_t>> clusters_;
    SyncShard shards_[64];
};

}  // namespace emu::check
