// SPDX-License-Identifier: BSD-3-Clause
#include "ptx/lexer.h"

#include <bit>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <string>

#include "exec/fault.h"

namespace emu::ptx {

namespace {
bool word_char(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' ||
           c == '.';
}
}  // namespace

void Lexer::skip_blanks() {
    while (p_ < end_) {
        if (*p_ == '\n') {
            ++line_, ++p_;
            if (p_ < end_ && *p_ == '#') {
                while (p_ < end_ && *p_ != '\n') {
                    ++p_;
                }
            }
        } else if (std::isspace(static_cast<unsigned char>(*p_)) || *p_ == '\0') {
            ++p_;
        } else if (*p_ == '/' && p_ + 1 < end_ && p_[1] == '/') {
            while (p_ < end_ && *p_ != '\n') {
                ++p_;
            }
        } else if (*p_ == '/' && p_ + 1 < end_ && p_[1] == '*') {
            p_ += 2;
            while (p_ + 1 < end_ && !(*p_ == '*' && p_[1] == '/')) {
                line_ += *p_++ == '\n';
            }
            p_ = p_ + 2 < end_ ? p_ + 2 : end_;
        } else {
            return;
        }
    }
}

void Lexer::number() {
    const char* start = p_;
    auto hex = [&](const char* from) {
        while (p_ < end_ && std::isxdigit(static_cast<unsigned char>(*p_))) {
            ++p_;
        }
        std::from_chars(from, p_, token_.value, 16);
    };
    const char second = p_ + 1 < end_ ? p_[1] : '\0';
    token_.kind = Token::Kind::integer;
    if (*p_ == '0' && (second == 'f' || second == 'F')) {
        token_.kind = Token::Kind::f32, p_ += 2, hex(p_);
    } else if (*p_ == '0' && (second == 'd' || second == 'D')) {
        token_.kind = Token::Kind::f64, p_ += 2, hex(p_);
    } else if (*p_ == '0' && (second == 'x' || second == 'X')) {
        p_ += 2, hex(p_);
    } else if (*p_ == '0' && (second == 'b' || second == 'B')) {
        const char* from = p_ += 2;
        while (p_ < end_ && (*p_ == '0' || *p_ == '1')) {
            ++p_;
        }
        std::from_chars(from, p_, token_.value, 2);
    } else {
        while (p_ < end_ && std::isdigit(static_cast<unsigned char>(*p_))) {
            ++p_;
        }
        const bool fraction = p_ < end_ && *p_ == '.';
        const bool exponent = p_ < end_ && (*p_ == 'e' || *p_ == 'E');
        if (fraction || exponent) {
            char* after = nullptr;
            token_.kind = Token::Kind::f64;
            token_.value = std::bit_cast<uint64_t>(std::strtod(
                std::string(start, end_ - start > 64 ? start + 64 : end_).c_str(), &after));
            while (p_ < end_ &&
                   (std::isalnum(static_cast<unsigned char>(*p_)) || *p_ == '.' ||
                    ((*p_ == '-' || *p_ == '+') && (p_[-1] == 'e' || p_[-1] == 'E')))) {
                ++p_;
            }
        } else {
            std::from_chars(start, p_, token_.value, *start == '0' && p_ - start > 1 ? 8 : 10);
        }
    }
    if (token_.kind == Token::Kind::integer && p_ < end_ && (*p_ == 'U' || *p_ == 'u')) {
        ++p_;
    }
    token_.text = {start, static_cast<size_t>(p_ - start)};
}

void Lexer::next() {
    skip_blanks();
    token_ = Token{};
    token_.line = line_;
    if (p_ >= end_) {
        return;
    }
    const char* start = p_;
    if (std::isdigit(static_cast<unsigned char>(*p_))) {
        number();
    } else if (*p_ == '"') {
        for (++p_; p_ < end_ && *p_ != '"'; ++p_) {
            line_ += *p_ == '\n';
        }
        token_.kind = Token::Kind::string;
        token_.text = {start + 1, static_cast<size_t>(p_ - start - 1)};
        if (p_ < end_) {
            ++p_;
        }
    } else if (word_char(*p_)) {
        while (p_ < end_ && (word_char(*p_) ||
                             (*p_ == ':' && p_ + 2 < end_ && p_[1] == ':' && word_char(p_[2])))) {
            p_ += *p_ == ':' ? 2 : 1;
        }
        token_.kind = Token::Kind::word;
        token_.text = {start, static_cast<size_t>(p_ - start)};
    } else if (std::string_view("{}[]()<>,;:+-*!|@=~&^/").find(*p_) != std::string_view::npos) {
        token_.kind = Token::Kind::punct;
        token_.text = {p_++, 1};
    } else {
        throw Fault(fault::kInvalidPtx,
                    "PTX line " + std::to_string(line_) + ": unexpected character '" + *p_ + "'");
    }
    token_.end = p_;
}

}  // namespace emu::ptx
