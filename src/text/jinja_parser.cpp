#include <algorithm>
#include <set>
#include <unordered_map>

#include "text/jinja_builtins.h"
#include "text/jinja_lexer.h"
#include "text/jinja_syntax.h"

namespace tutti::text::jinja {

namespace {

constexpr int kMaxNesting = 150;  // of expressions and blocks in the source
constexpr int kMaxDepthOfTree = 400;

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenise(source)) {}

  Template run() {
    template_.body = block({});
    return std::move(template_);
  }

 private:
  // One level of nesting; hostile sources nest until the stack ends.
  struct Level {
    explicit Level(Parser& p) : parser(p) {
      if (++parser.nesting_ > kMaxNesting)
        syntax_error(parser.token().line, "the source nests too deeply");
    }
    ~Level() { --parser.nesting_; }
    Parser& parser;
  };

  // jinja2 refuses unknown filters and tests at once, but inside a condition only when they are
  // reached.
  struct Soft {
    Soft(Parser& p, bool soft) : parser(p), before(p.soft_) { parser.soft_ = soft; }
    ~Soft() { parser.soft_ = before; }
    Parser& parser;
    bool before;
  };

  const Token& token(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& next() {
    const Token& t = token();
    if (at_ + 1 < tokens_.size()) ++at_;
    return t;
  }
  bool is(TokenKind kind, std::string_view text, size_t ahead = 0) const {
    return token(ahead).kind == kind && token(ahead).text == text;
  }
  bool is_op(std::string_view text, size_t ahead = 0) const {
    return is(TokenKind::kOperator, text, ahead);
  }
  bool is_word(std::string_view text, size_t ahead = 0) const {
    return is(TokenKind::kName, text, ahead);
  }
  bool skip_op(std::string_view text) { return is_op(text) && (next(), true); }
  bool skip_word(std::string_view text) { return is_word(text) && (next(), true); }
  std::string shown() const {
    switch (token().kind) {
      case TokenKind::kText:
        return "text";
      case TokenKind::kBlockBegin:
        return "'{%'";
      case TokenKind::kBlockEnd:
        return "'%}'";
      case TokenKind::kVariableBegin:
        return "'{{'";
      case TokenKind::kVariableEnd:
        return "'}}'";
      case TokenKind::kEnd:
        return "the end of the template";
      default:
        return "'" + token().text + "'";
    }
  }
  [[noreturn]] void expected(const std::string& what) const {
    syntax_error(token().line, "expected " + what + ", got " + shown());
  }
  void expect_op(const std::string& text) {
    if (!skip_op(text)) expected("'" + text + "'");
  }
  void expect_word(const std::string& text) {
    if (!skip_word(text)) expected("'" + text + "'");
  }
  const Token& expect(TokenKind kind, const std::string& what) {
    if (token().kind != kind) expected(what);
    return next();
  }

  uint32_t intern(const std::string& text) {
    const auto [it, added] = ids_.try_emplace(text, uint32_t(template_.names.size()));
    if (added) template_.names.push_back(text);
    return it->second;
  }
  static ExprPtr expr(ExprKind kind, int line) {
    auto e = std::make_unique<Expr>();
    e->kind = kind;
    e->line = line;
    return e;
  }
  // Notes how deep the tree below `e` is: chains like a + b + c nest without nesting in the source.
  static void measure(Expr& e) {
    const auto include = [&](const ExprPtr& part) {
      if (part) e.depth = std::max(e.depth, part->depth + 1);
    };
    for (const ExprPtr& part : e.parts) include(part);
    for (const auto& [_, part] : e.named) include(part);
    include(e.star);
    include(e.double_star);
    if (e.depth > kMaxDepthOfTree) syntax_error(e.line, "the expression is too long");
  }
  template <typename... Parts>
  static ExprPtr expr_of(ExprKind kind, int line, Parts... parts) {
    ExprPtr e = expr(kind, line);
    (e->parts.push_back(std::move(parts)), ...);
    measure(*e);
    return e;
  }
  static std::unique_ptr<Stmt> stmt(StmtKind kind, int line) {
    auto s = std::make_unique<Stmt>();
    s->kind = kind;
    s->line = line;
    return s;
  }

  // ---- statements

  // Statements until a tag named in `ends`; that name is the current token afterwards.
  Block block(std::initializer_list<std::string_view> ends) {
    const Level level(*this);
    Block out;
    while (token().kind != TokenKind::kEnd) {
      const int line = token().line;
      if (token().kind == TokenKind::kText) {
        auto s = stmt(StmtKind::kText, line);
        s->text = next().text;
        out.push_back(std::move(s));
      } else if (token().kind == TokenKind::kVariableBegin) {
        next();
        auto s = stmt(StmtKind::kPrint, line);
        s->exprs.push_back(tuple());
        expect(TokenKind::kVariableEnd, "'}}'");
        out.push_back(std::move(s));
      } else {
        expect(TokenKind::kBlockBegin, "'{%'");
        for (const std::string_view end : ends) {
          if (is_word(end)) return out;
        }
        if (token().kind != TokenKind::kName) expected("a tag name");
        out.push_back(statement());
        expect(TokenKind::kBlockEnd, "'%}'");
      }
    }
    if (ends.size()) expected("{% " + std::string(*(ends.end() - 1)) + " %}");
    return out;
  }

  // The body of a tag: from its "%}" to one of `ends`, which stays the current token.
  Block body(std::initializer_list<std::string_view> ends) {
    skip_op(":");
    expect(TokenKind::kBlockEnd, "'%}'");
    return block(ends);
  }

  std::unique_ptr<Stmt> statement() {
    const int line = token().line;
    const std::string tag = token().text;
    if (tag == "for") return for_statement();
    if (tag == "if") return if_statement();
    if (tag == "macro") return macro();
    if (tag == "call") return call_block();
    next();
    if (tag == "set") return set_statement(line);
    if (tag == "filter") {
      const Soft soft(*this, false);
      auto s = stmt(StmtKind::kFilterBlock, line);
      s->exprs.push_back(filter_chain(nullptr, true));
      s->blocks.push_back(body({"endfilter"}));
      next();
      return s;
    }
    if (tag == "with") return with_statement(line);
    if (tag == "print") {
      auto s = stmt(StmtKind::kPrint, line);
      while (token().kind != TokenKind::kBlockEnd) {
        if (!s->exprs.empty()) expect_op(",");
        s->exprs.push_back(expression());
      }
      return s;
    }
    if (tag == "generation") {  // marks what the model says, for training masks; it prints its body
      const Soft soft(*this, false);
      const int loops = std::exchange(loops_, 0);
      auto s = stmt(StmtKind::kScope, line);
      s->blocks.push_back(body({"endgeneration"}));
      next();
      loops_ = loops;
      return s;
    }
    if (tag == "break" || tag == "continue") {
      if (loops_ == 0) syntax_error(line, "'" + tag + "' outside of a loop");
      return stmt(tag == "break" ? StmtKind::kBreak : StmtKind::kContinue, line);
    }
    for (const char* other : {"include", "import", "from", "extends", "block", "autoescape"}) {
      if (tag == other) {
        throw Error(ErrorKind::kUnsupported,
                    "chat template line " + std::to_string(line) + ": tag '" + tag +
                        "' is not for chat templates; inline what it does");
      }
    }
    syntax_error(line, "unknown tag '" + tag + "'");
  }

  std::unique_ptr<Stmt> set_statement(int line) {
    ExprPtr target = this->target({}, true);
    if (skip_op("=")) {
      auto s = stmt(StmtKind::kSet, line);
      s->exprs.push_back(std::move(target));
      s->exprs.push_back(tuple());
      return s;
    }
    const Soft soft(*this, false);
    auto s = stmt(StmtKind::kSetBlock, line);
    s->exprs.push_back(std::move(target));
    if (ExprPtr filters = filter_chain(nullptr, false)) s->exprs.push_back(std::move(filters));
    s->blocks.push_back(body({"endset"}));
    next();
    return s;
  }

  std::unique_ptr<Stmt> for_statement() {
    auto s = stmt(StmtKind::kFor, next().line);
    s->exprs.push_back(target("in", false));
    expect_word("in");
    s->exprs.push_back(tuple(false, "recursive"));
    const Soft soft(*this, false);
    if (skip_word("if")) s->exprs.push_back(expression());
    s->recursive = skip_word("recursive");
    ++loops_;
    s->blocks.push_back(body({"else", "endfor"}));
    --loops_;
    if (next().text == "else") {
      s->blocks.push_back(body({"endfor"}));
      next();
    }
    return s;
  }

  std::unique_ptr<Stmt> if_statement() {
    auto s = stmt(StmtKind::kIf, token().line);
    const Soft soft(*this, true);
    while (true) {
      next();
      s->exprs.push_back(tuple(false));
      s->blocks.push_back(body({"elif", "else", "endif"}));
      if (!is_word("elif")) break;
    }
    if (next().text == "else") {
      s->blocks.push_back(body({"endif"}));
      next();
    }
    return s;
  }

  std::unique_ptr<Stmt> with_statement(int line) {
    const Soft soft(*this, false);
    auto s = stmt(StmtKind::kWith, line);
    while (token().kind != TokenKind::kBlockEnd) {
      if (!s->exprs.empty()) expect_op(",");
      s->exprs.push_back(target({}, false));
      expect_op("=");
      s->exprs.push_back(expression());
    }
    s->blocks.push_back(body({"endwith"}));
    next();
    return s;
  }

  void signature(Stmt& s) {
    expect_op("(");
    while (!is_op(")")) {
      if (!s.parameters.empty()) expect_op(",");
      Parameter p;
      p.text = expect(TokenKind::kName, "a parameter name").text;
      p.name = intern(p.text);
      if (skip_op("=")) {
        p.otherwise = expression();
      } else if (!s.parameters.empty() && s.parameters.back().otherwise) {
        syntax_error(token().line, "a parameter without default follows one with default");
      }
      s.parameters.push_back(std::move(p));
    }
    expect_op(")");
  }

  // The body of a macro, noting which of its implicit variables it uses.
  void macro_body(Stmt& s, std::string_view end) {
    const Soft soft(*this, false);
    const int loops = std::exchange(loops_, 0);
    implicit_.emplace_back();
    s.blocks.push_back(body({end}));
    next();
    loops_ = loops;
    const std::set<std::string> used = std::move(implicit_.back());
    implicit_.pop_back();
    const auto uses = [&](const char* name) {
      for (const Parameter& p : s.parameters) {
        if (p.text == name) return false;
      }
      return used.contains(name);
    };
    s.uses_caller = uses("caller");
    s.uses_varargs = uses("varargs");
    s.uses_kwargs = uses("kwargs");
    if (!implicit_.empty()) implicit_.back().insert(used.begin(), used.end());
  }

  std::unique_ptr<Stmt> macro() {
    auto s = stmt(StmtKind::kMacro, next().line);
    s->text = expect(TokenKind::kName, "a macro name").text;
    s->name = intern(s->text);
    signature(*s);
    macro_body(*s, "endmacro");
    return s;
  }

  std::unique_ptr<Stmt> call_block() {
    auto s = stmt(StmtKind::kCallBlock, next().line);
    s->text = "caller";
    if (is_op("(")) signature(*s);
    s->exprs.push_back(expression());
    if (s->exprs[0]->kind != ExprKind::kCall) syntax_error(s->line, "expected a call");
    macro_body(*s, "endcall");
    return s;
  }

  // ---- targets

  ExprPtr target(std::string_view end, bool with_namespace) {
    const int line = token().line;
    std::vector<ExprPtr> parts;
    bool is_tuple = false;
    while (true) {
      if (!parts.empty()) expect_op(",");
      if (tuple_ends(end)) break;
      parts.push_back(single_target(with_namespace));
      if (!is_op(",")) break;
      is_tuple = true;
    }
    if (parts.empty()) expected("a name to assign to");
    if (!is_tuple) return std::move(parts[0]);
    ExprPtr t = expr(ExprKind::kTuple, line);
    t->parts = std::move(parts);
    measure(*t);
    return t;
  }

  ExprPtr single_target(bool with_namespace) {
    const Level level(*this);
    const int line = token().line;
    if (skip_op("(")) {
      ExprPtr inner = target(")", with_namespace);
      expect_op(")");
      return inner;
    }
    const std::string text = expect(TokenKind::kName, "a name to assign to").text;
    for (const char* fixed : {"true", "false", "none", "True", "False", "None"}) {
      if (text == fixed) syntax_error(line, "can't assign to '" + text + "'");
    }
    if (with_namespace && skip_op(".")) {
      ExprPtr e = expr(ExprKind::kNamespaceTarget, line);
      e->name = intern(text);
      e->text = expect(TokenKind::kName, "an attribute name").text;
      return e;
    }
    ExprPtr e = expr(ExprKind::kName, line);
    e->name = intern(text);
    return e;
  }

  // ---- expressions, in jinja2's precedence

  bool tuple_ends(std::string_view word) const {
    return token().kind == TokenKind::kVariableEnd || token().kind == TokenKind::kBlockEnd ||
           is_op(")") || (!word.empty() && is_word(word));
  }

  ExprPtr tuple(bool conditional = true, std::string_view end = {}, bool empty_allowed = false) {
    const int line = token().line;
    std::vector<ExprPtr> parts;
    bool is_tuple = false;
    while (true) {
      if (!parts.empty()) expect_op(",");
      if (tuple_ends(end)) break;
      parts.push_back(conditional ? expression() : or_expression());
      if (!is_op(",")) break;
      is_tuple = true;
    }
    if (!is_tuple && !parts.empty()) return std::move(parts[0]);
    if (!is_tuple && !empty_allowed) expected("an expression");
    ExprPtr t = expr(ExprKind::kTuple, line);
    t->parts = std::move(parts);
    measure(*t);
    return t;
  }

  ExprPtr expression() {
    const Level level(*this);
    const int line = token().line;
    // Filters of the first operand come before its "if" is seen; they are soft then, so look for it
    // after.
    const size_t unknown = unknown_.size();
    ExprPtr e = or_expression();
    while (skip_word("if")) {
      unknown_.resize(unknown);
      const Soft soft(*this, true);
      ExprPtr test = or_expression();
      if (skip_word("else")) {
        ExprPtr otherwise = expression();
        e = expr_of(ExprKind::kCondition, line, std::move(test), std::move(e),
                    std::move(otherwise));
      } else {
        e = expr_of(ExprKind::kCondition, line, std::move(test), std::move(e));
      }
    }
    return e;
  }

  ExprPtr or_expression() {
    ExprPtr left = and_expression();
    while (is_word("or")) {
      const int line = next().line;
      left = expr_of(ExprKind::kOr, line, std::move(left), and_expression());
    }
    return left;
  }

  ExprPtr and_expression() {
    ExprPtr left = not_expression();
    while (is_word("and")) {
      const int line = next().line;
      left = expr_of(ExprKind::kAnd, line, std::move(left), not_expression());
    }
    return left;
  }

  ExprPtr not_expression() {
    if (!is_word("not")) return comparison();
    const Level level(*this);
    const int line = next().line;
    return expr_of(ExprKind::kNot, line, not_expression());
  }

  ExprPtr comparison() {
    ExprPtr first = sum();
    ExprPtr chain;
    while (true) {
      std::string op;
      for (const char* symbol : {"==", "!=", "<", "<=", ">", ">="}) {
        if (is_op(symbol)) op = symbol;
      }
      if (is_word("in")) op = "in";
      if (is_word("not") && is_word("in", 1)) {
        op = "not in";
        next();
      }
      if (op.empty()) break;
      const int line = next().line;
      if (!chain) chain = expr_of(ExprKind::kCompare, line, std::move(first));
      chain->operators.push_back(op);
      chain->parts.push_back(sum());
    }
    if (chain) measure(*chain);
    return chain ? std::move(chain) : std::move(first);
  }

  template <typename Operand>
  ExprPtr left_chain(std::initializer_list<std::string_view> operators, Operand operand) {
    ExprPtr left = operand();
    while (true) {
      bool found = false;
      for (const std::string_view op : operators) {
        if (!is_op(op)) continue;
        const int line = next().line;
        left = expr_of(ExprKind::kBinary, line, std::move(left), operand());
        left->text = op;
        found = true;
        break;
      }
      if (!found) return left;
    }
  }

  ExprPtr sum() {
    return left_chain({"+", "-"}, [this] { return concatenation(); });
  }
  ExprPtr concatenation() {
    ExprPtr first = product();
    if (!is_op("~")) return first;
    ExprPtr e = expr_of(ExprKind::kConcat, token().line, std::move(first));
    while (skip_op("~")) e->parts.push_back(product());
    measure(*e);
    return e;
  }
  ExprPtr product() {
    return left_chain({"*", "/", "//", "%"}, [this] { return power(); });
  }
  ExprPtr power() {
    return left_chain({"**"}, [this] { return unary(true); });
  }

  ExprPtr unary(bool with_filters) {
    const Level level(*this);
    const int line = token().line;
    ExprPtr e;
    if (skip_op("-")) {
      e = expr_of(ExprKind::kNegate, line, unary(false));
    } else if (skip_op("+")) {
      e = expr_of(ExprKind::kPlus, line, unary(false));
    } else {
      e = primary();
    }
    e = postfix(std::move(e));
    return with_filters ? filters_and_tests(std::move(e)) : std::move(e);
  }

  ExprPtr constant(int line, Value value) {
    ExprPtr e = expr(ExprKind::kConst, line);
    e->constant = std::move(value);
    return e;
  }

  ExprPtr primary() {
    const Token t = token();
    switch (t.kind) {
      case TokenKind::kName: {
        next();
        if (t.text == "true" || t.text == "True") return constant(t.line, Value(true));
        if (t.text == "false" || t.text == "False") return constant(t.line, Value(false));
        if (t.text == "none" || t.text == "None") return constant(t.line, Value(None{}));
        ExprPtr e = expr(ExprKind::kName, t.line);
        e->name = intern(t.text);
        if (!implicit_.empty() &&
            (t.text == "caller" || t.text == "varargs" || t.text == "kwargs")) {
          implicit_.back().insert(t.text);
        }
        return e;
      }
      case TokenKind::kString: {
        std::string text = next().text;
        while (token().kind == TokenKind::kString) text += next().text;
        return constant(t.line, Value(std::move(text)));
      }
      case TokenKind::kInteger:
        return constant(next().line, Value(t.integer));
      case TokenKind::kFloat:
        return constant(next().line, Value(t.real));
      default:
        break;
    }
    if (skip_op("(")) {
      ExprPtr e = tuple(true, {}, true);
      expect_op(")");
      return e;
    }
    if (is_op("[")) return list();
    if (is_op("{")) return dict();
    syntax_error(t.line, "unexpected " + shown());
  }

  ExprPtr list() {
    ExprPtr e = expr(ExprKind::kList, next().line);
    while (!is_op("]")) {
      if (!e->parts.empty()) expect_op(",");
      if (is_op("]")) break;
      e->parts.push_back(expression());
    }
    expect_op("]");
    measure(*e);
    return e;
  }

  ExprPtr dict() {
    ExprPtr e = expr(ExprKind::kDict, next().line);
    while (!is_op("}")) {
      if (!e->parts.empty()) expect_op(",");
      if (is_op("}")) break;
      e->parts.push_back(expression());
      expect_op(":");
      e->parts.push_back(expression());
    }
    expect_op("}");
    measure(*e);
    return e;
  }

  ExprPtr postfix(ExprPtr e) {
    while (true) {
      const int line = token().line;
      if (skip_op(".")) {
        if (token().kind == TokenKind::kInteger) {
          e = expr_of(ExprKind::kItem, line, std::move(e), constant(line, Value(next().integer)));
        } else {
          e = expr_of(ExprKind::kAttribute, line, std::move(e));
          e->text = expect(TokenKind::kName, "a name or number").text;
        }
      } else if (skip_op("[")) {
        e = subscript(std::move(e), line);
      } else if (is_op("(")) {
        e = expr_of(ExprKind::kCall, line, std::move(e));
        arguments(*e);
      } else {
        return e;
      }
    }
  }

  ExprPtr subscript(ExprPtr object, int line) {
    if (is_op("]")) {  // x[] asks for the empty tuple
      next();
      return expr_of(ExprKind::kItem, line, std::move(object), expr(ExprKind::kTuple, line));
    }
    ExprPtr start, stop, step;
    if (!is_op(":")) {
      start = expression();
      if (is_op(",")) {
        ExprPtr key = expr_of(ExprKind::kTuple, line, std::move(start));
        while (skip_op(",")) {
          if (!is_op("]")) key->parts.push_back(expression());
        }
        measure(*key);
        expect_op("]");
        return expr_of(ExprKind::kItem, line, std::move(object), std::move(key));
      }
      if (skip_op("]")) return expr_of(ExprKind::kItem, line, std::move(object), std::move(start));
    }
    expect_op(":");
    if (!is_op(":") && !is_op("]")) stop = expression();
    if (skip_op(":") && !is_op("]")) step = expression();
    expect_op("]");
    return expr_of(ExprKind::kSlice, line, std::move(object), std::move(start), std::move(stop),
                   std::move(step));
  }

  void arguments(Expr& call) {
    const int line = token().line;
    expect_op("(");
    const auto require = [&](bool ok) {
      if (!ok) syntax_error(line, "invalid syntax for function call expression");
    };
    bool first = true;
    while (!is_op(")")) {
      if (!first) {
        expect_op(",");
        if (is_op(")")) break;
      }
      first = false;
      if (skip_op("*")) {
        require(!call.star && !call.double_star);
        call.star = expression();
      } else if (skip_op("**")) {
        require(!call.double_star);
        call.double_star = expression();
      } else if (token().kind == TokenKind::kName && is_op("=", 1)) {
        require(!call.double_star);
        std::string name = next().text;
        next();
        call.named.emplace_back(std::move(name), expression());
      } else {
        require(!call.star && !call.double_star && call.named.empty());
        call.parts.push_back(expression());
      }
    }
    expect_op(")");
    measure(call);
  }

  std::string dotted_name(const std::string& what) {
    std::string name = expect(TokenKind::kName, what).text;
    while (skip_op(".")) name += "." + expect(TokenKind::kName, what).text;
    return name;
  }

  void unknown(int line, const std::string& message) {
    if (!soft_) unknown_.emplace_back(line, message);
  }
  void refuse_unknown() const {
    if (!unknown_.empty()) syntax_error(unknown_[0].first, unknown_[0].second);
  }

  ExprPtr filter_chain(ExprPtr input, bool at_name) {
    while (at_name || is_op("|")) {
      if (!at_name) next();
      at_name = false;
      ExprPtr e = expr_of(ExprKind::kFilter, token().line, std::move(input));
      e->text = dotted_name("a filter name");
      e->filter = find_filter(e->text);
      if (!e->filter) unknown(e->line, "no filter named '" + e->text + "'");
      if (is_op("(")) arguments(*e);
      input = std::move(e);
    }
    return input;
  }

  ExprPtr filters_and_tests(ExprPtr e) {
    while (true) {
      if (is_op("|")) {
        e = filter_chain(std::move(e), false);
      } else if (is_word("is")) {
        e = test(std::move(e));
      } else if (is_op("(")) {
        e = expr_of(ExprKind::kCall, token().line, std::move(e));
        arguments(*e);
      } else {
        return e;
      }
    }
  }

  ExprPtr test(ExprPtr input) {
    const int line = next().line;
    const bool negated = skip_word("not");
    ExprPtr e = expr_of(ExprKind::kTest, line, std::move(input));
    e->text = dotted_name("a test name");
    e->predicate = find_predicate(e->text);
    if (!e->predicate) unknown(line, "no test named '" + e->text + "'");
    const TokenKind kind = token().kind;
    const bool starts_value = kind == TokenKind::kName || kind == TokenKind::kString ||
                              kind == TokenKind::kInteger || kind == TokenKind::kFloat ||
                              is_op("[") || is_op("{");
    if (is_op("(")) {
      arguments(*e);
    } else if (starts_value && !is_word("else") && !is_word("or") && !is_word("and")) {
      if (is_word("is")) syntax_error(token().line, "tests with 'is' cannot be chained");
      const Level level(*this);
      e->parts.push_back(postfix(primary()));
      measure(*e);
    }
    return negated ? expr_of(ExprKind::kNot, line, std::move(e)) : std::move(e);
  }

 public:
  static Template parse_all(std::string_view source) {
    Parser parser(source);
    Template t = parser.run();
    parser.refuse_unknown();
    return t;
  }

 private:
  const std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
  int loops_ = 0;
  bool soft_ = false;
  std::vector<std::pair<int, std::string>> unknown_;  // what jinja2 refuses to compile
  std::vector<std::set<std::string>> implicit_;  // caller, varargs, kwargs used, per open macro
  std::unordered_map<std::string, uint32_t> ids_;
  Template template_;
};

}  // namespace

Template parse(std::string_view source) { return Parser::parse_all(source); }

}  // namespace tutti::text::jinja
