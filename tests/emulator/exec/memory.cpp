// SPDX-License-Identifier: BSD-3-Clause
// ld, ldu, st, prefetch, discard, applypriority, createpolicy.
#include "exec/memory.h"

#include <cstring>

#include "exec/async_families.h"
#include "exec/checks.h"
#include "exec/program.h"

namespace emu {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

namespace {

void local_hosts(Warp& w, const uint64_t* address, uint32_t mask, uint32_t bytes, Resolved& r) {
    const uint64_t size = w.launch->program->local_total;
    for_lanes(mask, [&](int l) {
        const uint64_t at = address[l] & (kLocalWindow - 1);
        if (at + bytes > size) {
            w.fail(fault::kIllegalAddress,
                   "local memory access at offset " + std::to_string(at) + " of " +
                       std::to_string(size) + " bytes",
                   l);
        }
        r.host[l] = w.local.data() + static_cast<uint64_t>(l) * size + at;
    });
}

void shared_hosts(Warp& w, const uint64_t* address, uint32_t mask, uint32_t bytes, Resolved& r) {
    uint8_t* const own = w.cta->shared.data();
    const uint32_t base = w.cta->shared_base, size = static_cast<uint32_t>(w.cta->shared.size());
    uint32_t outside = 0;
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t at = static_cast<uint32_t>(address[l]) - base;
        outside |= static_cast<uint32_t>(at >= size || at + bytes > size) << l;
        r.host[l] = own + at;
    }
    for_lanes(outside & mask, [&](int l) {
        r.host[l] = w.cluster->shared(w, static_cast<uint32_t>(address[l]), bytes, l);
    });
}

bool all_aligned(const uint64_t* address, uint32_t mask, uint32_t bytes) {
    uint64_t bits = 0;
    for (int l = 0; l < kLanes; ++l) {
        bits |= mask >> l & 1 ? address[l] : 0;
    }
    return (bits & (bytes - 1)) == 0;
}

void resolve_one(Warp& w, const MemoryOp& m, Space space, Touch touch, uint32_t mask,
                 uint32_t bytes, const void* values, Resolved& r) {
    if (!all_aligned(r.address, mask, bytes)) [[unlikely]] {
        for_lanes(mask, [&](int l) {
            if (r.address[l] & (bytes - 1)) {
                char text[96];
                std::snprintf(text, sizeof text, "misaligned access of %u bytes at address 0x%llx",
                              bytes, static_cast<unsigned long long>(r.address[l]));
                w.fail(fault::kMisalignedAddress, text, l);
            }
        });
    }
    if (w.checks | static_cast<uint32_t>(w.counting)) {
        if (space == Space::shared || space == Space::global) {
            observe_access(w, m, touch, space, r.address, mask, bytes, values);
        }
    }
    if (space == Space::shared) {
        shared_hosts(w, r.address, mask, bytes, r);
    } else if (space == Space::local) {
        local_hosts(w, r.address, mask, bytes, r);
    } else {
        for (int l = 0; l < kLanes; ++l) {
            r.host[l] = reinterpret_cast<uint8_t*>(r.address[l]);
        }
    }
}

}  // namespace

uint8_t* resolve_generic(Warp& w, uint64_t address, uint64_t bytes, int lane) {
    switch (address >> 52) {
        case 0:
            return reinterpret_cast<uint8_t*>(address);
        case 1:
            return w.cluster->shared(w, static_cast<uint32_t>(address), bytes, lane);
        case 2: {
            const uint64_t at = address & (kLocalWindow - 1), size = w.launch->program->local_total;
            if (lane >= 0 && at + bytes <= size) {
                return w.local.data() + static_cast<uint64_t>(lane) * size + at;
            }
            break;
        }
        default:
            break;
    }
    char text[64];
    std::snprintf(text, sizeof text, "access to the wild address 0x%llx",
                  static_cast<unsigned long long>(address));
    w.fail(fault::kIllegalAddress, text, lane);
}

void resolve(Warp& w, const MemoryOp& m, Touch touch, uint32_t active, uint32_t bytes,
             const void* values, Resolved& r) {
    lane_addresses(w, m, r.address);
    resolve_addresses(w, m, touch, active, bytes, values, r);
}

void resolve_addresses(Warp& w, const MemoryOp& m, Touch touch, uint32_t active, uint32_t bytes,
                       const void* values, Resolved& r) {
    if (m.space != Space::none) {
        resolve_one(
            w, m, m.space == Space::constant || m.space == Space::param ? Space::constant : m.space,
            touch, active, bytes, values, r);
        return;
    }
    uint32_t global = 0, shared = 0, local = 0;
    for (int l = 0; l < kLanes; ++l) {
        const uint64_t window = r.address[l] >> 52;
        global |= static_cast<uint32_t>(window == 0) << l;
        shared |= static_cast<uint32_t>(window == 1) << l;
        local |= static_cast<uint32_t>(window == 2 || window == 3) << l;
    }
    const uint32_t wild = active & ~(global | shared | local);
    if (wild) [[unlikely]] {
        resolve_generic(w, r.address[__builtin_ctz(wild)], bytes, __builtin_ctz(wild));
    }
    if ((active & ~global) == 0) {
        resolve_one(w, m, Space::global, touch, active, bytes, values, r);
        return;
    }
    uint8_t* host[kLanes];
    const std::pair<Space, uint32_t> parts[] = {{Space::global, global & active},
                                                {Space::shared, shared & active},
                                                {Space::local, local & active}};
    for (auto [space, mask] : parts) {
        if (mask) {
            Resolved part;
            std::memcpy(part.address, r.address, sizeof r.address);
            if (space == Space::shared) {
                for (uint64_t& a : part.address) {
                    a &= 0xffffffffu;
                }
            }
            resolve_one(w, m, space, touch, mask, bytes, values, part);
            for_lanes(mask, [&](int l) { host[l] = part.host[l]; });
        }
    }
    for_lanes(active, [&](int l) { r.host[l] = host[l]; });
}

void acquired(Warp& w, const MemoryOp& m, bool atomic, uint32_t active, const Resolved& r) {
    if (!m.strong || !(w.checks & kCheckRaces)) {
        return;
    }
    if (m.space == Space::shared || m.space == Space::global) {
        check_acquired(w, m, atomic, m.space, r.address, active);
    } else if (m.space == Space::none) {
        uint64_t address[kLanes];
        uint32_t global = 0, shared = 0;
        for (int l = 0; l < kLanes; ++l) {
            const uint64_t window = r.address[l] >> 52;
            global |= static_cast<uint32_t>(window == 0) << l;
            shared |= static_cast<uint32_t>(window == 1) << l;
            address[l] = window == 1 ? r.address[l] & 0xffffffffu : r.address[l];
        }
        if (global & active) {
            check_acquired(w, m, atomic, Space::global, address, global & active);
        }
        if (shared & active) {
            check_acquired(w, m, atomic, Space::shared, address, shared & active);
        }
    }
}

MemoryOp decode_memory(const ptx::Statement& s, DecodeContext& c, const Operand& address,
                       std::initializer_list<std::string_view> more) {
    MemoryOp m;
    for (size_t k = 1; k < s.parts.size(); ++k) {
        const std::string_view p = s.parts[k];
        if (p == "global") {
            m.space = Space::global;
        } else if (p == "shared" || p == "shared::cta" || p == "shared::cluster") {
            m.space = Space::shared;
        } else if (p == "local") {
            m.space = Space::local;
        } else if (p == "const") {
            m.space = Space::constant;
        } else if (p == "param" || p == "param::entry" || p == "param::func") {
            m.space = Space::param;
        } else if (p == "volatile") {
            m.strong = true;
            m.scope = 3;
        } else if (p == "relaxed" || p == "mmio") {
            m.strong = true;
        } else if (p == "acquire") {
            m.strong = m.acquire = true;
        } else if (p == "release") {
            m.strong = m.release = true;
        } else if (p == "acq_rel") {
            m.strong = m.acquire = m.release = true;
        } else if (p == "cta") {
            m.scope = 0;
        } else if (p == "cluster") {
            m.scope = 1;
        } else if (p == "gpu") {
            m.scope = 2;
        } else if (p == "sys") {
            m.scope = 3;
        } else if (p == "v2") {
            m.count = 2;
        } else if (p == "v4") {
            m.count = 4;
        } else if (p == "v8") {
            m.count = 8;
        } else if (p == "nc") {
            m.read_only = true;
        } else if (p == "weak" || p == "ca" || p == "cg" || p == "cs" || p == "lu" || p == "cv" ||
                   p == "wb" || p == "wt" || p.starts_with("L1::") || p.starts_with("L2::") ||
                   p == "unified" || p == "level::eviction_priority") {
            // Caching hints change nothing here.
        } else if (ptx::type_named(p) != Type::none) {
            m.type = ptx::type_named(p);
        } else {
            bool known = false;
            for (std::string_view x : more) {
                known |= x == p;
            }
            if (!known) {
                c.unknown(p);
            }
        }
    }
    m.bytes = static_cast<uint8_t>(ptx::bytes_of(m.type));
    m.sign = ptx::is_signed(m.type);
    const DecodeContext::Address a = c.address(address, m.space);
    m.base = a.base, m.wide = a.wide, m.offset = a.offset;
    return m;
}

namespace {

template <class T, class P>
void load_element(P* d, uint32_t active, uint8_t* const* host, size_t at) {
    for_lanes(active, [&](int l) {
        T v;
        std::memcpy(&v, host[l] + at, sizeof v);
        if constexpr (std::is_signed_v<T>) {
            d[l] = static_cast<P>(static_cast<std::make_signed_t<P>>(v));
        } else {
            d[l] = v;
        }
    });
}

template <class T, class P>
void load_full(P* d, uint8_t* const* host, size_t at) {
    for (int l = 0; l < kLanes; ++l) {
        T v;
        std::memcpy(&v, host[l] + at, sizeof v);
        d[l] = v;
    }
}

void load_elements(Warp& w, const MemoryOp& m, uint32_t active, const Resolved& r) {
    for (uint32_t e = 0; e < m.count; ++e) {
        const size_t at = static_cast<size_t>(e) * m.bytes;
        if (m.data[e] == kNoRef) {
            continue;
        }
        if (m.register_bytes == 8) {
            uint64_t* d = w.u64(m.data[e]);
            switch (m.bytes) {
                case 1:
                    m.sign ? load_element<int8_t>(d, active, r.host, at)
                           : load_element<uint8_t>(d, active, r.host, at);
                    break;
                case 2:
                    m.sign ? load_element<int16_t>(d, active, r.host, at)
                           : load_element<uint16_t>(d, active, r.host, at);
                    break;
                case 4:
                    m.sign ? load_element<int32_t>(d, active, r.host, at)
                           : load_element<uint32_t>(d, active, r.host, at);
                    break;
                default:
                    load_element<uint64_t>(d, active, r.host, at);
                    break;
            }
            continue;
        }
        uint32_t* d = w.u32(m.data[e]);
        switch (m.bytes) {
            case 1:
                m.sign ? load_element<int8_t>(d, active, r.host, at)
                       : load_element<uint8_t>(d, active, r.host, at);
                break;
            case 2:
                m.sign ? load_element<int16_t>(d, active, r.host, at)
                       : load_element<uint16_t>(d, active, r.host, at);
                break;
            default:
                if (active == kAllLanes) {
                    load_full<uint32_t>(d, r.host, at);
                } else {
                    load_element<uint32_t>(d, active, r.host, at);
                }
                break;
        }
        if (m.register_bytes == 2 && m.sign) {
            for_lanes(active, [&](int l) { d[l] &= 0xffff; });
        }
    }
    if (m.bytes == 16) {  // .b128: two 64-bit planes
        uint64_t* d = w.u64(m.data[0]);
        load_element<uint64_t>(d, active, r.host, 0);
        load_element<uint64_t>(d + kLanes, active, r.host, 8);
    }
}

void ld(Warp& w, const Instr& i, uint32_t active) {
    const auto& m = *static_cast<const MemoryOp*>(i.ext);
    Resolved r;
    resolve(w, m, Touch::load, active, static_cast<uint32_t>(m.bytes) * m.count, nullptr, r);
    w.hint |= m.strong;
    load_elements(w, m, active, r);
    acquired(w, m, false, active, r);
}

template <class T, class P>
void store_element(const P* d, uint32_t active, uint8_t* const* host, size_t at) {
    for_lanes(active, [&](int l) {
        const T v = static_cast<T>(d[l]);
        std::memcpy(host[l] + at, &v, sizeof v);
    });
}

// The bytes that a store writes, lane after lane.
void gather_values(Warp& w, const MemoryOp& m, uint8_t* out) {
    const size_t stride = static_cast<size_t>(m.bytes) * m.count;
    for (uint32_t e = 0; e < m.count; ++e) {
        for (int l = 0; l < kLanes; ++l) {
            uint64_t v = m.register_bytes == 8 ? w.u64(m.data[e])[l] : w.u32(m.data[e])[l];
            std::memcpy(out + static_cast<size_t>(l) * stride + static_cast<size_t>(e) * m.bytes,
                        &v, m.bytes > 8 ? 8 : m.bytes);
            if (m.bytes == 16) {
                std::memcpy(out + static_cast<size_t>(l) * stride + 8,
                            &w.u64(m.data[0])[kLanes + l], 8);
            }
        }
    }
}

void st(Warp& w, const Instr& i, uint32_t active) {
    const auto& m = *static_cast<const MemoryOp*>(i.ext);
    const uint32_t bytes = static_cast<uint32_t>(m.bytes) * m.count;
    Resolved r;
    uint8_t values[kLanes * 64];
    if (w.checks) {
        gather_values(w, m, values);
    }
    resolve(w, m, Touch::store, active, bytes, w.checks ? values : nullptr, r);
    w.hint = false;
    for (uint32_t e = 0; e < m.count; ++e) {
        const size_t at = static_cast<size_t>(e) * m.bytes;
        if (m.register_bytes >= 8) {
            const uint64_t* d = w.u64(m.data[e]);
            switch (m.bytes) {
                case 1:
                    store_element<uint8_t>(d, active, r.host, at);
                    break;
                case 2:
                    store_element<uint16_t>(d, active, r.host, at);
                    break;
                case 4:
                    store_element<uint32_t>(d, active, r.host, at);
                    break;
                default:
                    store_element<uint64_t>(d, active, r.host, at);
                    break;
            }
        } else {
            const uint32_t* d = w.u32(m.data[e]);
            switch (m.bytes) {
                case 1:
                    store_element<uint8_t>(d, active, r.host, at);
                    break;
                case 2:
                    store_element<uint16_t>(d, active, r.host, at);
                    break;
                default:
                    store_element<uint32_t>(d, active, r.host, at);
                    break;
            }
        }
    }
    if (m.bytes == 16) {
        store_element<uint64_t>(w.u64(m.data[0]) + kLanes, active, r.host, 8);
    }
}

// ---- parameters ----

// Kernel parameters are the same for all lanes: broadcast. imm: offset.
void ld_kernel_param(Warp& w, const Instr& i, uint32_t active) {
    const auto& m = *static_cast<const MemoryOp*>(i.ext);
    for (uint32_t e = 0; e < m.count; ++e) {
        uint64_t v = 0;
        std::memcpy(&v, w.launch->argument_base + i.imm + e * m.bytes, m.bytes);
        if (m.sign && m.bytes < 8) {
            v = static_cast<uint64_t>(static_cast<int64_t>(v << (64 - 8 * m.bytes)) >>
                                      (64 - 8 * m.bytes));
        }
        if (m.register_bytes == 8) {
            each(w.u64(m.data[e]), active, [&](int) { return v; });
        } else {
            const auto word = static_cast<uint32_t>(m.register_bytes == 2 ? v & 0xffff : v);
            each(w.u32(m.data[e]), active, [&](int) { return word; });
        }
    }
}

// .param of device functions: a frame per lane. imm: offset.
void frame_hosts(Warp& w, int64_t at, Resolved& r) {
    const size_t size = w.launch->program->frame_bytes;
    for (int l = 0; l < kLanes; ++l) {
        r.host[l] = w.frame.data() + static_cast<size_t>(l) * size + at;
    }
}

void ld_frame(Warp& w, const Instr& i, uint32_t active) {
    Resolved r;
    frame_hosts(w, i.imm, r);
    load_elements(w, *static_cast<const MemoryOp*>(i.ext), active, r);
}

void st_frame(Warp& w, const Instr& i, uint32_t active) {
    const auto& m = *static_cast<const MemoryOp*>(i.ext);
    Resolved r;
    frame_hosts(w, i.imm, r);
    for_lanes(active, [&](int l) {
        for (uint32_t e = 0; e < m.count; ++e) {
            const uint64_t v = m.register_bytes >= 8 ? w.u64(m.data[e])[l] : w.u32(m.data[e])[l];
            std::memcpy(r.host[l] + e * m.bytes, &v, m.bytes > 8 ? 8 : m.bytes);
        }
        if (m.bytes == 16) {
            std::memcpy(r.host[l] + 8, &w.u64(m.data[0])[kLanes + l], 8);
        }
    });
}

// ---- decoders ----

void data_operands(MemoryOp& m, DecodeContext& c, const Operand& o, bool load) {
    const Type plane = m.bytes == 16 ? Type::b128 : Type::b64;
    auto one = [&](const Operand& x, uint32_t e) {
        const int width = c.width_of(x);
        int bytes = width ? width : (m.bytes < 4 ? 4 : m.bytes);
        if (e == 0 || width) {
            m.register_bytes = static_cast<uint8_t>(bytes == 16 ? 16 : bytes);
        }
        if (bytes < m.bytes) {
            c.fail("register " + x.name + " is narrower than the type");
        }
        if (x.kind == Operand::Kind::sink) {
            m.data[e] = kNoRef;
            return;
        }
        const Type t = bytes >= 8                              ? plane
                       : (width == 0 && ptx::is_float(m.type)) ? m.type
                                                               : Type::b32;
        m.data[e] =
            load ? c.target(x, bytes == 8 && m.bytes == 16 ? Type::b128 : t) : c.source(x, t);
    };
    if (m.count == 1) {
        one(o, 0);
        return;
    }
    if (o.kind != Operand::Kind::vector || o.items.size() != m.count) {
        c.fail("a vector of " + std::to_string(m.count) + " registers is expected");
    }
    for (uint32_t e = 0; e < m.count; ++e) {
        one(o.items[e], e);
    }
}

// The variable behind [name + offset] of .param space: frame offset, and whether it is a kernel
// parameter.
bool frame_symbol(DecodeContext& c, const Operand& address, int64_t& at, bool& kernel) {
    if (address.kind != Operand::Kind::address || address.items[0].kind != Operand::Kind::symbol) {
        return false;
    }
    const std::string& name = address.items[0].name;
    auto it = c.link().frame_offsets.find(name);
    if (it == c.link().frame_offsets.end()) {
        return false;
    }
    at = it->second + address.value;
    kernel = c.function.is_entry && c.is_parameter(name);
    return true;
}

Instr decode_ld_st(const ptx::Statement& s, DecodeContext& c, bool load) {
    const Operand& address = c.operand(load ? 1 : 0);
    const Operand& data = c.operand(load ? 0 : 1);
    Instr i;
    int64_t at = 0;
    bool kernel = false;
    const bool param = s.has("param") || s.has("param::entry") || s.has("param::func");
    if (param && frame_symbol(c, address, at, kernel)) {
        MemoryOp m;
        for (size_t k = 1; k < s.parts.size(); ++k) {
            const std::string_view p = s.parts[k];
            if (p == "v2" || p == "v4") {
                m.count = static_cast<uint8_t>(p[1] - '0');
            } else if (ptx::type_named(p) != Type::none) {
                m.type = ptx::type_named(p);
            } else if (!p.starts_with("param")) {
                c.unknown(p);
            }
        }
        m.bytes = static_cast<uint8_t>(ptx::bytes_of(m.type));
        m.sign = ptx::is_signed(m.type);
        data_operands(m, c, data, load);
        if (kernel && !load) {
            c.fail("kernel parameters cannot be stored to");
        }
        i.run = kernel ? ld_kernel_param : load ? ld_frame : st_frame;
        if (kernel && m.bytes == 16) {
            c.fail("128-bit parameter loads are not known");
        }
        i.imm = at;
        i.ext = c.own(m);
        return i;
    }
    MemoryOp m = decode_memory(s, c, address);
    // The plain load that begins a compare-and-swap loop (as in the toolkit's own headers) is meant
    // as a relaxed one.
    if (load && !m.strong && address.items[0].reg >= 0 &&
        c.link().swapped.contains(c.link().origin(address.items[0].reg, address.value))) {
        m.strong = true;
        m.scope = 2;
    }
    data_operands(m, c, data, load);
    i.run = load ? ld : st;
    i.ext = c.own(m);
    return i;
}

Instr decode_ld(const ptx::Statement& s, DecodeContext& c) {
    return decode_ld_st(s, c, true);
}
Instr decode_st(const ptx::Statement& s, DecodeContext& c) {
    if (s.parts.size() > 1 && s.parts[1] == "async") {
        return decode_st_async(s, c);
    }
    return decode_ld_st(s, c, false);
}

void nothing(Warp&, const Instr&, uint32_t) {}

Instr decode_hint(const ptx::Statement&, DecodeContext&) {
    Instr i;
    i.run = nothing;
    return i;
}

void policy(Warp& w, const Instr& i, uint32_t active) {
    each(w.u64(i.r[0]), active, [](int) { return uint64_t{0x1000000000000000ull}; });
}

Instr decode_policy(const ptx::Statement&, DecodeContext& c) {
    Instr i;
    i.run = policy;
    i.r[0] = c.target(c.operand(0), Type::b64);
    return i;
}

const RegisterFamily kFamilies[] = {
    {"ld", decode_ld},
    {"ldu", decode_ld},
    {"st", decode_st},
    {"prefetch", decode_hint},
    {"prefetchu", decode_hint},
    {"applypriority", decode_hint},
    {"createpolicy", decode_policy},
};

}  // namespace

}  // namespace emu
