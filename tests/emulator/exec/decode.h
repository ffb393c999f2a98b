// SPDX-License-Identifier: BSD-3-Clause
// From ptx::Statement to Instr. Each family registers a decoder for a base opcode (the text before
// the first '.').
#pragma once
#include <string>

#include "exec/machine.h"

namespace emu {

// What a decoder may ask for. References are resolved: register, immediate (broadcast constant) or
// special register.
class DecodeContext {
  public:
    const ptx::Module& module;
    const ptx::Function& function;
    const ptx::Statement* statement = nullptr;
    int arch;
    Class kind = Class::other;  // the decoder sets the counter class

    // Value operand of `type`'s width: registers, immediates (also 0f/0d floats), special
    // registers, symbols' addresses. A 64-bit register read as <= 32 bits, or the other way round,
    // is a fault: use width_of() where PTX allows it.
    Ref source(const ptx::Operand&, ptx::Type type);
    Ref target(const ptx::Operand&, ptx::Type type);  // register or sink (kNoRef)
    PredRef predicate(const ptx::Operand&);           // register (negation kept), or immediate 0/1
    PredRef predicate_target(const ptx::Operand&);    // register or sink
    int width_of(
        const ptx::Operand&) const;  // bytes of the register's type (2, 4, 8, 16), 0 otherwise
    bool is_integer(const ptx::Operand&) const;
    int64_t integer(const ptx::Operand&);  // immediate; fault otherwise
    Ref constant32(uint32_t value);        // broadcast
    Ref constant64(uint64_t value);

    // Instructions to execute before the decoded one (address of a shared symbol, widening of an
    // operand).
    void emit_before(const Instr& instr);
    void emit_after(const Instr& instr);  // runs for the lanes of the instruction
    Ref scratch(int bytes);               // a register nobody else uses

    // An address operand [base + offset]: base as a 64-bit (or 32-bit for shared) reference, offset
    // folded when the base is a symbol or integer. wide: the base is uint64_t[32].
    struct Address {
        Ref base = kNoRef;
        bool wide = true;
        int64_t offset = 0;
    };
    Address address(const ptx::Operand&, ptx::Space space);

    // Data of any type that lives as long as the Program.
    template <class T>
    T* own(T value) {
        auto p = std::make_shared<T>(std::move(value));
        program_.owned.push_back(p);
        return p.get();
    }

    size_t operands() const { return statement->operands.size(); }
    const ptx::Operand& operand(size_t i);                  // fault when missing
    [[noreturn]] void fail(const std::string& text) const;  // names PTX line and statement
    [[noreturn]] void unknown(std::string_view modifier) const;

    DecodeContext(const Image& image, Program& program, const ptx::Function& f,
                  struct Linker& linker, struct FunctionLink& link);
    bool shared_symbol(const std::string& name,
                       uint32_t& offset) const;        // offset in the CTA's window
    bool is_parameter(const std::string& name) const;  // of this function
    Program& program() { return program_; }
    struct FunctionLink& link() { return link_; }
    struct Linker& linker() { return linker_; }
    const Image& image() const { return image_; }

  private:
    const Image& image_;
    Program& program_;
    struct Linker& linker_;
    struct FunctionLink& link_;
    Ref symbol_address(const ptx::Operand&, bool wide);
};

using DecodeFn = Instr (*)(const ptx::Statement&, DecodeContext&);

// At namespace scope: static const RegisterFamily mma("mma", decode_mma);
struct RegisterFamily {
    RegisterFamily(const char* base_opcode, DecodeFn decode);
};

// The families' files are linked from an archive-free build (objects), so static registration is
// kept.
DecodeFn family(std::string_view base_opcode);  // nullptr when unknown

}  // namespace emu
