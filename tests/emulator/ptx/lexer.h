// SPDX-License-Identifier: BSD-3-Clause
#pragma once
#include <cstdint>
#include <string_view>

namespace emu::ptx {

struct Token {
    enum class Kind : uint8_t { end, word, integer, f32, f64, string, punct };
    Kind kind = Kind::end;
    std::string_view text;  // of a string: without its quotes
    uint64_t value = 0;     // integer, or the bits of a float
    uint32_t line = 1;
    const char* end = nullptr;

    bool is(char c) const { return kind == Kind::punct && text[0] == c; }
    bool is(std::string_view w) const { return kind == Kind::word && text == w; }
};

// Words keep their dots and "::" ("mma.sync", "%tid.x", ".reg", "shared::cta"); comments and #
// lines are skipped.
class Lexer {
  public:
    explicit Lexer(std::string_view text) : p_(text.data()), end_(text.data() + text.size()) {
        next();
    }
    const Token& peek() const { return token_; }
    Token take() {
        Token t = token_;
        next();
        return t;
    }

  private:
    void next();
    void skip_blanks();
    void number();
    const char* p_;
    const char* end_;
    uint32_t line_ = 1;
    Token token_;
};

}  // namespace emu::ptx
