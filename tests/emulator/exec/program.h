// SPDX-License-Identifier: BSD-3-Clause
// Linking of a kernel with the functions that it calls.
#pragma once
#include <map>
#include <set>
#include <unordered_map>

#include "exec/decode.h"

namespace emu {

// Where a function's names lie.
struct FunctionLink {
    uint32_t index = 0;                    // in Module::functions
    std::vector<uint32_t> register_words;  // by register: word offset in bank 0, or predicate index
    std::unordered_map<std::string, uint32_t>
        frame_offsets;  // .param variables, results, parameters
    std::unordered_map<std::string, uint32_t> local_offsets;
    std::unordered_map<std::string, uint32_t> shared_offsets;
    std::set<std::pair<int, int64_t>> swapped;  // addresses of atom.cas, as origin() states them
    std::map<int, std::pair<int, int64_t>>
        derived;  // registers that are another one plus a constant
    // (register, offset) that [base + offset] of a PTX address amounts to.
    std::pair<int, int64_t> origin(int base, int64_t offset) const;
    std::vector<uint32_t> statement_pcs;
    std::vector<Instr> before, after;  // emit_before and emit_after of the statement at hand
};

// Everything that is known only while a kernel is linked.
struct Linker {
    const Image& image;
    Program& program;
    std::vector<std::unique_ptr<FunctionLink>> links;  // by Module::functions index
    std::vector<uint32_t> order;                       // functions to link, the entry first
    std::unordered_map<std::string, uint32_t> module_shared;
    std::vector<std::pair<std::vector<uint32_t>*, FunctionLink*>>
        branch_tables;  // of statement indices, until patched
    std::map<uint32_t, uint32_t> constants32;
    std::map<uint64_t, uint32_t> constants64;

    Linker(const Image& i, Program& p) : image(i), program(p) {}
    void link(const ptx::Function& entry);
    uint32_t require(const std::string& function);  // queues it; index

  private:
    void lay_out(const ptx::Function& f);
    void lay_out_shared();
    static void find_swapped(const ptx::Function& f, FunctionLink& link);
    bool recursive() const;
    void code(const ptx::Function& f);
    void patch();
    struct Fixup {
        uint32_t pc, statement;
        FunctionLink* link;
    };
    std::vector<Fixup> fixups_;
};

// Activations whose local variables a recursive program may hold at once.
constexpr uint32_t kMaxRecursion = 256;

// Special registers of bank 2.
struct SpecialRegister {
    const char* name;
    uint32_t word;
    bool wide;
};
const SpecialRegister* special_register(std::string_view name);
enum SpecialWord : uint32_t {
    kSpecTidX = 0,
    kSpecTidY = 32,
    kSpecTidZ = 64,
    kSpecNtidX = 96,
    kSpecNtidY = 128,
    kSpecNtidZ = 160,
    kSpecLane = 192,
    kSpecWarp = 224,
    kSpecNwarp = 256,
    kSpecCtaX = 288,
    kSpecCtaY = 320,
    kSpecCtaZ = 352,
    kSpecNctaX = 384,
    kSpecNctaY = 416,
    kSpecNctaZ = 448,
    kSpecSm = 480,
    kSpecNsm = 512,
    kSpecGrid = 544 /* wide */,
    kSpecClusterX = 608,
    kSpecClusterY = 640,
    kSpecClusterZ = 672,
    kSpecNclusterX = 704,
    kSpecNclusterY = 736,
    kSpecNclusterZ = 768,
    kSpecClusterCtaX = 800,
    kSpecClusterCtaY = 832,
    kSpecClusterCtaZ = 864,
    kSpecClusterNctaX = 896,
    kSpecClusterNctaY = 928,
    kSpecClusterNctaZ = 960,
    kSpecClusterRank = 992,
    kSpecClusterSize = 1024,
    kSpecLaneEq = 1056,
    kSpecLaneLe = 1088,
    kSpecLaneLt = 1120,
    kSpecLaneGe = 1152,
    kSpecLaneGt = 1184,
    kSpecDynamicShared = 1216,
    kSpecTotalShared = 1248,
    kSpecZero = 1280,
    kSpecWarpSize = 1312,
    kSpecReservedShared = 1344,
    kSpecSharedBase = 1376,
    kSpecParamBase = 1408 /* wide */,
    kSpecSharedBase64 = 1472 /* wide */,
    kSpecGraph = 1536 /* wide */,
    kSpecExplicitCluster = 1600,
    kSpecWorkspaceHigh = 1632,
    kSpecWorkspaceLow = 1664,
    kSpecLocalBase = 1696,
    kSpecLocalBase64 = 1728 /* wide */,
    kSpecWords = 1792
};

// Assigns words to a function's registers, sharing words between registers that are never live
// together. Returns the number of words used from `base` on.
uint32_t allocate_registers(const ptx::Function& f, uint32_t base, std::vector<uint32_t>& words,
                            uint32_t& predicates);

}  // namespace emu
