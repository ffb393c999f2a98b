// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <utility>

#include "ptx/module.h"

namespace emu::ptx {

namespace {
struct TypeRow {
    std::string_view name;
    Type type;
    int bytes;
};
constexpr TypeRow kTypes[] = {
    {"pred", Type::pred, 0},       {"b8", Type::b8, 1},
    {"b16", Type::b16, 2},         {"b32", Type::b32, 4},
    {"b64", Type::b64, 8},         {"b128", Type::b128, 16},
    {"u8", Type::u8, 1},           {"u16", Type::u16, 2},
    {"u32", Type::u32, 4},         {"u64", Type::u64, 8},
    {"s8", Type::s8, 1},           {"s16", Type::s16, 2},
    {"s32", Type::s32, 4},         {"s64", Type::s64, 8},
    {"f16", Type::f16, 2},         {"f16x2", Type::f16x2, 4},
    {"bf16", Type::bf16, 2},       {"bf16x2", Type::bf16x2, 4},
    {"tf32", Type::tf32, 4},       {"f32", Type::f32, 4},
    {"f32x2", Type::f32x2, 8},     {"f64", Type::f64, 8},
    {"e4m3", Type::e4m3, 1},       {"e5m2", Type::e5m2, 1},
    {"e4m3x2", Type::e4m3x2, 2},   {"e5m2x2", Type::e5m2x2, 2},
    {"texref", Type::texref, 8},   {"samplerref", Type::samplerref, 8},
    {"surfref", Type::surfref, 8},
};
}  // namespace

Type type_named(std::string_view name) {
    for (const TypeRow& row : kTypes) {
        if (row.name == name) {
            return row.type;
        }
    }
    return Type::none;
}

int bytes_of(Type type) {
    for (const TypeRow& row : kTypes) {
        if (row.type == type) {
            return row.bytes;
        }
    }
    return 0;
}

bool is_signed(Type type) {
    return type == Type::s8 || type == Type::s16 || type == Type::s32 || type == Type::s64;
}

bool is_float(Type type) {
    switch (type) {
        case Type::f16:
        case Type::f16x2:
        case Type::bf16:
        case Type::bf16x2:
        case Type::tf32:
        case Type::f32:
        case Type::f32x2:
        case Type::f64:
        case Type::e4m3:
        case Type::e5m2:
        case Type::e4m3x2:
        case Type::e5m2x2:
            return true;
        default:
            return false;
    }
}

const Function* Module::function(const std::string& name) const {
    auto it = function_index.find(name);
    return it == function_index.end() ? nullptr : &functions[it->second];
}

const Variable* Module::global(const std::string& name) const {
    auto it = global_index.find(name);
    return it == global_index.end() ? nullptr : &globals[it->second];
}

std::string_view Module::text_line(uint32_t line) const {
    size_t at = 0;
    for (uint32_t i = 1; i < line && at < text.size(); ++i) {
        const size_t next = text.find('\n', at);
        if (next == std::string::npos) {
            return {};
        }
        at = next + 1;
    }
    std::string_view all(text);
    std::string_view row = all.substr(at, all.find('\n', at) - at);
    while (!row.empty() && (row.front() == '\t' || row.front() == ' ')) {
        row.remove_prefix(1);
    }
    return row;
}

}  // namespace emu::ptx
