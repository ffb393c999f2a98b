// SPDX-License-Identifier: BSD-3-Clause
// Bulk copies (cp.async.bulk, .tensor, reductions): decoded form and the operation in flight.
#pragma once
#include <deque>
#include <memory>
#include <vector>

#include "exec/async_families.h"
#include "exec/async_support.h"
#include "units/reduce.h"
#include "units/tensor_map.h"

namespace emu {

enum class BulkKind : uint8_t {
    load,
    shared_to_shared,
    store,
    prefetch
};  // load: global to shared; store may reduce

struct BulkCode {
    BulkKind kind = BulkKind::load;
    bool tensor = false, rows4 = false, multicast = false, reduces = false, pair_barrier = false;
    int rank = 0;
    AddressRef dst, src, barrier, map;
    Ref coords[5] = {kNoRef, kNoRef, kNoRef, kNoRef, kNoRef};
    Ref size = kNoRef, cta_mask = kNoRef, byte_mask = kNoRef;
    ReduceOp reduce = ReduceOp::add;
    ReduceType type = ReduceType::u32;
};

struct BulkOp : AsyncOp {
    BulkCode code;
    TensorMap map;
    std::vector<TensorRow> rows;  // tensor forms
    uint64_t global = 0;          // plain forms
    uint32_t shared = 0;  // source of stores, destination of loads (rank of the issuing CTA)
    uint32_t source = 0;  // shared_to_shared
    uint64_t bytes = 0;
    uint32_t byte_mask = 0xffff;
    struct Target {
        uint32_t shared, barrier;
        uint64_t generation;  // of the barrier when the copy was issued
        check::AsyncOp race;
    };
    std::vector<Target> targets;  // loads: one per destination CTA
    std::vector<uint8_t> data;    // stores: what was read, once read_source() has run
    bool source_read = false;
    check::AsyncOp read_race, write_race;

    void complete(Cluster& cluster) override;
    void read_source(Cluster& cluster);  // the part that cp.async.bulk.wait_group.read waits for
    std::string describe() const override;

  private:
    void load(Cluster& cluster);
    void write_global(Cluster& cluster);
    void copy_between_ctas(Cluster& cluster);
};

}  // namespace emu
