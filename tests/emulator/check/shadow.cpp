// SPDX-License-Identifier: BSD-3-Clause
#include "check/shadow.h"

namespace emu::check {

bool ShadowEngine::happened_before(const View& view, const Record& other) const {
    const Record& self = view.self;
    if (other.cluster != cluster_) {
        return view.known->c.at(other.cluster, place(other)) >= other.epoch;
    }
    if (!self.async) {
        return other.agent == self.agent || view.known->c.at(place(other)) >= other.epoch;
    }
    if (other.agent == self.agent && other.epoch == self.epoch) {
        return true;
    }
    if (other.agent == self.owner) {
        return other.epoch <= (of_single_lane(other) ? view.issuer_single : view.issuer_epoch);
    }
    return view.known->c.at(place(other)) >= other.epoch;
}

bool ShadowEngine::visible_to_async(const View& view, const Record& other) const {
    return other.cluster == cluster_ ? view.known->p.at(place(other)) >= other.epoch
                                     : view.known->p.at(other.cluster, place(other)) >= other.epoch;
}

bool ShadowEngine::same_scope(const Record& a, const Record& b) const {
    switch (a.scope) {
        case Scope::None:
            return false;
        case Scope::Cta:
            return a.cluster == b.cluster && a.owner / warps_per_cta_ == b.owner / warps_per_cta_;
        case Scope::Cluster:
            return a.cluster == b.cluster;
        case Scope::Gpu:
        case Scope::Sys:
            return true;
    }
    return false;
}

Conflict ShadowEngine::conflict(const View& view, const Record& other) const {
    const Record& self = view.self;
    if (self.op == Op::Read && other.op == Op::Read) {
        return Conflict::None;
    }
    if (!happened_before(view, other)) {
        return same_scope(self, other) && same_scope(other, self) ? Conflict::None : Conflict::Race;
    }
    // Of a generic read too: an asynchronous copy may overtake it otherwise.
    if (self.proxy == Proxy::Async && other.proxy == Proxy::Generic &&
        !visible_to_async(view, other)) {
        return Conflict::ProxyFence;
    }
    return Conflict::None;
}

uint32_t ShadowEngine::cons(uint32_t record, uint32_t rest) {
    if (rest == 0) {
        return record;
    }
    Interned& slot = interned_[(record * 0x9e3779b1u ^ rest * 0x85ebca6bu) >> 22];
    if (slot.record == record && slot.rest == rest && slot.node != 0) {
        return slot.node;
    }
    const uint32_t id = tables_.nodes.add(nodes_, ReaderNode{record, rest});
    if (id == 0) {
        return record;
    }
    slot = Interned{record, rest, id | kIndirect};
    return slot.node;
}

uint32_t ShadowEngine::insert_reader(const View& view, uint32_t id, uint32_t readers) {
    constexpr uint32_t kMost = 64;
    uint32_t kept[kMost], count = 0;
    for (uint32_t at = readers; at != 0 && count + 1 < std::min(max_readers_, kMost);) {
        uint32_t record = at, rest = 0;
        if (at & kIndirect) {
            const ReaderNode& node = tables_.nodes[at & ~kIndirect];
            record = node.record;
            rest = node.rest;
        }
        // A later writer that is ordered after this read is ordered after what happened before it;
        // the async proxy, after its own read, not behind a fence.
        const Record& other = tables_.records[record];
        const bool unfenced = view.self.proxy == Proxy::Async && other.proxy == Proxy::Generic &&
                              !visible_to_async(view, other);
        if (record != id && (unfenced || !happened_before(view, other))) {
            kept[count++] = record;
        }
        at = rest;
    }
    uint32_t list = 0;
    while (count != 0) {
        list = cons(kept[--count], list);
    }
    return cons(id, list);
}

Cell ShadowEngine::step(const View& view, uint32_t id, Cell cell, uint32_t byte) {
    if (cell.writer != 0 && cell.writer != id) {
        const Conflict kind = conflict(view, tables_.records[cell.writer]);
        if (kind != Conflict::None) {
            throw Clash{kind, cell.writer, byte};
        }
    }
    if (view.self.op == Op::Read) {
        return {cell.writer, cell.readers == id ? id : insert_reader(view, id, cell.readers)};
    }
    for (uint32_t at = cell.readers; at != 0;) {
        uint32_t record = at, rest = 0;
        if (at & kIndirect) {
            const ReaderNode& node = tables_.nodes[at & ~kIndirect];
            record = node.record;
            rest = node.rest;
        }
        const Conflict kind = conflict(view, tables_.records[record]);
        if (kind != Conflict::None) {
            throw Clash{kind, record, byte};
        }
        at = rest;
    }
    return {id, 0};
}

void ShadowEngine::touch_slow(const View& view, uint32_t id, Cell& cell, uint32_t byte_mask,
                              Memo& memo) {
    if (!(cell.writer & kIndirect)) {
        if (byte_mask == 15) {
            for (uint32_t i = 0; i < memo.count; ++i) {
                if (memo.from[i] == cell) {
                    cell = memo.to[i];
                    return;
                }
            }
            const Cell from = cell;
            cell = step(view, id, cell, 0);
            const uint32_t slot = memo.count < 8 ? memo.count++ : 7;
            memo.from[slot] = from;
            memo.to[slot] = cell;
            if (slot != 0) {
                std::swap(memo.from[slot], memo.from[0]);
                std::swap(memo.to[slot], memo.to[0]);
            }
            return;
        }
        const uint32_t split = tables_.bytes.add(bytes_, ByteCells{{cell, cell, cell, cell}});
        if (split == 0) {
            return;
        }
        cell = {split | kIndirect, 0};
    }
    ByteCells& bytes = tables_.bytes[cell.writer & ~kIndirect];
    Cell last_from, last_to;
    bool have = false;
    for (uint32_t b = 0; b < 4; ++b) {
        if ((byte_mask >> b) & 1) {
            if (!have || bytes.byte[b] != last_from) {
                last_from = bytes.byte[b];
                last_to = step(view, id, last_from, b);
                have = true;
            }
            bytes.byte[b] = last_to;
        }
    }
}

namespace {

// Pages outlive launches: zeroing one is cheaper than faulting a fresh one in.
struct PagePool {
    std::mutex mutex;
    std::vector<std::unique_ptr<GlobalShadow::Page>> free;
};
PagePool& page_pool() {
    static PagePool* pool = new PagePool;
    return *pool;
}

}  // namespace

GlobalShadow::~GlobalShadow() {
    constexpr size_t kKept = 2048;
    PagePool& pool = page_pool();
    std::lock_guard lock(pool.mutex);
    for (auto& [number, page] : pages_) {
        if (pool.free.size() < kKept) {
            pool.free.push_back(std::move(page));
        }
    }
}

uint32_t GlobalShadow::enroll(std::vector<uint64_t> ctas) {
    std::unique_lock lock(mutex_);
    clusters_.push_back(std::move(ctas));
    return static_cast<uint32_t>(clusters_.size() - 1);
}

uint64_t GlobalShadow::cta_of(uint32_t cluster, uint32_t rank) const {
    std::shared_lock lock(mutex_);
    return clusters_[cluster][rank];
}

GlobalShadow::Page& GlobalShadow::page(uint64_t number) {
    {
        std::shared_lock lock(mutex_);
        const auto it = pages_.find(number);
        if (it != pages_.end()) {
            return *it->second;
        }
    }
    std::unique_ptr<Page> fresh;
    {
        PagePool& pool = page_pool();
        std::lock_guard lock(pool.mutex);
        if (!pool.free.empty()) {
            fresh = std::move(pool.free.back());
            pool.free.pop_back();
        }
    }
    if (fresh) {
        std::fill(std::begin(fresh->cells), std::end(fresh->cells), Cell{});
    } else {
        fresh = std::make_unique<Page>();
    }
    std::unique_lock lock(mutex_);
    return *pages_.try_emplace(number, std::move(fresh)).first->second;
}

}  // namespace emu::check
