// SPDX-License-Identifier: BSD-3-Clause
// Unit tests of check/: g++ -std=c++20 -I tests/emulator check_test.cpp check/*.cpp
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>

#include "check/allocations.h"
#include "check/barriers.h"
#include "check/config.h"
#include "check/init.h"
#include "check/races.h"
#include "check/registers.h"
#include "check/tensor_memory.h"

using namespace emu;
using namespace emu::check;

namespace {

int failures = 0;

void expect(bool ok, const char* what, const std::string& seen = {}) {
    if (!ok) {
        ++failures;
        std::printf("FAILED: %s\n%s\n", what, seen.c_str());
    }
}

void expect_fault(const char* what, int error, const std::string& part,
                  const std::function<void()>& body) {
    try {
        body();
    } catch (const Fault& f) {
        expect(f.error == error && f.text.find(part) != std::string::npos, what, f.text);
        return;
    }
    expect(false, what, "no fault");
}

void expect_none(const char* what, const std::function<void()>& body) {
    try {
        body();
    } catch (const Fault& f) {
        expect(false, what, f.text);
    }
}

struct Lines : SourceMap {
    Location locate(uint32_t pc) const override {
        return {pc, "instr" + std::to_string(pc), "kernel.cu", pc + 100};
    }
};
Lines lines;

LaunchInfo make_launch(uint32_t grid = 4, uint32_t threads = 128) {
    LaunchInfo l;
    l.kernel = "k";
    l.grid[0] = grid;
    l.block[0] = threads;
    l.source = &lines;
    return l;
}

struct Bench {
    LaunchInfo launch = make_launch();
    Allocations allocations;
    GlobalShadow shadow{launch, &allocations};
    ClusterRaces races{launch, shadow, {0, 1}, 4, 65536};
    ClusterRaces other{launch, shadow, {2, 3}, 4, 65536};

    static void shared(ClusterRaces& r, AgentId agent, Op op, uint32_t base, uint32_t bytes = 4,
                       uint32_t stride = 4, Scope scope = Scope::None, uint32_t pc = 7,
                       uint32_t mask = ~0u) {
        uint32_t address[32];
        for (uint32_t i = 0; i < 32; ++i) {
            address[i] = base + i * stride;
        }
        r.shared({agent, pc, op, scope}, address, mask, bytes);
    }
    static void global(ClusterRaces& r, AgentId agent, Op op, uint64_t base, uint32_t bytes = 4,
                       Scope scope = Scope::None, uint32_t pc = 9, uint32_t mask = ~0u) {
        uint64_t address[32];
        for (uint32_t i = 0; i < 32; ++i) {
            address[i] = base + i * bytes;
        }
        r.global({agent, pc, op, scope}, address, mask, bytes);
    }
    void sync(BarrierSync& b, std::initializer_list<AgentId> agents) {
        for (AgentId a : agents) {
            races.arrive(a, b);
        }
        races.complete(b);
        for (AgentId a : agents) {
            races.wait(a, b);
        }
    }
};

constexpr int kFailure = fault::kLaunchFailure;

void test_barriers() {
    {
        Bench b;
        Bench::shared(b.races, 0, Op::Write, 1024, 4, 4, Scope::None, 3);
        expect_fault("write/read race", kFailure,
                     "data race on shared memory at shared+0x400: read",
                     [&] { Bench::shared(b.races, 1, Op::Read, 1024); });
        expect_fault(
            "the thread and the lines are named", kFailure,
            "thread (37,0,0), PTX line 7: instr7 (kernel.cu:107)\n  earlier write: block (0,0,0) "
            "thread "
            "(5,0,0), PTX line 3: instr3 (kernel.cu:103)",
            [&] { Bench::shared(b.races, 1, Op::Read, 1024, 4, 4, Scope::None, 7, 0xffffffe0u); });
        expect_fault("write/write race", kFailure, "write not ordered after an earlier write",
                     [&] { Bench::shared(b.races, 2, Op::Write, 1024 + 64); });
    }
    {
        Bench b;
        BarrierSync bar;
        for (int round = 0; round < 3; ++round) {
            Bench::shared(b.races, 0, Op::Write, 1024);
            b.sync(bar, {0, 1, 2});
            expect_none("barrier orders", [&] {
                Bench::shared(b.races, 1, Op::Read, 1024);
                Bench::shared(b.races, 2, Op::Read, 1024);
                Bench::shared(b.races, 0, Op::Read, 1024);
            });
            b.sync(bar, {0, 1, 2});
        }
        Bench::shared(b.races, 1, Op::Read, 1024);
        expect_fault("write after read", kFailure, "write not ordered after an earlier read",
                     [&] { Bench::shared(b.races, 2, Op::Write, 1024); });
    }
    {
        Bench b;  // the reader that came first is remembered
        BarrierSync bar;
        Bench::shared(b.races, 0, Op::Read, 1024, 4, 4, Scope::None, 11);
        Bench::shared(b.races, 1, Op::Read, 1024, 4, 4, Scope::None, 12);
        Bench::shared(b.races, 2, Op::Read, 1024, 4, 4, Scope::None, 13);
        b.sync(bar, {1, 2, 3});
        expect_fault("one reader of three unordered", kFailure,
                     "earlier read: block (0,0,0) thread (0,0,0), PTX line 11",
                     [&] { Bench::shared(b.races, 3, Op::Write, 1024); });
    }
    {
        Bench b;  // bar.arrive of a producer, bar.sync of a consumer: one direction only
        BarrierSync bar;
        Bench::shared(b.races, 0, Op::Write, 1024);
        b.races.arrive(0, bar);
        b.races.arrive(1, bar);
        b.races.complete(bar);
        b.races.wait(1, bar);
        expect_none("arrive to sync", [&] { Bench::shared(b.races, 1, Op::Read, 1024); });
        expect_fault("not back", kFailure, "data race",
                     [&] { Bench::shared(b.races, 0, Op::Write, 1024); });
    }
}

void test_parts_of_words() {
    Bench b;
    BarrierSync bar;
    expect_none("halves of words by different warps", [&] {
        Bench::shared(b.races, 0, Op::Write, 1024, 2, 4);
        Bench::shared(b.races, 1, Op::Write, 1026, 2, 4);
        Bench::shared(b.races, 0, Op::Read, 1024, 2, 4);
        Bench::shared(b.races, 2, Op::Write, 4096, 1, 1);
        Bench::shared(b.races, 3, Op::Write, 4096 + 32, 1, 1);
    });
    expect_fault("byte of another warp", kFailure, "shared+0x402",
                 [&] { Bench::shared(b.races, 0, Op::Read, 1024, 4, 4); });
    expect_fault("odd byte range", kFailure, "shared+0x1020",
                 [&] { b.races.shared_range(Access{2, 5, Op::Read, Scope::None}, 4095, 34); });
    b.sync(bar, {0, 1, 2, 3});
    expect_none("all bytes after the barrier",
                [&] { Bench::shared(b.races, 0, Op::Write, 1024, 4, 4); });
}

void test_lanes() {
    Bench b;
    uint32_t address[32], values[32];
    for (int i = 0; i < 32; ++i) {
        address[i] = 1024 + 4 * (i % 16);
        values[i] = i % 16;
    }
    expect_none("equal values",
                [&] { b.races.shared({0, 1, Op::Write, Scope::None}, address, ~0u, 4, values); });
    values[20] = 99;
    expect_fault("different values", kFailure, "two threads of one warp write different values",
                 [&] { b.races.shared({0, 1, Op::Write, Scope::None}, address, ~0u, 4, values); });
}

void test_cp_async() {
    uint32_t address[32];
    for (int i = 0; i < 32; ++i) {
        address[i] = 2048 + 16 * i;
    }
    const auto copy = [&](Bench& b, Channel& channel, AgentId warp) {
        const AsyncOp op = b.races.begin(warp, channel, 21, Proxy::Generic);
        b.races.shared(op, Op::Write, address, ~0u, 16);
        b.races.finish(op);
        return op.epoch;
    };
    {
        Bench b;
        BarrierSync bar;
        Channel channel;
        b.races.open(channel);
        const uint32_t epoch = copy(b, channel, 0);
        expect_fault("no wait", kFailure, "the earlier operation was not waited for",
                     [&] { Bench::shared(b.races, 0, Op::Read, 2048); });
        b.races.wait(0, channel, epoch);
        expect_none("own read after the wait", [&] { Bench::shared(b.races, 0, Op::Read, 2048); });
        expect_fault("other warp without a barrier", kFailure, "asynchronous write",
                     [&] { Bench::shared(b.races, 1, Op::Read, 2048); });
        b.sync(bar, {0, 1});
        expect_none("other warp with a barrier",
                    [&] { Bench::shared(b.races, 1, Op::Read, 2048); });
        expect_fault("refill before the reader is done", kFailure, "earlier read",
                     [&] { copy(b, channel, 0); });
    }
    {
        Bench b;  // wait_group 1: the older copy is done, the younger is not
        Channel channel;
        b.races.open(channel);
        const uint32_t first = copy(b, channel, 0);
        for (auto& a : address) {
            a += 8192;
        }
        copy(b, channel, 0);
        b.races.wait(0, channel, first);
        expect_none("older group", [&] { Bench::shared(b.races, 0, Op::Read, 2048); });
        expect_fault("younger group", kFailure, "asynchronous write",
                     [&] { Bench::shared(b.races, 0, Op::Read, 2048 + 8192); });
    }
    {
        Bench b;  // an own access after the issue does not precede the copy
        Channel channel;
        b.races.open(channel);
        const AsyncOp op = b.races.begin(0, channel, 21, Proxy::Generic);
        Bench::shared(b.races, 0, Op::Write, 4096);
        expect_fault("access between issue and completion", kFailure, "earlier write",
                     [&] { b.races.shared_range(op, Op::Write, 4096, 128); });
    }
}

void test_proxies() {
    const auto store = [](Bench& b, Channel& channel, AgentId warp) {
        const AsyncOp op = b.races.begin(warp, channel, 31, Proxy::Async);
        b.races.shared_range(op, Op::Read, 1024, 128);
        return op;
    };
    {
        Bench b;
        BarrierSync bar;
        Channel channel;
        b.races.open(channel);
        Bench::shared(b.races, 0, Op::Write, 1024);
        b.sync(bar, {0, 1});
        expect_fault("no proxy fence", kFailure, "missing fence.proxy.async",
                     [&] { store(b, channel, 1); });
    }
    {
        Bench b;
        BarrierSync bar;
        Channel channel;
        b.races.open(channel);
        Bench::shared(b.races, 0, Op::Write, 1024);
        b.races.fence_proxy_async(0);
        Bench::shared(b.races, 0, Op::Write, 8192);
        b.sync(bar, {0, 1});
        AsyncOp op;
        expect_none("fence of the writer, barrier, store", [&] { op = store(b, channel, 1); });
        expect_fault("the fence covers only what precedes it", kFailure,
                     "missing fence.proxy.async", [&] {
                         b.races.shared_range(b.races.begin(1, channel, 32, Proxy::Async), Op::Read,
                                              8192, 16);
                     });
        expect_fault("source overwritten before wait_group.read", kFailure,
                     "earlier asynchronous read",
                     [&] { Bench::shared(b.races, 1, Op::Write, 1024); });
        b.races.finish(op);
        b.races.wait(1, channel, op.epoch);
        expect_none("after the wait", [&] { Bench::shared(b.races, 1, Op::Write, 1024); });
    }
    {
        Bench b;  // own write, own fence
        Channel channel;
        b.races.open(channel);
        Bench::shared(b.races, 0, Op::Write, 1024);
        expect_fault("own write without fence", kFailure, "missing fence.proxy.async",
                     [&] { store(b, channel, 0); });
        b.races.fence_proxy_async(0);
        expect_none("own write with fence", [&] { store(b, channel, 0); });
    }
}

void test_mbarrier() {
    Bench
        b;  // a ring of two stages: TMA fills, warp 1 reads, warp 0 refills after the empty barrier
    MbarrierSync full[2], empty[2];
    for (int s = 0; s < 2; ++s) {
        b.races.open(full[s]);
        b.races.open(empty[s]);
    }
    const auto fill = [&](int stage) {
        b.races.arrive(0, full[stage]);
        const AsyncOp op = b.races.begin(0, full[stage].channel, 41, Proxy::Async);
        b.races.shared_range(op, Op::Write, 1024 + stage * 1024, 1024);
        return op;
    };
    const auto land = [&](int stage, const AsyncOp& op) {
        b.races.finish(op);
        b.races.complete(full[stage]);
    };
    expect_none("ring", [&] {
        AsyncOp first = fill(0), second = fill(1);
        land(1, second);
        land(0, first);
        for (int i = 0; i < 6; ++i) {
            const int stage = i % 2;
            b.races.wait(1, full[stage]);
            Bench::shared(b.races, 1, Op::Read, 1024 + stage * 1024);
            b.races.fence_proxy_async(1);
            b.races.arrive(1, empty[stage]);
            b.races.complete(empty[stage]);
            b.races.wait(0, empty[stage]);
            land(stage, fill(stage));
        }
    });
    expect_fault("read of the next stage without its barrier", kFailure, "asynchronous write",
                 [&] { Bench::shared(b.races, 1, Op::Read, 1024); });
    b.races.wait(1, full[0]);
    expect_none("with its barrier", [&] { Bench::shared(b.races, 1, Op::Read, 1024); });
    expect_fault("refill without the empty barrier", kFailure, "asynchronous write not ordered",
                 [&] { fill(0); });

    Bench::shared(b.races, 1, Op::Read, 1024);
    b.races.arrive(1, empty[0]);
    b.races.complete(empty[0]);
    b.races.wait(0, empty[0]);
    expect_fault("refill after a read that no proxy fence ended", kFailure,
                 "missing fence.proxy.async", [&] { fill(0); });

    Bench c;  // tx-count too small: the phase ends while a copy is in flight
    MbarrierSync bar;
    c.races.open(bar);
    c.races.arrive(0, bar);
    const AsyncOp one = c.races.begin(0, bar.channel, 51, Proxy::Async);
    c.races.shared_range(one, Op::Write, 1024, 512);
    const AsyncOp two = c.races.begin(0, bar.channel, 52, Proxy::Async);
    c.races.shared_range(two, Op::Write, 2048, 512);
    c.races.finish(two);
    c.races.complete(bar);
    c.races.wait(1, bar);
    expect_fault("copy still in flight", kFailure, "asynchronous write",
                 [&] { Bench::shared(c.races, 1, Op::Read, 1024); });
}

void test_atomics() {
    const auto flag = [](ClusterRaces& r, AgentId a, bool write, bool acquire, bool release,
                         Scope scope = Scope::Gpu) {
        Bench::global(r, a, write ? Op::Write : Op::Read, 1 << 20, 4, scope, 61, 1);
        r.strong(a, 1 << 20, {!write, write, acquire, release, scope});
    };
    {
        Bench b;
        Bench::global(b.races, 0, Op::Write, 1 << 16);
        expect_fault("race between clusters", kFailure, "data race on global memory",
                     [&] { Bench::global(b.other, 1, Op::Read, 1 << 16); });
        expect_none("strong accesses do not race", [&] {
            flag(b.races, 0, true, false, true);
            flag(b.other, 1, false, true, false);
        });
        expect_none("release, acquire", [&] { Bench::global(b.other, 1, Op::Read, 1 << 16); });
        expect_fault("another warp has not acquired", kFailure, "block (2,0,0)",
                     [&] { Bench::global(b.other, 2, Op::Read, 1 << 16); });
    }
    {
        Bench b;  // __threadfence on both sides of relaxed accesses
        Bench::global(b.races, 0, Op::Write, 1 << 16);
        b.races.fence(0, Scope::Gpu);
        flag(b.races, 0, true, false, false);
        flag(b.other, 1, false, false, false);
        expect_fault("no fence of the reader", kFailure, "data race",
                     [&] { Bench::global(b.other, 1, Op::Read, 1 << 16); });
        b.other.fence(1, Scope::Gpu);
        expect_none("fences", [&] { Bench::global(b.other, 1, Op::Read, 1 << 16); });
    }
    {
        Bench b;  // a scope that does not reach
        Bench::global(b.races, 0, Op::Write, 1 << 16);
        flag(b.races, 0, true, false, true, Scope::Cta);
        expect_fault("scopes do not include each other", kFailure, "scope of one does not include",
                     [&] { flag(b.other, 1, false, true, false); });
    }
    {
        Bench b;
        flag(b.races, 0, true, false, true, Scope::Cluster);
        flag(b.races, 5, false, true, false, Scope::Cluster);
        Bench::global(b.races, 0, Op::Atomic, 1 << 18, 4, Scope::Gpu);
        Bench::global(b.other, 0, Op::Atomic, 1 << 18, 4, Scope::Gpu);
        expect_fault("plain read of an atomic counter", kFailure, "earlier atomic",
                     [&] { Bench::global(b.races, 0, Op::Read, 1 << 18); });
    }
    {
        Bench b;  // a chain over three clusters' warps is transitive
        Bench::global(b.races, 0, Op::Write, 1 << 16);
        flag(b.races, 0, true, false, true);
        flag(b.other, 1, false, true, false);
        Bench::global(b.other, 1, Op::Atomic, 1 << 21, 4, Scope::Gpu, 62, 1);
        b.other.strong(1, 1 << 21, {true, true, true, true, Scope::Gpu});
        Bench::global(b.races, 7, Op::Atomic, 1 << 21, 4, Scope::Gpu, 62, 1);
        b.races.strong(7, 1 << 21, {true, true, true, true, Scope::Gpu});
        expect_none("transitive", [&] { Bench::global(b.races, 7, Op::Read, 1 << 16); });
        expect_fault("not for others", kFailure, "data race",
                     [&] { Bench::global(b.races, 6, Op::Read, 1 << 16); });
    }
}

void test_memory() {
    Allocations a;
    DeviceHeap heap(a);
    const LaunchInfo launch = make_launch();
    const Site site{0, 0, kNoLane, 3};
    void* p = heap.allocate(100);
    const uint64_t base = reinterpret_cast<uint64_t>(p);
    expect(base % 256 == 0, "aligned to 256");
    std::vector<float> host(10);
    const uint64_t tensor = reinterpret_cast<uint64_t>(host.data());
    a.add(tensor, 40, MemoryKind::HostRegistered, "Q");
    AllocationCache cache;
    uint64_t address[32];
    for (int i = 0; i < 32; ++i) {
        address[i] = base + 4 * i;
    }
    expect(a.check(cache, address, 0x01ffffffu, 4, true), "inside");
    expect(!a.check(cache, address, 0x03ffffffu, 4, true), "one past the end");
    expect_fault("text", fault::kIllegalAddress, "just past the end of 'allocation 1'",
                 [&] { throw a.fault(launch, site, address, 0x03ffffffu, 4, true); });
    expect_fault("thread", fault::kIllegalAddress, "thread (25,0,0)",
                 [&] { throw a.fault(launch, site, address, 0x03ffffffu, 4, true); });
    for (auto& x : address) {
        x = tensor;
    }
    expect(a.check(cache, address, ~0u, 8, false), "tensor");
    address[31] = tensor + 36;
    expect(!a.check(cache, address, ~0u, 8, false), "straddles the end");
    expect_fault("straddle text", fault::kIllegalAddress, "starts 4 bytes before the end of 'Q'",
                 [&] { throw a.fault(launch, site, address, ~0u, 8, false); });
    heap.release(p);
    expect(!a.check_range(cache, base, 4, false), "freed");
    expect_fault("use after free", fault::kIllegalAddress,
                 "use after free: 4 bytes into 'allocation 1'",
                 [&] { throw a.fault(launch, site, base + 4, 4, false); });
    expect_fault("null", fault::kIllegalAddress, "null pointer",
                 [&] { throw a.fault(launch, site, 8, 4, false); });

    // A storage and many views that begin inside it: an address that only the storage holds is
    // still found.
    a.add(uint64_t{1} << 40, 4096, MemoryKind::HostRegistered, "storage");
    for (uint64_t v = 1; v <= 40; ++v) {
        a.add((uint64_t{1} << 40) + 16 * v, 16, MemoryKind::HostRegistered, "view");
    }
    expect(a.find((uint64_t{1} << 40) + 4000, 64), "the storage behind the views");
    expect(!a.find((uint64_t{1} << 40) + 4000, 128), "past the storage");

    InitMap init;
    init.reset(4096);
    uint32_t offset[32];
    for (int i = 0; i < 32; ++i) {
        offset[i] = 64 + 16 * i;
    }
    init.write(offset, 0x7fffffffu, 16);
    expect(init.unwritten(offset, ~0u, 16) == 0x80000000u, "last lane unwritten");
    init.write_range(64 + 16 * 31, 15);
    expect(init.first_unwritten(64, 512) == 64 + 511, "first unwritten");
    expect(init.unwritten(offset, ~0u, 8) == 0, "8 bytes are written");
}

void test_small_parts() {
    const LaunchInfo launch = make_launch();
    const Site site{1, 2, kNoLane, 3};
    expect(Config::parse("bounds,races") == Config{true, false, true, false, false, false, false},
           "config list");
    expect(Config::parse("none") == Config::none() && Config::parse("all") == Config{},
           "config words");
    expect_fault("unknown check", fault::kInvalidValue, "unknown check 'speed'",
                 [] { Config::parse("races,speed"); });
    InFlightRegisters regs;
    for (uint32_t r = 10; r < 42; ++r) {
        regs.add(r, true, 1, 5);
    }
    regs.add(50, false, 2, 6);
    uint32_t pc = 0;
    expect(regs.conflict(41, false, &pc) && pc == 5 && !regs.conflict(42, true, &pc),
           "accumulator");
    expect(!regs.conflict(50, false, &pc) && regs.conflict(50, true, &pc) && pc == 6, "A fragment");
    regs.retire(1);
    expect(!regs.conflict(41, true, &pc) && regs.conflict(50, true, &pc), "retired");
    TensorMemoryLedger tmem;
    expect(tmem.allocate(launch, site, 256) == 0 && tmem.allocate(launch, site, 128) == 256,
           "tmem");
    expect(tmem.allocate(launch, site, 256) == -1, "tmem full");
    expect_fault("tmem size", kFailure, "48 columns", [&] { tmem.allocate(launch, site, 48); });
    expect_fault("tmem unallocated", fault::kIllegalAddress, "not allocated",
                 [&] { tmem.use(launch, site, 380, 8); });
    tmem.release(launch, site, 0, 256);
    expect_fault("tmem leak", kFailure,
                 "leaked tensor memory: block (1,0,0) ended with columns 256-383",
                 [&] { tmem.at_exit(launch, 1); });
    expect_fault("deadlock", fault::kLaunchTimeout,
                 "block (1,0,0) warps 0-2 waits for bar.sync 1 at PTX line 3", [&] {
                     std::vector<StuckWarp> stuck;
                     for (uint32_t w = 0; w < 3; ++w) {
                         stuck.push_back({Site{1, w, kNoLane, 3}, "bar.sync 1"});
                     }
                     throw deadlock(launch, stuck);
                 });
    expect_fault("bar count", kFailure, "multiple of 32",
                 [&] { bar::check_operands(launch, site, 1, 48); });
}

// Shape of an attention tile loop: copies fill 16 KB, four warps read it all by 16-byte rows,
// barriers between.
void measure() {
    Bench b;
    BarrierSync bar;
    Channel channels[4];
    for (auto& c : channels) {
        b.races.open(c);
    }
    uint64_t accesses = 0;
    const auto begin = std::chrono::steady_clock::now();
    for (int tile = 0; tile < 2000; ++tile) {
        const uint32_t base = 1024 + (tile & 1) * 16384;
        uint32_t address[32];
        uint64_t source[32];
        for (uint32_t w = 0; w < 4; ++w) {
            for (uint32_t i = 0; i < 8; ++i) {
                for (uint32_t l = 0; l < 32; ++l) {
                    address[l] = base + ((w * 8 + i) * 32 + l) * 16;
                    source[l] = (uint64_t{1} << 30) + (uint64_t(tile % 64) * 16384) +
                                ((w * 8 + i) * 32 + l) * 16;
                }
                const AsyncOp op = b.races.begin(w, channels[w], 100 + i, Proxy::Generic);
                b.races.shared(op, Op::Write, address, ~0u, 16);
                b.races.global(op, Op::Read, source, ~0u, 16);
                b.races.finish(op);
                accesses += 2;
            }
            b.races.wait(w, channels[w], channels[w].begun);
        }
        b.sync(bar, {0, 1, 2, 3});
        for (uint32_t i = 0; i < 32; ++i) {
            for (uint32_t w = 0; w < 4; ++w) {
                for (uint32_t l = 0; l < 32; ++l) {
                    address[l] = base + (i * 32 + (l * 5) % 32) * 16;
                }
                b.races.shared({w, 200 + i, Op::Read, Scope::None}, address, ~0u, 16);
                ++accesses;
            }
        }
        b.sync(bar, {0, 1, 2, 3});
    }
    const double ns =
        std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count();
    std::printf("16-byte warp accesses: %.0f ns each\n", ns / accesses);
}

}  // namespace

int main(int argc, char**) {
    test_barriers();
    test_parts_of_words();
    test_lanes();
    test_cp_async();
    test_proxies();
    test_mbarrier();
    test_atomics();
    test_memory();
    test_small_parts();
    if (argc > 1) {
        measure();
    }
    std::printf(failures == 0 ? "ok\n" : "%d failures\n", failures);
    return failures == 0 ? 0 : 1;
}
