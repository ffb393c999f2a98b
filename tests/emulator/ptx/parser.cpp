// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <bit>
#include <cctype>
#include <cstring>

#include "exec/fault.h"
#include "ptx/lexer.h"
#include "ptx/module.h"

namespace emu::ptx {

namespace {

struct Scope {
    std::unordered_map<std::string, int> registers;
    std::unordered_map<std::string, std::string> variables;  // name -> unique name
    std::unordered_map<std::string, uint32_t> labels;
    std::vector<std::pair<uint32_t, uint32_t>>
        references;  // (statement, operand) that name a label
    std::vector<std::pair<std::string, uint32_t>> table_references;  // (table, element)
};

class Parser {
  public:
    explicit Parser(Module& module) : m_(module), lex_(module.text) { m_.files.emplace_back(); }
    void run();

  private:
    [[noreturn]] void fail(const std::string& what) { fail(what, lex_.peek().line); }
    [[noreturn]] void fail(const std::string& what, uint32_t line) {
        throw Fault(fault::kInvalidPtx, "PTX line " + std::to_string(line) + ": " + what +
                                            " in \"" + std::string(m_.text_line(line)) + "\"");
    }
    bool accept(char c) { return lex_.peek().is(c) ? (lex_.take(), true) : false; }
    bool accept(std::string_view w) { return lex_.peek().is(w) ? (lex_.take(), true) : false; }
    void expect(char c) {
        if (!accept(c)) {
            fail(std::string("expected '") + c + "' before '" + std::string(lex_.peek().text) +
                 "'");
        }
    }
    std::string word() {
        if (lex_.peek().kind != Token::Kind::word) {
            fail("expected a name");
        }
        return std::string(lex_.take().text);
    }
    int64_t integer() {
        const bool negative = accept('-');
        if (lex_.peek().kind != Token::Kind::integer) {
            fail("expected an integer");
        }
        const int64_t v = static_cast<int64_t>(lex_.take().value);
        return negative ? -v : v;
    }
    void skip_to_semicolon() {
        while (!lex_.peek().is(';') && lex_.peek().kind != Token::Kind::end) {
            lex_.take();
        }
        accept(';');
    }

    void file_directive();
    void loc_directive();
    void section();
    void function(bool entry, bool external);
    void function_directives(Function& f);
    std::vector<Variable> parameter_list();
    Variable variable(Space space, bool parameter);
    void initialiser(Variable& v);
    void initial_value(Variable& v, uint64_t& at, int size);
    void variable_list(Space space, std::vector<Variable>& out, Variable attributes);
    void body(Function& f);
    void register_declaration(Function& f);
    void statement(Function& f);
    void close_scope(Function& f);
    Operand operand(Function& f);
    Operand name_operand(Function& f, std::string name);
    Operand address(Function& f);
    void attach_labels(Function& f, const std::string& name);

    Module& m_;
    Lexer lex_;
    Location location_, inlined_;
    std::vector<Scope> scopes_;
    int unique_ = 0;
    std::string table_;  // label before .branchtargets
};

void Parser::file_directive() {
    const size_t index = static_cast<size_t>(integer());
    if (m_.files.size() <= index) {
        m_.files.resize(index + 1);
    }
    m_.files[index] = std::string(lex_.take().text);
    while (accept(',')) {
        integer();  // timestamp, size
    }
}

void Parser::loc_directive() {
    location_.file = static_cast<uint32_t>(integer());
    location_.line = static_cast<uint32_t>(integer());
    inlined_ = {};
    integer();
    while (accept(',')) {
        const std::string what = word();
        if (what == "function_name") {
            word();
            if (accept('+')) {
                integer();
            }
        } else if (what == "inlined_at") {
            inlined_.file = static_cast<uint32_t>(integer());
            inlined_.line = static_cast<uint32_t>(integer());
            integer();
        } else {
            fail("unknown .loc attribute " + what);
        }
    }
}

void Parser::section() {
    while (!lex_.peek().is('{')) {
        lex_.take();
    }
    int depth = 0;
    do {
        if (lex_.peek().kind == Token::Kind::end) {
            fail("unterminated .section");
        }
        if (lex_.peek().is('{')) {
            ++depth;
        }
        if (lex_.peek().is('}')) {
            --depth;
        }
        lex_.take();
    } while (depth);
}

void Parser::run() {
    bool is_extern = false, is_visible = false, is_weak = false;
    while (lex_.peek().kind != Token::Kind::end) {
        const Token t = lex_.take();
        if (t.kind != Token::Kind::word) {
            if (t.is(';')) {
                continue;
            }
            fail("unexpected '" + std::string(t.text) + "'", t.line);
        }
        const std::string_view w = t.text;
        if (w == ".version") {
            m_.version = std::string(lex_.take().text);
        } else if (w == ".target") {
            m_.target = word();
            while (accept(',')) {
                word();
            }
        } else if (w == ".address_size") {
            if (integer() != 64) {
                fail("only .address_size 64 is supported", t.line);
            }
        } else if (w == ".file") {
            file_directive();
        } else if (w == ".loc") {
            loc_directive();
        } else if (w == ".section") {
            section();
        } else if (w == ".pragma" || w == ".alias") {
            skip_to_semicolon();
        } else if (w == ".extern") {
            is_extern = true;
            continue;
        } else if (w == ".visible") {
            is_visible = true;
            continue;
        } else if (w == ".weak" || w == ".common") {
            is_weak = true;
            continue;
        } else if (w == ".entry" || w == ".func") {
            function(w == ".entry", is_extern);
        } else if (w == ".global" || w == ".const" || w == ".shared") {
            Variable v;
            v.is_extern = is_extern, v.is_visible = is_visible, v.is_weak = is_weak;
            const Space space = w == ".global"  ? Space::global
                                : w == ".const" ? Space::constant
                                                : Space::shared;
            std::vector<Variable> made;
            variable_list(space, made, v);
            for (Variable& x : made) {
                auto known = m_.global_index.find(x.name);
                if (known != m_.global_index.end()) {
                    if (m_.globals[known->second].is_extern) {
                        m_.globals[known->second] = x;
                    }
                    continue;
                }
                m_.global_index[x.name] = static_cast<uint32_t>(m_.globals.size());
                m_.globals.push_back(std::move(x));
            }
        } else {
            fail("unknown directive " + std::string(w), t.line);
        }
        is_extern = is_visible = is_weak = false;
    }
}

Variable Parser::variable(Space space, bool parameter) {
    Variable v;
    v.space = space;
    v.line = lex_.peek().line;
    int vector = 1;
    bool aligned = false;
    while (lex_.peek().kind == Token::Kind::word && lex_.peek().text[0] == '.') {
        const std::string w = word();
        if (w == ".align") {
            const uint64_t a = static_cast<uint64_t>(integer());
            if (!v.align || !aligned) {
                v.align = a;
            }
            aligned = true;
        } else if (w == ".ptr") {
            while (lex_.peek().kind == Token::Kind::word && lex_.peek().text[0] == '.') {
                if (word() == ".align") {
                    integer();
                }
            }
        } else if (w == ".attribute") {
            expect('(');
            v.is_managed = lex_.peek().is(".managed");
            while (!accept(')')) {
                lex_.take();
            }
        } else if (w == ".v2" || w == ".v4") {
            vector = w[2] - '0';
        } else if (type_named(std::string_view(w).substr(1)) != Type::none) {
            v.type = type_named(std::string_view(w).substr(1));
        } else {
            fail("unknown attribute " + w + " of a variable");
        }
    }
    v.name = word();
    const uint64_t element =
        static_cast<uint64_t>(bytes_of(v.type)) * static_cast<uint64_t>(vector);
    if (!aligned) {
        v.align = std::max<uint64_t>(1, element);
    }
    v.bytes = element;
    bool unknown = false;
    while (accept('[')) {
        if (accept(']')) {
            unknown = true;
            continue;
        }
        v.bytes *= static_cast<uint64_t>(integer());
        expect(']');
    }
    if (unknown) {
        v.bytes = 0;
    }
    if (!parameter && accept('=')) {
        initialiser(v);
        if (unknown) {
            v.bytes = v.init.size();
        }
        v.init.resize(v.bytes);
    }
    return v;
}

void Parser::initialiser(Variable& v) {
    uint64_t at = 0;
    initial_value(v, at, bytes_of(v.type));
}

void Parser::initial_value(Variable& v, uint64_t& at, int size) {
    if (accept('{')) {
        if (accept('}')) {
            return;
        }
        do {
            initial_value(v, at, size);
        } while (accept(','));
        expect('}');
        return;
    }
    uint64_t value = 0;
    uint64_t mask = 0;
    bool masked = false, generic = false;
    const bool negative = accept('-');
    const Token::Kind kind = lex_.peek().kind;
    std::string symbol;
    if (kind == Token::Kind::integer || kind == Token::Kind::f32 || kind == Token::Kind::f64) {
        value = lex_.take().value;
        if (kind == Token::Kind::f64 && size == 4) {
            value = std::bit_cast<uint32_t>(static_cast<float>(std::bit_cast<double>(value)));
        }
        if (negative && kind == Token::Kind::integer) {
            value = 0 - value;
        }
        if (negative && kind != Token::Kind::integer) {
            value ^= 1ull << (size * 8 - 1);
        }
        if (accept('(')) {
            masked = true, mask = value, value = 0;  // 0xFF00(symbol): a byte of an address
        }
    }
    int64_t addend = 0;
    if (lex_.peek().kind == Token::Kind::word) {
        symbol = word();
        if (symbol == "generic" && accept('(')) {
            generic = true, symbol = word();
            if (accept('+')) {
                addend += integer();
            }
            expect(')');
        }
        if (accept('+')) {
            addend += integer();
        }
    }
    if (masked) {
        expect(')');
    }
    v.init.resize(std::max<size_t>(v.init.size(), at + size));
    if (!symbol.empty()) {
        const int first = masked ? std::countr_zero(mask) / 8 : 0;
        // The low byte of a masked address comes first; one relocation writes all of it.
        if (!masked) {
            v.relocations.push_back({at, symbol, addend, size, generic});
        } else if (first == 0) {
            v.relocations.push_back({at, symbol, addend, 8, generic});
        }
    } else {
        std::memcpy(v.init.data() + at, &value, static_cast<size_t>(size));
    }
    at += size;
}

void Parser::variable_list(Space space, std::vector<Variable>& out, Variable attributes) {
    Variable v = variable(space, false);
    v.is_extern = attributes.is_extern, v.is_visible = attributes.is_visible,
    v.is_weak = attributes.is_weak;
    const Variable first = v;
    out.push_back(std::move(v));
    while (accept(',')) {
        Variable next = first;
        next.init.clear(), next.relocations.clear();
        next.name = word();
        next.bytes = static_cast<uint64_t>(bytes_of(next.type));
        while (accept('[')) {
            next.bytes *= static_cast<uint64_t>(integer()), expect(']');
        }
        if (accept('=')) {
            initialiser(next), next.init.resize(next.bytes);
        }
        out.push_back(std::move(next));
    }
    accept(';');
}

std::vector<Variable> Parser::parameter_list() {
    std::vector<Variable> list;
    if (!accept('(')) {
        return list;
    }
    if (accept(')')) {
        return list;
    }
    do {
        const std::string space = word();
        if (space != ".param" && space != ".reg") {
            fail("expected .param");
        }
        list.push_back(variable(Space::param, true));
    } while (accept(','));
    expect(')');
    return list;
}

void Parser::function_directives(Function& f) {
    auto three = [&](uint32_t* out) {
        out[0] = out[1] = out[2] = 1;
        int i = 0;
        do {
            out[i++] = static_cast<uint32_t>(integer());
        } while (accept(',') && i < 3);
    };
    while (lex_.peek().kind == Token::Kind::word) {
        const std::string w = word();
        if (w == ".maxntid") {
            three(f.max_threads);
        } else if (w == ".reqntid") {
            three(f.required_threads);
        } else if (w == ".reqnctapercluster") {
            three(f.required_cluster);
        } else if (w == ".minnctapersm") {
            f.min_ctas = static_cast<uint32_t>(integer());
        } else if (w == ".maxnctapersm") {
            integer();
        } else if (w == ".maxnreg") {
            f.max_registers = static_cast<uint32_t>(integer());
        } else if (w == ".maxclusterrank") {
            f.max_cluster_rank = static_cast<uint32_t>(integer());
        } else if (w == ".explicitcluster") {
            f.explicit_cluster = true;
        } else if (w == ".blocksareclusters") {
            f.explicit_cluster = true;
        } else if (w == ".noreturn") {
            f.noreturn = true;
        } else if (w == ".pragma") {
            skip_to_semicolon();
        } else if (w == ".abi_preserve" || w == ".abi_preserve_control") {
            integer();
        } else {
            fail("unknown function directive " + w);
        }
    }
}

void Parser::function(bool entry, bool external) {
    Function f;
    f.is_entry = entry;
    f.line = lex_.peek().line;
    if (lex_.peek().is('(')) {
        f.results = parameter_list();
    }
    f.name = word();
    f.params = parameter_list();
    function_directives(f);
    const bool defined = lex_.peek().is('{');
    f.is_extern = external && !defined;
    if (defined) {
        body(f);
    } else {
        f.is_extern = true;  // until a definition follows
        accept(';');
    }
    auto known = m_.function_index.find(f.name);
    if (known != m_.function_index.end()) {
        if (defined) {
            m_.functions[known->second] = std::move(f);
        }
        return;
    }
    m_.function_index[f.name] = static_cast<uint32_t>(m_.functions.size());
    m_.functions.push_back(std::move(f));
}

void Parser::register_declaration(Function& f) {
    std::string type = word();
    int vector = 1;
    if (type == ".v2" || type == ".v4") {
        vector = type[2] - '0', type = word();
    }
    if (vector != 1) {
        fail("vector registers are not supported");
    }
    const Type t = type_named(std::string_view(type).substr(1));
    if (t == Type::none) {
        fail("unknown register type " + type);
    }
    auto& names = scopes_.back().registers;
    do {
        const std::string name = word();
        auto add = [&](const std::string& n) {
            names[n] = static_cast<int>(f.registers.size());
            f.registers.push_back({n, t});
        };
        if (accept('<')) {
            const int64_t count = integer();
            expect('>');
            for (int64_t i = 0; i < count; ++i) {
                add(name + std::to_string(i));
            }
        } else {
            add(name);
        }
    } while (accept(','));
    expect(';');
}

void Parser::close_scope(Function& f) {
    Scope scope = std::move(scopes_.back());
    scopes_.pop_back();
    for (auto [statement, index] : scope.references) {
        Operand& o = f.statements[statement].operands[index];
        auto it = scope.labels.find(o.name);
        if (it != scope.labels.end()) {
            o.kind = Operand::Kind::label;
            o.value = it->second;
        } else if (!scopes_.empty()) {
            scopes_.back().references.emplace_back(statement, index);
        } else if (f.branch_targets.contains(o.name)) {
            o.kind = Operand::Kind::label;
        } else {
            fail("unknown label " + o.name, f.statements[statement].line);
        }
    }
    for (auto& [table, element] : scope.table_references) {
        Operand& o = f.branch_targets[table][element];
        auto it = scope.labels.find(o.name);
        if (it != scope.labels.end()) {
            o.kind = Operand::Kind::label, o.value = it->second;
        } else if (!scopes_.empty()) {
            scopes_.back().table_references.emplace_back(table, element);
        } else {
            fail("unknown label " + o.name + " in .branchtargets");
        }
    }
    if (scopes_.empty()) {
        f.labels = std::move(scope.labels);
    }
}

void Parser::body(Function& f) {
    expect('{');
    location_ = inlined_ = {};
    scopes_.emplace_back();
    for (auto* list : {&f.results, &f.params}) {
        for (const Variable& v : *list) {
            scopes_.back().variables[v.name] = v.name;
        }
    }
    while (!scopes_.empty()) {
        const Token t = lex_.peek();
        if (t.kind == Token::Kind::end) {
            fail("unterminated function " + f.name);
        }
        if (accept('{')) {
            scopes_.emplace_back();
        } else if (accept('}')) {
            close_scope(f);
        } else if (accept(';')) {
            continue;
        } else if (t.kind == Token::Kind::word && t.text[0] == '.') {
            lex_.take();
            const std::string_view w = t.text;
            if (w == ".reg") {
                register_declaration(f);
            } else if (w == ".local" || w == ".shared" || w == ".param" || w == ".global" ||
                       w == ".const") {
                const Space space = w == ".local"    ? Space::local
                                    : w == ".shared" ? Space::shared
                                    : w == ".param"  ? Space::param
                                    : w == ".global" ? Space::global
                                                     : Space::constant;
                std::vector<Variable> made;
                variable_list(space, made, {});
                for (Variable& v : made) {
                    std::string unique = v.name;
                    if (scopes_.size() > 1) {
                        unique += "@" + std::to_string(++unique_);
                    }
                    scopes_.back().variables[v.name] = unique;
                    v.name = unique;
                    if (space == Space::global || space == Space::constant) {
                        m_.global_index[v.name] = static_cast<uint32_t>(m_.globals.size());
                        m_.globals.push_back(std::move(v));
                    } else {
                        f.variables.push_back(std::move(v));
                    }
                }
            } else if (w == ".loc") {
                loc_directive();
            } else if (w == ".file") {
                file_directive();
            } else if (w == ".pragma") {
                skip_to_semicolon();
            } else if (w == ".branchtargets") {
                auto& table = f.branch_targets[table_];
                do {
                    Operand o;
                    o.kind = Operand::Kind::symbol, o.name = word();
                    scopes_.back().table_references.emplace_back(
                        table_, static_cast<uint32_t>(table.size()));
                    table.push_back(std::move(o));
                } while (accept(','));
                accept(';');
            } else if (w == ".callprototype" || w == ".calltargets") {
                skip_to_semicolon();
            } else {
                fail("unknown directive " + std::string(w), t.line);
            }
        } else {
            statement(f);
        }
    }
}

Operand Parser::name_operand(Function&, std::string name) {
    Operand o;
    o.name = std::move(name);
    if (o.name == "_") {
        o.kind = Operand::Kind::sink;
        return o;
    }
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
        if (auto r = scope->registers.find(o.name); r != scope->registers.end()) {
            o.kind = Operand::Kind::reg, o.reg = r->second;
            return o;
        }
        if (auto v = scope->variables.find(o.name); v != scope->variables.end()) {
            o.kind = Operand::Kind::symbol, o.name = v->second;
            return o;
        }
    }
    o.kind =
        o.name[0] == '%' || o.name == "WARP_SZ" ? Operand::Kind::special : Operand::Kind::symbol;
    return o;
}

Operand Parser::address(Function& f) {
    Operand o;
    o.kind = Operand::Kind::address;
    o.items.push_back(operand(f));
    if (o.items[0].kind == Operand::Kind::symbol) {
        o.value += o.items[0].value, o.items[0].value = 0;
    }
    while (true) {
        if (accept('+')) {
            o.value += integer();
        } else if (lex_.peek().is('-')) {
            o.value += integer();
        } else {
            break;
        }
    }
    if (accept(',')) {
        o.items.push_back(operand(f));
    }
    expect(']');
    return o;
}

Operand Parser::operand(Function& f) {
    Operand o;
    const Token t = lex_.peek();
    if (accept('!')) {
        o = operand(f);
        o.negated = !o.negated;
        return o;
    }
    if (accept('{') || t.is('(')) {
        const bool list = t.is('(');
        if (list) {
            lex_.take();
        }
        o.kind = list ? Operand::Kind::list : Operand::Kind::vector;
        const char close = list ? ')' : '}';
        if (accept(close)) {
            return o;
        }
        do {
            o.items.push_back(operand(f));
        } while (accept(','));
        expect(close);
        return o;
    }
    if (accept('[')) {
        return address(f);
    }
    const bool negative = accept('-'), inverted = !negative && accept('~');
    const Token n = lex_.peek();
    if (n.kind == Token::Kind::integer || n.kind == Token::Kind::f32 ||
        n.kind == Token::Kind::f64) {
        lex_.take();
        o.value = static_cast<int64_t>(n.value);
        if (n.kind == Token::Kind::integer) {
            o.kind = Operand::Kind::integer;
            if (negative) {
                o.value = static_cast<int64_t>(0 - n.value);
            }
            if (inverted) {
                o.value = ~o.value;
            }
        } else {
            o.kind = n.kind == Token::Kind::f32 ? Operand::Kind::f32 : Operand::Kind::f64;
            if (negative) {
                o.value ^= n.kind == Token::Kind::f32 ? int64_t{1} << 31
                                                      : static_cast<int64_t>(1ull << 63);
            }
        }
        return o;
    }
    if (n.kind != Token::Kind::word || negative || inverted) {
        fail("unexpected operand '" + std::string(n.text) + "'");
    }
    o = name_operand(f, word());
    if (accept('|')) {
        Operand pair;
        pair.kind = Operand::Kind::pair;
        pair.items.push_back(std::move(o));
        pair.items.push_back(operand(f));
        return pair;
    }
    if (o.kind == Operand::Kind::symbol) {
        while (accept('+')) {
            o.value += integer();
        }
    }
    return o;
}

void Parser::statement(Function& f) {
    Statement s;
    s.line = lex_.peek().line;
    s.source = location_;
    s.inlined_at = inlined_;
    if (accept('@')) {
        const bool negated = accept('!');
        s.guard = name_operand(f, word());
        if (s.guard.kind != Operand::Kind::reg) {
            fail("guard " + s.guard.name + " is not a register");
        }
        s.guard.negated = negated;
    }
    const Token op = lex_.take();
    if (op.kind != Token::Kind::word) {
        fail("expected an instruction", op.line);
    }
    if (s.guard.kind == Operand::Kind::none && accept(':')) {
        const std::string name(op.text);
        if (lex_.peek().is(".branchtargets") || lex_.peek().is(".callprototype") ||
            lex_.peek().is(".calltargets")) {
            table_ = name;
        }
        scopes_.back().labels[name] = static_cast<uint32_t>(f.statements.size());
        return;
    }
    s.opcode = op.text;
    for (size_t at = 0; at <= op.text.size();) {
        const size_t dot = std::min(op.text.find('.', at), op.text.size());
        s.parts.push_back(op.text.substr(at, dot - at));
        at = dot + 1;
    }
    if (!lex_.peek().is(';')) {
        do {
            s.operands.push_back(operand(f));
        } while (accept(','));
    }
    if (!accept(';')) {
        fail("expected ';' before '" + std::string(lex_.peek().text) + "'");
    }
    if (s.parts[0] == "bra" || s.parts[0] == "brx") {
        const uint32_t which = s.parts[0] == "bra" ? 0 : 1;
        if (s.operands.size() <= which) {
            fail("branch without a target", s.line);
        }
        scopes_.back().references.emplace_back(static_cast<uint32_t>(f.statements.size()), which);
    }
    f.statements.push_back(std::move(s));
}

}  // namespace

std::shared_ptr<const Module> parse(std::string text) {
    auto module = std::make_shared<Module>();
    module->text = std::move(text);
    Parser(*module).run();
    return module;
}

}  // namespace emu::ptx
