// SPDX-License-Identifier: BSD-3-Clause
// What a PTX text means before anything is decided about its execution.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace emu::ptx {

enum class Type : uint8_t {
    none,
    pred,
    b8,
    b16,
    b32,
    b64,
    b128,
    u8,
    u16,
    u32,
    u64,
    s8,
    s16,
    s32,
    s64,
    f16,
    f16x2,
    bf16,
    bf16x2,
    tf32,
    f32,
    f32x2,
    f64,
    e4m3,
    e5m2,
    e4m3x2,
    e5m2x2,
    texref,
    samplerref,
    surfref,
};
Type type_named(std::string_view name);  // "u32" -> Type::u32, Type::none when it is no type
int bytes_of(Type type);                 // pred and none have 0
bool is_signed(Type type);
bool is_float(Type type);

enum class Space : uint8_t { none, reg, global, constant, shared, local, param };

struct Register {
    std::string name;  // "%r12"; names of inner scopes may repeat
    Type type = Type::b32;
};

struct Operand {
    enum class Kind : uint8_t {
        none,
        reg,      // reg: index into Function::registers
        special,  // name: "%tid.x", "%laneid", "WARP_SZ" ...
        integer,  // value
        f32,      // value: the 32 bits
        f64,      // value: the 64 bits
        symbol,   // name: variable or function; value: byte offset
        label,    // name; value: index of the statement it stands before
        address,  // items[0]: reg, symbol or integer base; value: byte offset; items[1]: coordinate
                  // vector of a tensor address
        vector,   // items: {a, b, ...}
        list,     // items: (a, b, ...), of call
        pair,     // items: d|p
        sink,     // _
    };
    Kind kind = Kind::none;
    bool negated = false;  // !p; for an integer register operand "-r" does not occur
    int reg = -1;
    int64_t value = 0;
    std::string name;
    std::vector<Operand> items;
};

struct Location {
    uint32_t file = 0, line = 0;  // file: index into Module::files, 0 = unknown
};

struct Statement {
    uint32_t line = 0;                    // of the PTX text, from 1
    Location source;                      // innermost .loc
    Location inlined_at;                  // where that function was inlined, file 0 when it was not
    std::string_view opcode;              // "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
    std::vector<std::string_view> parts;  // the opcode split at '.', and "a::b" kept whole
    Operand guard;                        // kind none, or reg (negated for @!p)
    std::vector<Operand> operands;

    bool has(std::string_view modifier) const {
        for (size_t i = 1; i < parts.size(); ++i) {
            if (parts[i] == modifier) {
                return true;
            }
        }
        return false;
    }
};

struct Relocation {  // the initialiser holds the address of `symbol` + addend at `offset`
    uint64_t offset;
    std::string symbol;
    int64_t addend;
    int bytes;
    bool generic;
};

struct Variable {
    std::string name;  // unique within the function for scoped ones ("name@2")
    Space space = Space::none;
    Type type = Type::b8;
    uint64_t align = 1;
    uint64_t bytes = 0;  // 0 for an array of unknown length (extern __shared__)
    bool is_extern = false, is_visible = false, is_weak = false, is_managed = false;
    std::vector<uint8_t> init;  // empty: zero
    std::vector<Relocation> relocations;
    uint32_t line = 0;
};

struct Function {
    std::string name;
    bool is_entry = false, is_extern = false, noreturn = false;
    uint32_t line = 0;
    std::vector<Variable> results,
        params;  // offset of a parameter: sum of the aligned sizes before it
    std::vector<Register> registers;
    std::vector<Variable> variables;  // .local, .shared, .param declared in the body
    std::vector<Statement> statements;
    std::unordered_map<std::string, uint32_t> labels;                      // of outermost scope
    std::unordered_map<std::string, std::vector<Operand>> branch_targets;  // .branchtargets
    uint32_t max_threads[3] = {0, 0, 0}, required_threads[3] = {0, 0, 0};
    uint32_t required_cluster[3] = {0, 0, 0};
    bool explicit_cluster = false;
    uint32_t max_registers = 0, min_ctas = 0, max_cluster_rank = 0;
};

struct Module {
    std::string text;                // all string_views point into it
    std::string version, target;     // "9.0", "sm_90a"
    std::vector<std::string> files;  // [0] is empty
    std::vector<Variable> globals;   // .global, .const, .shared of module scope
    std::vector<Function> functions;
    std::unordered_map<std::string, uint32_t> function_index, global_index;

    const Function* function(const std::string& name) const;
    const Variable* global(const std::string& name) const;
    std::string_view text_line(uint32_t line) const;
};

// Throws Fault{218} naming the line on anything that it does not understand.
std::shared_ptr<const Module> parse(std::string text);

}  // namespace emu::ptx
