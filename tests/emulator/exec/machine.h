// SPDX-License-Identifier: BSD-3-Clause
// The machine: launch -> clusters -> CTAs -> warps. Families of instructions act on it through this
// header.
//
// Address map (64-bit generic space): global, const and kernel parameters are host addresses;
// kSharedWindow + a 32-bit shared address is shared memory; kLocalWindow + offset is the lane's
// local memory. A 32-bit shared address is (rank of the CTA in its cluster) << 24 | offset, in
// shared::cta and shared::cluster alike, as on hardware; a CTA's variables start at offset
// kReservedShared.
#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "exec/fault.h"
#include "ptx/module.h"

namespace emu {

struct Counters;  // runtime/counters.h

constexpr int kLanes = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr uint64_t kSharedWindow = 1ull << 52, kLocalWindow = 1ull << 53,
                   kFunctionWindow = 1ull << 54;
constexpr int kRankShift = 24;
constexpr uint32_t kSharedOffsetMask = (1u << kRankShift) - 1;
constexpr uint32_t kReservedShared =
    1024;  // what the system keeps at the start of each CTA's shared memory
constexpr int kBarriers = 16;

struct Dim3 {
    uint32_t x = 1, y = 1, z = 1;
    uint64_t count() const { return uint64_t(x) * y * z; }
};

struct Warp;
struct Executed;
struct Cta;
struct Cluster;
struct Launch;
struct Instr;
using Handler = void (*)(Warp&, const Instr&, uint32_t active);

// Reference to a value in SoA form, 32 lanes side by side: bank in the top two bits, then the
// offset in words. 32-bit and narrower values take uint32_t[32] (narrow ones zero-extended), 64-bit
// uint64_t[32], 128-bit two such.
using Ref = uint32_t;
enum Bank : uint32_t { kBankRegisters = 0, kBankConstants = 1, kBankSpecial = 2 };
constexpr Ref make_ref(Bank bank, uint32_t word) {
    return Ref(bank) << 30 | word;
}
constexpr Ref kNoRef = 0xffffffffu;  // sink or absent operand
// Reference to a predicate (a lane mask): index << 1 | negated; index 0 is constant true, index 1
// is scratch.
using PredRef = uint16_t;
constexpr PredRef kAlways = 0, kPredSink = 2;

struct Instr {
    Handler run = nullptr;
    Ref r[6] = {kNoRef, kNoRef, kNoRef, kNoRef, kNoRef, kNoRef};  // r[0] is the destination, if any
    PredRef guard = kAlways, p[3] = {0, 0, 0};
    uint32_t target = 0;        // pc for branches; else free for the family
    uint32_t small = 0;         // free for the family (packed modifiers)
    int64_t imm = 0;            // free for the family (address offset, masks ...)
    const void* ext = nullptr;  // decode-time data of the family, owned by the Program
};
static_assert(sizeof(Instr) == 64);

// Counter classes (runtime/counters.h counts instructions by them).
enum class Class : uint8_t {
    integer,
    fp32,
    fp16,
    fp64,
    special,
    convert,
    move,
    predicate,
    control,
    load,
    store,
    atomic,
    shuffle,
    barrier,
    matrix,
    async_copy,
    fence,
    other,
    count
};

struct Source {  // beside Instr, index = pc
    const ptx::Statement* statement = nullptr;
    const ptx::Function* function = nullptr;
    Class kind = Class::other;
};

struct Symbol {
    uint64_t address = 0, bytes = 0;
    ptx::Space space = ptx::Space::none;
    uint64_t align = 1;
};

// A kernel and every function that it may call, linked into one flat code array.
struct Program {
    std::shared_ptr<const ptx::Module> module;
    const ptx::Function* entry = nullptr;
    std::vector<Instr> code;
    std::vector<Source> sources;
    uint32_t entry_pc = 0;
    std::vector<uint32_t> constants;  // bank 1, 32 lanes each
    uint32_t register_words = 0;      // bank 0
    uint32_t predicates = 2;
    uint32_t local_bytes = 0;        // per lane and activation
    uint32_t local_total = 0;        // per lane: more than one activation when recursive
    uint32_t frame_bytes = 0;        // per lane, .param space of device functions
    uint32_t static_shared = 0;      // bytes after kReservedShared; dynamic memory follows, aligned
    uint32_t dynamic_shared_at = 0;  // offset of extern shared arrays, kReservedShared included
    std::vector<std::pair<uint32_t, bool>> planes;  // words of bank 0: where one begins, 64-bit
    bool recursive = false;                         // a function may call itself, directly or not
    std::vector<uint32_t> function_pcs;  // by Module::functions index, ~0u when not linked
    std::vector<std::shared_ptr<void>> owned;
};

struct KernelParameter {
    uint32_t offset, bytes;
};

// A module with its globals placed in memory; made once per fat binary image.
struct Image {
    std::shared_ptr<const ptx::Module> module;
    int arch = 80;
    std::unordered_map<std::string, Symbol> symbols;  // .global and .const variables
    std::mutex mutex;
    std::unordered_map<std::string, std::shared_ptr<const Program>> programs;
};

enum class Schedule : uint8_t { fair, early, late, random };

struct Options {
    int arch = 80;    // 80, 86, 89, 90, 100, 120
    int threads = 1;  // host threads
    Schedule schedule = Schedule::fair;
    uint64_t seed = 0;
    uint32_t checks = 0;    // bits of Check
    bool counters = false;  // also what costs time: bank conflicts, sectors
    int sm_count = 4;  // how many clusters may be resident at once when CTAs wait for each other
    double hang_seconds = 20;    // all warps only spin for so long: reported as a deadlock
    bool fp32_fp8_sums = false;  // products of 8-bit floats are summed in fp32 everywhere
};

enum Check : uint32_t {
    kCheckBounds = 1,
    kCheckInit = 2,
    kCheckRaces = 4,
    kCheckBarriers = 8,
    kCheckAligned = 16,
    kCheckAsync = 32,
    kCheckTmem = 64,
    kCheckAll = 127
};

// ---- blocking
// -------------------------------------------------------------------------------------------------------

// Why a group of lanes cannot go on. `ready` is polled; once it answers true (it is not called
// again then) the instruction is executed again, or, with `again` false, the group goes on behind
// it.
struct Wait {
    bool (*ready)(Warp&, const Wait&) = nullptr;
    const char* what = "";  // "mbarrier phase", for reports
    uint64_t a = 0, b = 0;  // for ready() and for the report
    bool again = true;
    uint32_t lanes = 0;                                     // of the group, set by block()
    uint32_t pc = 0;                                        // of the instruction, set by block()
    std::string (*describe)(Warp&, const Wait&) = nullptr;  // instead of `what`
};

// What a call left behind: where to go on, and in a recursive program the caller's registers and
// frames.
struct SavedFrame {
    std::vector<uint32_t> registers, predicates;
    std::vector<uint8_t> frame;
    std::vector<std::pair<uint32_t, uint32_t>> results;  // (offset, bytes) that the callee leaves
};
struct Return {
    uint32_t pc = 0;
    std::shared_ptr<const SavedFrame> saved;
    bool operator==(const Return&) const = default;
};

// Lanes of a warp at one pc.
struct Group {
    uint32_t mask = 0, pc = 0;
    uint32_t penalty = 0;  // how often it was set back because it spun
    bool synced = false;   // passes its bar.warp.sync
    bool forced = false;   // runs a .sync instruction without the lanes that can never come
    std::vector<Return> stack;
    Wait wait;  // wait.ready != nullptr: blocked
};

// ---- asynchronous work
// ----------------------------------------------------------------------------------------------

enum class AsyncKind : uint8_t { cp_async, bulk, wgmma, tcgen05, other };

// Work in flight of an asynchronous unit. complete() really reads the source and writes the
// destination, then signals (mbarrier, group counters). It runs on the host thread of its cluster.
struct AsyncOp {
    AsyncKind kind = AsyncKind::other;
    Warp* issuer = nullptr;
    uint32_t pc = 0;  // of the issuing instruction
    uint32_t lane_mask = 0;
    uint64_t sequence = 0;  // order of issue in the cluster, set by submit
    uint64_t due = 0;       // scheduler turn at which schedule 'fair' completes it, set by submit
    bool done = false;
    virtual ~AsyncOp() = default;
    virtual void complete(Cluster&) = 0;
    virtual bool may_complete(const Cluster&) const {
        return true;
    }  // in-order units answer false until it is their turn
    virtual std::string describe() const { return "asynchronous operation"; }
};

class AsyncQueue {
  public:
    // Schedule 'early' completes it inside submit (when may_complete). Else it stays until due,
    // waited for, or nothing else runs.
    void submit(Cluster&, std::shared_ptr<AsyncOp> op);
    void turn(Cluster&);  // once per scheduler turn
    void finish(Cluster&,
                AsyncOp& op);    // now, because somebody waits for it (in-order predecessors first)
    bool finish_some(Cluster&);  // nobody can run: complete one op (late, random: the adversary's
                                 // choice); false if none can
    bool empty() const { return pending_.empty(); }
    const std::deque<std::shared_ptr<AsyncOp>>& pending() const { return pending_; }

  private:
    void run(Cluster&, std::shared_ptr<AsyncOp> op);
    std::deque<std::shared_ptr<AsyncOp>> pending_;
    uint64_t sequence_ = 0, turns_ = 0;
};

// State that a family keeps on a warp, CTA or cluster, made on first use.
enum Slot : uint32_t {
    kSlotMbarrier,
    kSlotCpAsync,
    kSlotBulk,
    kSlotWgmma,
    kSlotTcgen05,
    kSlotTmem,
    kSlotCheck,
    kSlotOther,
    kSlots
};
class Slots {
  public:
    template <class T>
    T& get(Slot slot) {
        if (!data_[slot]) {
            data_[slot] = std::make_shared<T>();
        }
        return *static_cast<T*>(data_[slot].get());
    }
    bool has(Slot slot) const { return data_[slot] != nullptr; }

  private:
    std::array<std::shared_ptr<void>, kSlots> data_;
};

// ---- the machine
// ----------------------------------------------------------------------------------------------------

struct Warp {
    enum class State : uint8_t { runnable, yielded, blocked, done };

    // Hot state of the group that runs.
    const Instr* code = nullptr;
    uint32_t* bank[4] = {};  // registers, constants, special registers, unused
    uint32_t* preds = nullptr;
    uint32_t pc = 0;      // of the next instruction while a handler runs
    uint32_t mask = 0;    // lanes of the running group
    uint32_t meet = ~0u;  // pc at which another group waits
    bool event = false;   // leave the inner loop: blocked, exited, diverged, yielded
    uint32_t checks = 0;  // bits of Check
    bool watching =
        false;  // a wgmma in flight uses registers: observe_registers before each instruction
    bool counting = false;  // costly counters wanted
    Counters* counters = nullptr;
    struct Executed* executed = nullptr;  // by pc, of the host thread

    Cta* cta = nullptr;
    Cluster* cluster = nullptr;
    Launch* launch = nullptr;
    uint32_t index = 0;    // in the CTA
    uint32_t live = 0;     // lanes that have not exited
    uint32_t agent = 0;    // of the race detector
    bool yielded = false;  // run() returns because of a suspected spin
    bool hint = false;     // the last instructions looked like a spin: let others run
    uint32_t carry = 0;    // CC.CF, a bit per lane
    uint32_t budget_given = 0, budget_left = 0;
    uint32_t since_switch = 0;  // taken backward branches since another group could run
    State state = State::runnable;
    uint64_t instructions = 0;
    uint32_t max_registers = 0;  // setmaxnreg
    Group current;               // stack and wait of the running group; its mask and pc are above
    std::vector<Group> others;
    std::vector<uint8_t> local;  // [lane][local_total]
    std::vector<uint8_t> frame;  // [lane][frame_bytes]
    std::vector<uint32_t> registers_storage, preds_storage, special_storage;
    Slots slots;

    template <class T>
    T* at(Ref ref) {
        return reinterpret_cast<T*>(bank[ref >> 30] + (ref & 0x3fffffff));
    }
    uint32_t* u32(Ref ref) { return at<uint32_t>(ref); }
    uint64_t* u64(Ref ref) { return at<uint64_t>(ref); }
    float* f32(Ref ref) { return at<float>(ref); }
    double* f64(Ref ref) { return at<double>(ref); }
    uint32_t pred(PredRef ref) const { return preds[ref >> 1] ^ -(uint32_t(ref) & 1); }
    void set_pred(PredRef ref, uint32_t value, uint32_t active) {
        uint32_t& p = preds[ref >> 1];
        p = (p & ~active) | (value & active);
    }

    uint32_t here() const { return pc - 1; }  // pc of the running instruction, inside a handler

    // The running group waits and executes the instruction again once ready() is true.
    void block(Wait wait);
    // True when every live lane of `members` is in `active`; else blocks until they arrive (or
    // faults when they cannot).
    bool converge(const Instr&, uint32_t active, uint32_t members);
    void yield() { event = true; }
    uint64_t instructions_now() const { return instructions + (budget_given - budget_left); }
    // Branches of the running group; `taken` lanes go to `to`, the rest goes on.
    void branch(uint32_t taken, uint32_t to);
    void exit_lanes(uint32_t lanes);
    State run(
        uint32_t budget);  // until blocked, done, a spin is suspected or the budget is used up
    bool poll();           // blocked: can a group run again?
    bool regroup();        // chooses the group that runs; false when all wait or have exited
    [[noreturn]] void fail(int error, const std::string& text,
                           int lane = -1);  // throws Fault with the position
    std::string where(uint32_t pc, int lane)
        const;  // "kernel k, block (1,0,0), thread (3,0,0), PTX line 44: ..., a.cu:12"
};

// How often an instruction was executed.
struct Executed {
    uint64_t threads = 0, warps = 0;
};

struct NamedBarrier {
    uint32_t expected = 0;  // threads; 0 = no arrival yet
    uint32_t arrived = 0;   // threads
    uint64_t generation = 0;
    uint32_t popc = 0;
    bool everybody = false;  // no count was given: all warps that have not exited
    bool all = true, any = false;
    uint32_t result_popc = 0;
    bool result_all = false, result_any = false;
    std::vector<std::pair<uint32_t, uint32_t>>
        parties;  // warp index, lane mask: who arrived in this generation
};

struct Cta {
    Launch* launch = nullptr;
    Cluster* cluster = nullptr;
    Dim3 id;                      // %ctaid
    uint32_t rank = 0;            // %cluster_ctarank
    uint32_t shared_base = 0;     // rank << kRankShift
    std::vector<uint8_t> shared;  // index = offset, kReservedShared bytes first
    std::vector<std::unique_ptr<Warp>> warps;
    std::array<NamedBarrier, kBarriers> barriers;
    uint32_t live_warps = 0, live_threads = 0;
    Slots slots;
};

struct Cluster {
    Launch* launch = nullptr;
    uint64_t index = 0;  // in the grid
    Dim3 id;             // %clusterid
    std::vector<std::unique_ptr<Cta>> ctas;
    AsyncQueue async;
    std::minstd_rand rng;
    uint64_t turn = 0;
    uint32_t next_warp = 0;
    uint64_t barrier_generation = 0;  // barrier.cluster
    uint32_t barrier_arrived = 0;     // threads
    Slots slots;

    // The CTA a 32-bit shared address points into; nullptr when there is none of this rank.
    Cta* cta_of(uint32_t shared_address);
    // Host address of [address, address + bytes) in shared memory; faults through `warp` when
    // outside.
    uint8_t* shared(Warp& warp, uint32_t shared_address, uint64_t bytes, int lane = -1);
};

struct LaunchRequest {
    std::shared_ptr<Image> image;
    std::string function;
    Dim3 grid, block, cluster;
    uint64_t dynamic_shared = 0;
    std::vector<uint8_t> arguments;  // laid out as kernel_parameters() says
    bool cooperative = false;
    uint64_t grid_workspace =
        0;  // %envreg1 (high) and %envreg2: {u32 bytes, u32 barrier} for grid-wide barriers
    Options options;
    std::function<void(const std::string&)> print;  // vprintf output; stdout when empty
};

struct LaunchResult {
    int error = 0;       // cudaError_t
    std::string report;  // text of the fault
    double seconds = 0;
    uint64_t instructions = 0, thread_instructions = 0;
    std::shared_ptr<Counters> counters;
};

// What is common to a launch; immutable but for what says so.
struct Launch {
    const LaunchRequest* request = nullptr;
    std::shared_ptr<const Program> program;
    Options options;
    Dim3 grid, block, cluster, cluster_grid;
    uint32_t threads_per_cta = 0, warps_per_cta = 0,
             shared_bytes = 0;       // shared_bytes: kReservedShared included
    std::vector<uint8_t> arguments;  // 64-byte aligned start, address taken by cvta.param
    uint8_t* argument_base = nullptr;
    std::mutex print_mutex;
    void* checks = nullptr;  // check/ keeps its per-launch state here
};

namespace exec {
// Parses and places a module; `place(variable, address_out)` gives memory for each .global/.const
// variable (zeroed by us). Throws Fault.
using Place = std::function<void*(const ptx::Variable&)>;
std::shared_ptr<Image> load(std::string ptx_text, int arch, const Place& place);
std::vector<KernelParameter> kernel_parameters(const Image&, const std::string& function);
struct FunctionFacts {
    uint32_t static_shared, local_bytes, registers, max_threads, const_bytes;
    Dim3 required_cluster;
    bool has_required_cluster;
};
FunctionFacts facts(Image&, const std::string& function);
// Registers a thread gets at launch. PTX does not tell what ptxas allocates: the most that the
// launch bounds leave room for (ptxas takes all of it where setmaxnreg is used), 32 without bounds.
uint32_t launch_registers(const ptx::Function& kernel);
LaunchResult launch(const LaunchRequest&);  // never throws
}  // namespace exec
}  // namespace emu
