// SPDX-License-Identifier: BSD-3-Clause
// Zstandard decoder written from RFC 8878; section numbers below are the RFC's.
#include <algorithm>
#include <array>
#include <bit>
#include <stdexcept>
#include <vector>

#include "runtime/decompress.h"

namespace emu {
namespace {

[[noreturn]] void bad(const char* what) {
    throw std::runtime_error(std::string("zstd: ") + what);
}

struct Bytes {
    const uint8_t* at;
    const uint8_t* end;

    size_t left() const { return static_cast<size_t>(end - at); }
    uint64_t take(size_t n) {  // little endian
        if (left() < n) {
            bad("input is cut off");
        }
        uint64_t v = 0;
        for (size_t i = 0; i < n; ++i) {
            v |= uint64_t{at[i]} << (8 * i);
        }
        at += n;
        return v;
    }
    Bytes cut(size_t n) {
        if (left() < n) {
            bad("input is cut off");
        }
        Bytes part{at, at + n};
        at += n;
        return part;
    }
};

// Bits read from the last byte backwards; the highest set bit of the last byte marks the start
// (4.1.1).
class BackwardBits {
  public:
    explicit BackwardBits(Bytes b) : data_(b.at) {
        if (b.left() == 0 || b.end[-1] == 0) {
            bad("bit stream without its end mark");
        }
        position_ = static_cast<int64_t>(b.left()) * 8 - std::countl_zero(b.end[-1]) - 1;
    }
    uint32_t read(int n) {
        position_ -= n;
        return bits_at(position_, n);
    }
    // The next n bits without consuming them; bits before the stream's first read as zero.
    uint32_t peek(int n) const { return bits_at(position_ - n, n); }
    void skip(int n) { position_ -= n; }
    int64_t left() const { return position_; }

  private:
    uint32_t bits_at(int64_t start, int n) const {
        uint32_t v = 0;
        for (int i = 0; i < n;) {
            const int64_t bit = start + i;
            if (bit < 0) {
                ++i;
                continue;
            }
            const int offset = static_cast<int>(bit & 7);
            const int take = std::min(8 - offset, n - i);
            v |= (static_cast<uint32_t>(data_[bit >> 3] >> offset) & ((1u << take) - 1)) << i;
            i += take;
        }
        return v;
    }
    const uint8_t* data_;
    int64_t position_;
};

struct FseEntry {
    uint8_t symbol;
    uint8_t bits;
    uint16_t base;
};

struct FseTable {
    int log = -1;
    std::vector<FseEntry> entries;
};

// 4.1.1: spreads the symbols over the states.
FseTable build_fse(const std::vector<int>& counts, int log) {
    FseTable table;
    table.log = log;
    const uint32_t size = 1u << log;
    table.entries.resize(size);
    uint32_t high = size;
    std::vector<uint32_t> next(counts.size());
    for (size_t s = 0; s < counts.size(); ++s) {
        if (counts[s] == -1) {
            table.entries[--high].symbol = static_cast<uint8_t>(s);
            next[s] = 1;
        } else {
            next[s] = static_cast<uint32_t>(counts[s]);
        }
    }
    const uint32_t step = (size >> 1) + (size >> 3) + 3;
    uint32_t at = 0;
    for (size_t s = 0; s < counts.size(); ++s) {
        for (int i = 0; i < counts[s]; ++i) {
            table.entries[at].symbol = static_cast<uint8_t>(s);
            do {
                at = (at + step) & (size - 1);
            } while (at >= high);
        }
    }
    for (FseEntry& e : table.entries) {
        const uint32_t state = next[e.symbol]++;
        e.bits = static_cast<uint8_t>(log - (31 - std::countl_zero(state)));
        e.base = static_cast<uint16_t>((state << e.bits) - size);
    }
    return table;
}

// 4.1.1: reads the normalised counts; advances `in` to the byte after them.
FseTable read_fse(Bytes& in, int max_log, size_t max_symbols) {
    size_t bit = 0;
    auto peek = [&](int n) {
        uint32_t v = 0;
        for (int i = 0; i < n; ++i) {
            const size_t b = bit + static_cast<size_t>(i);
            if (b / 8 < in.left()) {
                v |= static_cast<uint32_t>(in.at[b / 8] >> (b % 8) & 1) << i;
            }
        }
        return v;
    };
    const int log = static_cast<int>(peek(4)) + 5;
    bit += 4;
    if (log > max_log) {
        bad("FSE accuracy is too high");
    }
    int remaining = (1 << log) + 1;
    std::vector<int> counts;
    while (remaining > 1) {
        const int width = 32 - std::countl_zero(static_cast<uint32_t>(remaining));
        const uint32_t shorter = (1u << width) - 1 - static_cast<uint32_t>(remaining);
        uint32_t value = peek(width);
        const uint32_t low = value & ((1u << (width - 1)) - 1);
        if (low < shorter) {
            value = low;
            bit += static_cast<size_t>(width) - 1;
        } else {
            if (value >= 1u << (width - 1)) {
                value -= shorter;
            }
            bit += static_cast<size_t>(width);
        }
        const int count = static_cast<int>(value) - 1;
        remaining -= count < 0 ? -count : count;
        counts.push_back(count);
        if (count == 0) {
            uint32_t repeat = 3;
            while (repeat == 3) {
                repeat = peek(2);
                bit += 2;
                counts.insert(counts.end(), repeat, 0);
                if (counts.size() > max_symbols) {
                    bad("too many FSE symbols");
                }
            }
        }
        if (counts.size() > max_symbols || bit > in.left() * 8) {
            bad("FSE table is damaged");
        }
    }
    in.cut((bit + 7) / 8);
    return build_fse(counts, log);
}

class FseState {
  public:
    FseState(const FseTable& table, BackwardBits& bits)
        : table_(table), state_(bits.read(table.log)) {}
    uint8_t symbol() const { return table_.entries[state_].symbol; }
    int bits() const { return table_.entries[state_].bits; }
    void advance(BackwardBits& in) {
        const FseEntry& e = table_.entries[state_];
        state_ = e.base + in.read(e.bits);
    }

  private:
    const FseTable& table_;
    uint32_t state_;
};

struct HuffmanTable {
    int log = 0;
    std::vector<std::pair<uint8_t, uint8_t>> entries;  // symbol, number of bits
};

// 4.2.1: the tree's weights, either 4 bits each or FSE compressed.
HuffmanTable read_huffman(Bytes& in) {
    const size_t header = in.take(1);
    std::vector<uint8_t> weights;
    if (header >= 128) {
        const size_t n = header - 127;
        Bytes packed = in.cut((n + 1) / 2);
        for (size_t i = 0; i < n; ++i) {
            weights.push_back(i % 2 == 0 ? packed.at[i / 2] >> 4 : packed.at[i / 2] & 15);
        }
    } else {
        Bytes part = in.cut(header);
        const FseTable table = read_fse(part, 6, 13);
        BackwardBits bits(part);
        FseState even(table, bits);
        FseState odd(table, bits);
        // Two states take turns until one has no bits left to advance with.
        FseState* turn = &even;
        FseState* other = &odd;
        while (true) {
            weights.push_back(turn->symbol());
            if (bits.left() < turn->bits()) {
                weights.push_back(other->symbol());
                break;
            }
            turn->advance(bits);
            std::swap(turn, other);
            if (weights.size() > 254) {
                bad("too many Huffman weights");
            }
        }
    }
    uint32_t sum = 0;
    for (uint8_t w : weights) {
        sum += w ? 1u << (w - 1) : 0;
    }
    if (sum == 0) {
        bad("empty Huffman tree");
    }
    HuffmanTable table;
    table.log = 32 - std::countl_zero(sum);
    const uint32_t rest = (1u << table.log) - sum;
    if (!std::has_single_bit(rest) || table.log > 11) {
        bad("Huffman weights do not add up");
    }
    weights.push_back(static_cast<uint8_t>(32 - std::countl_zero(rest)));
    // Symbols fill the table from the smallest weight up, in symbol order within a weight.
    for (uint8_t w = 1; w <= table.log; ++w) {
        for (size_t s = 0; s < weights.size(); ++s) {
            if (weights[s] == w) {
                table.entries.insert(
                    table.entries.end(), size_t{1} << (w - 1),
                    {static_cast<uint8_t>(s), static_cast<uint8_t>(table.log + 1 - w)});
            }
        }
    }
    return table;
}

void decode_huffman(const HuffmanTable& table, Bytes in, size_t count, std::string& out) {
    BackwardBits bits(in);
    for (size_t i = 0; i < count; ++i) {
        const auto [symbol, length] = table.entries[bits.peek(table.log)];
        bits.skip(length);
        out.push_back(static_cast<char>(symbol));
    }
    if (bits.left() != 0) {
        bad("Huffman stream has another length than its header says");
    }
}

struct CodeRange {
    uint32_t base;
    uint8_t bits;
};

// 3.1.1.3.2.1.1: literal length codes 16.. and match length codes 32..; smaller codes are their own
// value.
constexpr std::array<CodeRange, 20> kLiteralLengths{
    {{16, 1},    {18, 1},    {20, 1},    {22, 1},     {24, 2},     {28, 2},    {32, 3},
     {40, 3},    {48, 4},    {64, 6},    {128, 7},    {256, 8},    {512, 9},   {1024, 10},
     {2048, 11}, {4096, 12}, {8192, 13}, {16384, 14}, {32768, 15}, {65536, 16}}};
constexpr std::array<CodeRange, 21> kMatchLengths{
    {{35, 1},    {37, 1},    {39, 1},    {41, 1},    {43, 2},     {47, 2},     {51, 3},
     {59, 3},    {67, 4},    {83, 4},    {99, 5},    {131, 7},    {259, 8},    {515, 9},
     {1027, 10}, {2051, 11}, {4099, 12}, {8195, 13}, {16387, 14}, {32771, 15}, {65539, 16}}};

// 3.1.1.3.2.2: default distributions.
const std::vector<int> kDefaultLiteral{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1,  1,  2,  2,
                                       2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1};
const std::vector<int> kDefaultMatch{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1,  1,  1,  1,  1,  1,  1, 1,
                                     1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,  1,  1,  1,  1,  1,  1, 1,
                                     1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1};
const std::vector<int> kDefaultOffset{1, 1, 1, 1, 1, 1, 2, 2, 2, 1,  1,  1,  1,  1, 1,
                                      1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1};

class Frame {
  public:
    Frame(std::string& out, size_t limit) : out_(out), start_(out.size()), limit_(limit) {}

    void decode(Bytes& in) {
        const uint64_t descriptor = in.take(1);
        const bool single_segment = descriptor >> 5 & 1;
        if (!single_segment) {
            in.take(1);  // window descriptor: the whole output is kept, so its size does not matter
        }
        if (descriptor & 3) {
            bad("dictionaries are not used by nvcc");
        }
        const int size_flag = static_cast<int>(descriptor >> 6);
        in.take(size_flag == 0 ? (single_segment ? 1 : 0) : size_t{1} << size_flag);
        bool last = false;
        while (!last) {
            const uint64_t header = in.take(3);
            last = header & 1;
            const size_t size = header >> 3;
            switch (header >> 1 & 3) {
                case 0: {
                    Bytes raw = in.cut(size);
                    append(raw.at, size);
                    break;
                }
                case 1:
                    grow(size);
                    out_.append(size, static_cast<char>(in.take(1)));
                    break;
                case 2:
                    block(in.cut(size));
                    break;
                default:
                    bad("reserved block type");
            }
        }
        if (descriptor >> 2 & 1) {
            in.take(4);  // content checksum, not verified
        }
    }

  private:
    void grow(size_t n) const {
        if (n > limit_ - std::min(limit_, out_.size())) {
            bad("more output than the header says");
        }
    }
    void append(const uint8_t* data, size_t n) {
        grow(n);
        out_.append(reinterpret_cast<const char*>(data), n);
    }

    // 3.1.1.3.1
    std::string literals(Bytes& in) {
        const uint64_t first = in.at < in.end ? *in.at : 0;
        const int type = first & 3;
        const int format = first >> 2 & 3;
        std::string out;
        if (type < 2) {
            const size_t header = format == 1 ? 2 : format == 3 ? 3 : 1;
            const size_t n = in.take(header) >> (format == 0 || format == 2 ? 3 : 4);
            if (type == 0) {
                Bytes raw = in.cut(n);
                out.assign(reinterpret_cast<const char*>(raw.at), n);
            } else {
                out.assign(n, static_cast<char>(in.take(1)));
            }
            return out;
        }
        const int width = format < 2 ? 10 : format == 2 ? 14 : 18;
        const uint64_t header = in.take(format < 2 ? 3 : format == 2 ? 4 : 5);
        const size_t n = header >> 4 & ((1u << width) - 1);
        Bytes part = in.cut(header >> (4 + width) & ((1u << width) - 1));
        if (type == 2) {
            huffman_ = read_huffman(part);
        } else if (huffman_.entries.empty()) {
            bad("treeless literals without a tree");
        }
        if (format == 0) {
            decode_huffman(huffman_, part, n, out);
            return out;
        }
        const size_t size1 = part.take(2);
        const size_t size2 = part.take(2);
        const size_t size3 = part.take(2);
        const size_t each = (n + 3) / 4;
        if (3 * each > n) {
            bad("four streams for too few literals");
        }
        decode_huffman(huffman_, part.cut(size1), each, out);
        decode_huffman(huffman_, part.cut(size2), each, out);
        decode_huffman(huffman_, part.cut(size3), each, out);
        decode_huffman(huffman_, part, n - 3 * each, out);
        return out;
    }

    static void table(int mode, Bytes& in, FseTable& t, const std::vector<int>& counts, int log,
                      int max_log, size_t symbols) {
        switch (mode) {
            case 0:
                t = build_fse(counts, log);
                break;
            case 1:
                t.log = 0;
                t.entries.assign(1, {static_cast<uint8_t>(in.take(1)), 0, 0});
                break;
            case 2:
                t = read_fse(in, max_log, symbols);
                break;
            default:
                if (t.log < 0) {
                    bad("repeated table without a first one");
                }
        }
    }

    // 3.1.1.3.2 and 3.1.1.4
    void block(Bytes in) {
        const std::string lits = literals(in);
        size_t taken = 0;
        size_t count = in.take(1);
        if (count >= 255) {
            count = in.take(2) + 0x7f00;
        } else if (count >= 128) {
            count = (count - 128) << 8 | in.take(1);
        }
        if (count > 0) {
            const uint64_t modes = in.take(1);
            table(modes >> 6 & 3, in, literal_table_, kDefaultLiteral, 6, 9, 36);
            table(modes >> 4 & 3, in, offset_table_, kDefaultOffset, 5, 8, 32);
            table(modes >> 2 & 3, in, match_table_, kDefaultMatch, 6, 9, 53);
            BackwardBits bits(in);
            FseState literal_state(literal_table_, bits);
            FseState offset_state(offset_table_, bits);
            FseState match_state(match_table_, bits);
            for (size_t i = 0; i < count; ++i) {
                const uint8_t offset_code = offset_state.symbol();
                if (offset_code > 31 || match_state.symbol() > 52 || literal_state.symbol() > 35) {
                    bad("sequence code out of range");
                }
                const uint64_t offset_value = (uint64_t{1} << offset_code) + bits.read(offset_code);
                size_t match = match_state.symbol() + size_t{3};
                if (match_state.symbol() >= 32) {
                    const CodeRange& r = kMatchLengths[match_state.symbol() - 32];
                    match = r.base + bits.read(r.bits);
                }
                size_t literal = literal_state.symbol();
                if (literal >= 16) {
                    const CodeRange& r = kLiteralLengths[literal - 16];
                    literal = r.base + bits.read(r.bits);
                }
                if (literal > lits.size() - taken) {
                    bad("sequence asks for more literals than there are");
                }
                append(reinterpret_cast<const uint8_t*>(lits.data()) + taken, literal);
                taken += literal;
                copy(resolve(offset_value, literal == 0), match);
                if (i + 1 < count) {
                    literal_state.advance(bits);
                    match_state.advance(bits);
                    offset_state.advance(bits);
                }
            }
            if (bits.left() != 0) {
                bad("sequences have another length than their header says");
            }
        }
        append(reinterpret_cast<const uint8_t*>(lits.data()) + taken, lits.size() - taken);
    }

    // 3.1.1.5: the three last offsets can be repeated.
    size_t resolve(uint64_t value, bool no_literals) {
        if (value > 3) {
            recent_ = {value - 3, recent_[0], recent_[1]};
            return recent_[0];
        }
        const size_t index = value - 1 + (no_literals ? 1 : 0);
        if (index == 0) {
            return recent_[0];
        }
        const uint64_t offset = index == 3 ? recent_[0] - 1 : recent_[index];
        if (index != 1) {
            recent_[2] = recent_[1];
        }
        recent_[1] = recent_[0];
        recent_[0] = offset;
        return offset;
    }

    void copy(size_t distance, size_t n) {
        grow(n);
        if (distance == 0 || distance > out_.size() - start_) {
            bad("match points before the frame");
        }
        for (size_t i = 0; i < n; ++i) {
            out_.push_back(out_[out_.size() - distance]);
        }
    }

    std::string& out_;
    size_t start_;
    size_t limit_;
    HuffmanTable huffman_;
    FseTable literal_table_, offset_table_, match_table_;
    std::array<uint64_t, 3> recent_{1, 4, 8};
};

}  // namespace

std::string decompress_zstd(const uint8_t* data, size_t size, size_t bytes) {
    std::string out;
    out.reserve(bytes);
    Bytes in{data, data + size};
    while (in.left() >= 4 && out.size() < bytes) {
        const uint64_t magic = in.take(4);
        if (magic >= 0x184D2A50 && magic <= 0x184D2A5F) {
            in.cut(in.take(4));  // skippable frame
        } else if (magic == 0xFD2FB528) {
            Frame(out, bytes).decode(in);
        } else {
            bad("not a Zstandard frame");
        }
    }
    if (out.size() != bytes) {
        bad("frame has another size than the fat binary says");
    }
    return out;
}

}  // namespace emu
