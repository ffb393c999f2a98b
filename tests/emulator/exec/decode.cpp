// SPDX-License-Identifier: BSD-3-Clause
#include "exec/decode.h"

#include <bit>
#include <cstring>
#include <limits>

#include "exec/program.h"
#include "units/numeric.h"

namespace emu {

using ptx::Operand;
using ptx::Type;

namespace {
std::unordered_map<std::string_view, DecodeFn>& families() {
    static std::unordered_map<std::string_view, DecodeFn> table;
    return table;
}

void add_base32(Warp& w, const Instr& i, uint32_t) {
    uint32_t* d = w.u32(i.r[0]);
    const uint32_t* a = w.u32(i.r[1]);
    for (int l = 0; l < kLanes; ++l) {
        d[l] = a[l] + static_cast<uint32_t>(i.imm);
    }
}

void add_base64(Warp& w, const Instr& i, uint32_t) {
    uint64_t* d = w.u64(i.r[0]);
    const uint64_t* a = w.u64(i.r[1]);
    for (int l = 0; l < kLanes; ++l) {
        d[l] = a[l] + static_cast<uint64_t>(i.imm);
    }
}

}  // namespace

RegisterFamily::RegisterFamily(const char* base_opcode, DecodeFn decode) {
    families()[base_opcode] = decode;
}

DecodeFn family(std::string_view base_opcode) {
    auto it = families().find(base_opcode);
    return it == families().end() ? nullptr : it->second;
}

DecodeContext::DecodeContext(const Image& image, Program& program, const ptx::Function& f,
                             Linker& linker, FunctionLink& link)
    : module(*image.module),
      function(f),
      arch(image.arch),
      image_(image),
      program_(program),
      linker_(linker),
      link_(link) {}

void DecodeContext::fail(const std::string& text) const {
    throw Fault(fault::kInvalidPtx, "PTX line " + std::to_string(statement->line) + ": " + text +
                                        " in \"" + std::string(module.text_line(statement->line)) +
                                        "\" of " + function.name);
}

void DecodeContext::unknown(std::string_view modifier) const {
    fail("unknown or unsupported modifier ." + std::string(modifier) + " of " +
         std::string(statement->opcode));
}

const Operand& DecodeContext::operand(size_t i) {
    if (i >= statement->operands.size()) {
        fail("operand " + std::to_string(i) + " is missing");
    }
    return statement->operands[i];
}

Ref DecodeContext::constant32(uint32_t value) {
    auto [it, fresh] =
        linker_.constants32.try_emplace(value, static_cast<uint32_t>(program_.constants.size()));
    if (fresh) {
        program_.constants.insert(program_.constants.end(), kLanes, value);
    }
    return make_ref(kBankConstants, it->second);
}

Ref DecodeContext::constant64(uint64_t value) {
    auto [it, fresh] =
        linker_.constants64.try_emplace(value, static_cast<uint32_t>(program_.constants.size()));
    if (fresh) {
        for (int l = 0; l < kLanes; ++l) {
            program_.constants.push_back(static_cast<uint32_t>(value));
            program_.constants.push_back(static_cast<uint32_t>(value >> 32));
        }
    }
    return make_ref(kBankConstants, it->second);
}

Ref DecodeContext::scratch(int bytes) {
    const uint32_t at = program_.register_words;
    program_.register_words += bytes > 8 ? 4 * kLanes : bytes > 4 ? 2 * kLanes : kLanes;
    return make_ref(kBankRegisters, at);
}

void DecodeContext::emit_before(const Instr& instr) {
    link_.before.push_back(instr);
}

void DecodeContext::emit_after(const Instr& instr) {
    link_.after.push_back(instr);
}

int DecodeContext::width_of(const Operand& o) const {
    if (o.kind != Operand::Kind::reg) {
        return 0;
    }
    return ptx::bytes_of(function.registers[static_cast<size_t>(o.reg)].type);
}

bool DecodeContext::is_integer(const Operand& o) const {
    return o.kind == Operand::Kind::integer;
}

int64_t DecodeContext::integer(const Operand& o) {
    if (o.kind == Operand::Kind::special && o.name == "WARP_SZ") {
        return kLanes;
    }
    if (o.kind != Operand::Kind::integer) {
        fail("an integer constant is expected");
    }
    return o.value;
}

Ref DecodeContext::source(const Operand& o, Type type) {
    const int bytes = ptx::bytes_of(type);
    const bool wide = bytes == 8;
    switch (o.kind) {
        case Operand::Kind::reg: {
            const Type declared = function.registers[static_cast<size_t>(o.reg)].type;
            if (declared == Type::pred) {
                fail("predicate " + o.name + " used as a value");
            }
            const int have = ptx::bytes_of(declared);
            if ((have > 4 || bytes > 4) && have != bytes) {
                fail("register " + o.name + " has " + std::to_string(have) + " bytes, " +
                     std::to_string(bytes) + " are expected");
            }
            return make_ref(kBankRegisters, link_.register_words[static_cast<size_t>(o.reg)]);
        }
        case Operand::Kind::integer: {
            if (type == Type::f32 || type == Type::f64 || type == Type::f32x2) {
                // An integer literal in a float instruction is taken as its bits only by .b types.
                if (type == Type::f32) {
                    return constant32(std::bit_cast<uint32_t>(static_cast<float>(o.value)));
                }
                if (type == Type::f64) {
                    return constant64(std::bit_cast<uint64_t>(static_cast<double>(o.value)));
                }
            }
            if (wide) {
                return constant64(static_cast<uint64_t>(o.value));
            }
            const uint32_t mask = bytes == 1 ? 0xff : bytes == 2 ? 0xffff : 0xffffffff;
            return constant32(static_cast<uint32_t>(o.value) & mask);
        }
        case Operand::Kind::f32: {
            const auto bits = static_cast<uint32_t>(o.value);
            if (wide) {
                return constant64(
                    std::bit_cast<uint64_t>(static_cast<double>(std::bit_cast<float>(bits))));
            }
            if (type == Type::f16 || type == Type::bf16) {
                return constant32(type == Type::f16 ? num::f32_to_f16(std::bit_cast<float>(bits))
                                                    : num::f32_to_bf16(std::bit_cast<float>(bits)));
            }
            return constant32(bits);
        }
        case Operand::Kind::f64: {
            const auto bits = static_cast<uint64_t>(o.value);
            if (wide) {
                return constant64(bits);
            }
            const auto value = static_cast<float>(std::bit_cast<double>(bits));
            if (type == Type::f16 || type == Type::bf16) {
                return constant32(type == Type::f16 ? num::f32_to_f16(value)
                                                    : num::f32_to_bf16(value));
            }
            return constant32(std::bit_cast<uint32_t>(value));
        }
        case Operand::Kind::special: {
            const SpecialRegister* s = special_register(o.name);
            if (!s) {
                fail("special register " + o.name + " is unknown or only readable by mov");
            }
            if (s->wide != wide) {
                if (s->wide) {
                    fail("special register " + o.name + " has 64 bits");
                }
                fail("special register " + o.name + " has 32 bits");
            }
            return make_ref(kBankSpecial, s->word);
        }
        case Operand::Kind::symbol:
            return symbol_address(o, wide);
        default:
            fail("a register or constant is expected");
    }
}

Ref DecodeContext::symbol_address(const Operand& o, bool wide) {
    auto relative = [&](uint32_t base32, uint32_t base64, int64_t offset) {
        Instr add;
        add.run = wide ? add_base64 : add_base32;
        add.r[0] = scratch(wide ? 8 : 4);
        add.r[1] = make_ref(kBankSpecial, wide ? base64 : base32);
        add.imm = offset;
        emit_before(add);
        return add.r[0];
    };
    if (auto it = link_.local_offsets.find(o.name); it != link_.local_offsets.end()) {
        if (program_.recursive) {
            return relative(kSpecLocalBase, kSpecLocalBase64, it->second + o.value);
        }
        const uint64_t at = it->second + static_cast<uint64_t>(o.value);
        return wide ? constant64(at) : constant32(static_cast<uint32_t>(at));
    }
    uint32_t shared = 0;
    if (shared_symbol(o.name, shared)) {
        return relative(kSpecSharedBase, kSpecSharedBase64, shared + o.value);
    }
    if (auto it = link_.frame_offsets.find(o.name); it != link_.frame_offsets.end()) {
        if (!function.is_entry || !is_parameter(o.name)) {
            fail("the address of parameter " + o.name + " of a device function is taken");
        }
        if (!wide) {
            fail("the address of a kernel parameter needs 64 bits");
        }
        return relative(kSpecParamBase, kSpecParamBase, it->second + o.value);
    }
    if (auto it = image_.symbols.find(o.name); it != image_.symbols.end()) {
        const uint64_t at = it->second.address + static_cast<uint64_t>(o.value);
        return wide ? constant64(at) : constant32(static_cast<uint32_t>(at));
    }
    if (auto it = module.function_index.find(o.name); it != module.function_index.end() && wide) {
        linker_.require(o.name);
        return constant64(kFunctionWindow | it->second);
    }
    fail("unknown name " + o.name);
}

bool DecodeContext::is_parameter(const std::string& name) const {
    for (const ptx::Variable& v : function.params) {
        if (v.name == name) {
            return true;
        }
    }
    return false;
}

bool DecodeContext::shared_symbol(const std::string& name, uint32_t& offset) const {
    if (auto it = link_.shared_offsets.find(name); it != link_.shared_offsets.end()) {
        offset = it->second;
        return true;
    }
    if (auto it = linker_.module_shared.find(name); it != linker_.module_shared.end()) {
        offset = it->second;
        return true;
    }
    return false;
}

Ref DecodeContext::target(const Operand& o, Type type) {
    if (o.kind == Operand::Kind::sink) {
        return scratch(ptx::bytes_of(type));
    }
    if (o.kind != Operand::Kind::reg) {
        fail("a destination register is expected");
    }
    return source(o, type);
}

PredRef DecodeContext::predicate(const Operand& o) {
    if (o.kind == Operand::Kind::integer) {
        return static_cast<PredRef>((o.value != 0) == !o.negated ? kAlways : kAlways | 1);
    }
    if (o.kind == Operand::Kind::special && o.name == "%is_explicit_cluster") {
        fail("%is_explicit_cluster is only readable by mov");
    }
    if (o.kind != Operand::Kind::reg ||
        function.registers[static_cast<size_t>(o.reg)].type != Type::pred) {
        fail("a predicate is expected");
    }
    return static_cast<PredRef>(link_.register_words[static_cast<size_t>(o.reg)] << 1 | o.negated);
}

PredRef DecodeContext::predicate_target(const Operand& o) {
    if (o.kind == Operand::Kind::sink) {
        return kPredSink;
    }
    return predicate(o);
}

DecodeContext::Address DecodeContext::address(const Operand& o, ptx::Space space) {
    if (o.kind != Operand::Kind::address) {
        fail("an address in brackets is expected");
    }
    Address a;
    a.offset = o.value;
    const Operand& base = o.items[0];
    if (base.kind == Operand::Kind::integer) {
        a.offset += base.value;
        a.base = constant64(0);
        return a;
    }
    if (base.kind == Operand::Kind::symbol) {
        uint32_t shared = 0;
        if (space == ptx::Space::shared && shared_symbol(base.name, shared)) {
            a.base = make_ref(kBankSpecial, kSpecSharedBase64);
            a.offset += shared;
            return a;
        }
        a.base = symbol_address(base, true);
        return a;
    }
    if (base.kind != Operand::Kind::reg) {
        fail("the base of an address must be a register, a name or an integer");
    }
    a.wide = width_of(base) == 8;
    a.base = source(base, a.wide ? Type::b64 : Type::b32);
    return a;
}

}  // namespace emu
