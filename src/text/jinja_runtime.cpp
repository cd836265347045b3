#include "text/jinja_runtime.h"

#include <algorithm>

#include "text/jinja_builtins.h"
#include "text/jinja_print.h"

namespace tutti::text::jinja {

// One level of nested evaluation, so that recursion ends before the stack does.
class Renderer::Level {
 public:
  explicit Level(Renderer& r) : r_(r) {
    r.budget_.step();
    if (++r.level_ > r.budget_.depth()) {
      --r.level_;
      throw Error(ErrorKind::kLimit, "the template recurses too deeply");
    }
  }
  ~Level() { --r_.level_; }

 private:
  Renderer& r_;
};

const Value* Scope::find(uint32_t name) const {
  for (const Scope* s = this; s; s = s->parent.get()) {
    for (const auto& [id, value] : s->variables) {
      if (id == name) return &value;
    }
  }
  return nullptr;
}

void Scope::set(uint32_t name, Value value) {
  for (auto& [id, old] : variables) {
    if (id == name) {
      old = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

Renderer::Renderer(const Template& source, const Limits& limits,
                   std::chrono::system_clock::time_point now)
    : template_(source), budget_(limits), output_limit_(limits.value_bytes), now_(now) {}

std::string Renderer::render(const nlohmann::ordered_json& context) {
  const auto globals = std::make_shared<Scope>();
  const auto root = std::make_shared<Scope>(globals);
  std::string out;
  try {
    for (uint32_t id = 0; id < template_.names.size(); ++id) {
      const std::string& name = template_.names[id];
      if (Value global = find_global(name); !global.is_undefined())
        globals->set(id, std::move(global));
      if (const auto it = context.find(name); it != context.end()) globals->set(id, from_json(*it));
    }
    run(template_.body, root, out);
  } catch (const Error& error) {
    throw Error(error.kind(), "chat template line " + std::to_string(line_) + ": " + error.what());
  }
  return out;
}

void Renderer::print(std::string& out, std::string_view text) {
  if (out.size() + text.size() > output_limit_)
    throw Error(ErrorKind::kLimit, "the output is too long");
  budget_.step(1 + text.size() / 64);
  out += text;
}

// ---- statements

Renderer::Flow Renderer::run(const Block& block, const ScopePtr& scope, std::string& out) {
  for (const auto& s : block) {
    line_ = s->line;
    if (const Flow flow = run(*s, scope, out); flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

Renderer::Flow Renderer::run(const Stmt& s, const ScopePtr& scope, std::string& out) {
  const Level level(*this);
  switch (s.kind) {
    case StmtKind::kText:
      print(out, s.text);
      break;
    case StmtKind::kPrint:
      for (const ExprPtr& e : s.exprs) print(out, to_text(eval(*e, scope), budget_));
      break;
    case StmtKind::kIf:
      return run_if(s, scope, out);
    case StmtKind::kFor:
      run_for(s, scope, out);
      break;
    case StmtKind::kSet:
      assign(*s.exprs[0], eval(*s.exprs[1], scope), *scope);
      break;
    case StmtKind::kSetBlock:
      run_set_block(s, scope);
      break;
    case StmtKind::kMacro:
      scope->set(s.name, define(s, scope));
      break;
    case StmtKind::kCallBlock:
      run_call_block(s, scope, out);
      break;
    case StmtKind::kFilterBlock: {
      const Value body = text(captured(s.blocks[0], scope));
      print(out, to_text(eval_filter(*s.exprs[0], scope, &body), budget_));
      break;
    }
    case StmtKind::kWith: {
      const auto inner = std::make_shared<Scope>(scope);
      for (size_t i = 0; i < s.exprs.size(); i += 2) {
        assign(*s.exprs[i], eval(*s.exprs[i + 1], scope), *inner);
      }
      return run(s.blocks[0], inner, out);
    }
    case StmtKind::kScope:
      print(out, captured(s.blocks[0], scope));
      break;
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kOn;
}

std::string Renderer::captured(const Block& block, const ScopePtr& scope) {
  std::string out;
  run(block, std::make_shared<Scope>(scope), out);
  budget_.make(out.size());
  return out;
}

Renderer::Flow Renderer::run_if(const Stmt& s, const ScopePtr& scope, std::string& out) {
  for (size_t i = 0; i < s.exprs.size(); ++i) {
    if (eval(*s.exprs[i], scope).truthy()) return run(s.blocks[i], scope, out);
  }
  return s.blocks.size() > s.exprs.size() ? run(s.blocks.back(), scope, out) : Flow::kOn;
}

void Renderer::run_for(const Stmt& s, const ScopePtr& scope, std::string& out) {
  run_loop(s, scope, eval(*s.exprs[1], scope), 0, out);
}

void Renderer::run_loop(const Stmt& s, const ScopePtr& scope, const Value& iterable, int depth0,
                        std::string& out) {
  std::vector<Value> items = iterate(iterable, budget_);
  if (s.exprs.size() > 2) {
    std::vector<Value> kept;
    for (Value& item : items) {
      const auto inner = std::make_shared<Scope>(scope);
      assign(*s.exprs[0], item, *inner);
      if (eval(*s.exprs[2], inner).truthy()) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  uint32_t loop_name = UINT32_MAX;
  for (uint32_t id = 0; id < template_.names.size(); ++id) {
    if (template_.names[id] == "loop") loop_name = id;
  }
  const auto loop = std::make_shared<Loop>();
  loop->sequence = make_array(std::move(items));
  loop->depth = loop->sequence.depth() + 1;
  loop->depth0 = depth0;
  loop->recursive = s.recursive ? &s : nullptr;
  loop->scope = scope;
  for (size_t i = 0; i < loop->items().size(); ++i) {
    loop->index = i;
    const auto inner = std::make_shared<Scope>(scope);
    if (loop_name != UINT32_MAX) inner->set(loop_name, Value(loop));
    assign(*s.exprs[0], loop->items()[i], *inner);
    if (run(s.blocks[0], inner, out) == Flow::kBreak) break;
  }
  if (loop->items().empty() && s.blocks.size() > 1) {
    run(s.blocks[1], std::make_shared<Scope>(scope), out);
  }
}

void Renderer::run_set_block(const Stmt& s, const ScopePtr& scope) {
  Value body = text(captured(s.blocks[0], scope));
  if (s.exprs.size() > 1) body = eval_filter(*s.exprs[1], scope, &body);
  assign(*s.exprs[0], body, *scope);
}

void Renderer::run_call_block(const Stmt& s, const ScopePtr& scope, std::string& out) {
  const Value caller = define(s, scope);
  print(out, to_text(eval_call(*s.exprs[0], scope, &caller), budget_));
}

void Renderer::assign(const Expr& target, const Value& value, Scope& scope) {
  if (target.kind == ExprKind::kName) {
    scope.set(target.name, value);
    return;
  }
  if (target.kind == ExprKind::kNamespaceTarget) {
    const Value* object = scope.find(target.name);
    if (!object || !object->names()) fail("cannot assign attribute on non-namespace object");
    if (target.text.starts_with("_"))
      fail("a namespace holds no names that start with an underscore");
    object->names()->attributes.set(Value(target.text), value, budget_);
    return;
  }
  const std::vector<Value> items = iterate(value, budget_);
  if (value.is_undefined()) require_defined(value);
  if (items.size() != target.parts.size()) {
    fail((items.size() < target.parts.size() ? "not enough" : "too many") +
         std::string(" values to unpack (expected ") + std::to_string(target.parts.size()) +
         ", got " + std::to_string(items.size()) + ")");
  }
  for (size_t i = 0; i < items.size(); ++i) assign(*target.parts[i], items[i], scope);
}

// ---- macros and calls

Value Renderer::define(const Stmt& s, const ScopePtr& scope) {
  budget_.make(sizeof(Macro) + sizeof(Callable));
  const Macro* macro = &macros_.emplace_back(Macro{&s, scope});
  return make_callable(
      s.text, 0, [macro](Renderer& r, Args args) { return r.invoke(*macro, std::move(args)); });
}

void Renderer::bind(const Macro& macro, Args& args, const ScopePtr& scope) {
  const Stmt& s = *macro.source;
  const auto take = [&](const std::string& name) -> std::optional<Value> {
    for (auto it = args.named.begin(); it != args.named.end(); ++it) {
      if (it->first != name) continue;
      Value v = std::move(it->second);
      args.named.erase(it);
      return v;
    }
    return std::nullopt;
  };
  const auto id = [&](const char* name) {
    return uint32_t(std::find(template_.names.begin(), template_.names.end(), name) -
                    template_.names.begin());
  };
  std::vector<std::optional<Value>> given;
  for (size_t i = 0; i < s.parameters.size(); ++i) {
    given.push_back(i < args.positional.size() ? std::optional(args.positional[i])
                                               : take(s.parameters[i].text));
  }
  if (s.uses_caller) {
    std::optional<Value> caller = take("caller");
    scope->set(id("caller"), caller ? *caller : Value::undefined("no caller defined"));
  }
  if (s.uses_kwargs) {
    Dict rest;
    for (const auto& [name, value] : args.named) rest.set(Value(name), value, budget_);
    scope->set(id("kwargs"), make_dict(std::move(rest)));
  } else if (!args.named.empty()) {
    fail("macro '" + s.text + "' takes no keyword argument '" + args.named[0].first + "'");
  }
  const size_t surplus =
      args.positional.size() - std::min(args.positional.size(), s.parameters.size());
  if (s.uses_varargs) {
    scope->set(id("varargs"),
               make_tuple({args.positional.end() - long(surplus), args.positional.end()}));
  } else if (surplus) {
    fail("macro '" + s.text + "' takes not more than " + std::to_string(s.parameters.size()) +
         " argument(s)");
  }
  for (size_t i = 0; i < s.parameters.size(); ++i) {  // defaults may name earlier parameters
    const Parameter& p = s.parameters[i];
    if (given[i]) {
      scope->set(p.name, *given[i]);
    } else if (p.otherwise) {
      scope->set(p.name, eval(*p.otherwise, scope));
    } else {
      scope->set(p.name, Value::undefined("parameter '" + p.text + "' was not provided"));
    }
  }
}

Value Renderer::invoke(const Macro& macro, Args args) {
  const Level level(*this);
  const auto scope = std::make_shared<Scope>(macro.scope);
  bind(macro, args, scope);
  std::string out;
  run(macro.source->blocks[0], scope, out);
  return text(std::move(out));
}

Value Renderer::call(const Value& callee, Args args) {
  require_defined(callee);
  if (const Callable* c = callee.callable()) {
    const int line = line_;
    Value result = c->call(*this, std::move(args));
    line_ = line;
    return result;
  }
  if (const auto loop = callee.loop()) {
    const ScopePtr scope = loop->scope.lock();
    if (!loop->recursive || !scope) fail("only a recursive loop can be called");
    if (args.positional.size() != 1 || !args.named.empty()) fail("loop() takes what to loop over");
    std::string out;
    run_loop(*loop->recursive, scope, args.positional[0], loop->depth0 + 1, out);
    return text(std::move(out));
  }
  fail("'" + callee.type_name() + "' object is not callable");
}

Namespace* Renderer::make_namespace() {
  budget_.make(sizeof(Namespace));
  return &namespaces_.emplace_back();
}

Value Renderer::call_filter(const std::string& name, const Value& input, const Args& args) {
  const Filter filter = find_filter(name);
  if (!filter) fail("no filter named '" + name + "'");
  budget_.step();
  return filter(*this, input, args);
}

bool Renderer::call_predicate(const std::string& name, const Value& input, const Args& args) {
  const Predicate predicate = find_predicate(name);
  if (!predicate) fail("no test named '" + name + "'");
  budget_.step();
  return predicate(*this, input, args);
}

// ---- expressions

Value Renderer::eval(const Expr& e, const ScopePtr& scope) {
  const Level level(*this);
  line_ = e.line;
  switch (e.kind) {
    case ExprKind::kConst:
      return e.constant;
    case ExprKind::kName:
      return eval_name(e, *scope);
    case ExprKind::kAnd: {
      Value left = eval(*e.parts[0], scope);
      return left.truthy() ? eval(*e.parts[1], scope) : left;
    }
    case ExprKind::kOr: {
      Value left = eval(*e.parts[0], scope);
      return left.truthy() ? left : eval(*e.parts[1], scope);
    }
    case ExprKind::kNot:
      return Value(!eval(*e.parts[0], scope).truthy());
    case ExprKind::kCondition:
      if (eval(*e.parts[0], scope).truthy()) return eval(*e.parts[1], scope);
      if (e.parts.size() > 2) return eval(*e.parts[2], scope);
      return Value::undefined(
          "the inline if-expression evaluated to false and no else section was defined");
    default:
      return eval_node(e, scope);
  }
}

Value Renderer::eval_node(const Expr& e, const ScopePtr& scope) {
  switch (e.kind) {
    case ExprKind::kList:
      return make_array(eval_parts(e, 0, scope));
    case ExprKind::kTuple:
      return make_tuple(eval_parts(e, 0, scope));
    case ExprKind::kDict:
      return eval_dict(e, scope);
    case ExprKind::kNegate:
    case ExprKind::kPlus: {
      const Value v = eval(*e.parts[0], scope);
      require_defined(v);
      if (!v.is_number()) fail("bad operand type for unary sign: '" + v.type_name() + "'");
      return binary(*this, e.kind == ExprKind::kPlus ? "+" : "-",
                    v.is_float() ? Value(e.kind == ExprKind::kPlus ? 0.0 : -0.0) : Value(0), v);
    }
    case ExprKind::kBinary: {
      const Value left = eval(*e.parts[0], scope);
      return binary(*this, e.text, left, eval(*e.parts[1], scope));
    }
    case ExprKind::kCompare:
      return eval_compare(e, scope);
    case ExprKind::kConcat:
      return eval_concat(e, scope);
    case ExprKind::kAttribute:
      return attribute(*this, eval(*e.parts[0], scope), e.text);
    case ExprKind::kItem: {
      const Value object = eval(*e.parts[0], scope);
      return item(*this, object, eval(*e.parts[1], scope));
    }
    case ExprKind::kSlice:
      return eval_slice(e, scope);
    case ExprKind::kCall:
      return eval_call(e, scope, nullptr);
    case ExprKind::kFilter:
      return eval_filter(e, scope, nullptr);
    case ExprKind::kTest:
      return eval_test(e, scope);
    default:
      fail("not an expression");
  }
}

Value Renderer::eval_name(const Expr& e, const Scope& scope) {
  if (const Value* v = scope.find(e.name)) return *v;
  return Value::undefined("'" + template_.names[e.name] + "' is undefined");
}

Value Renderer::eval_compare(const Expr& e, const ScopePtr& scope) {
  Value left = eval(*e.parts[0], scope);
  for (size_t i = 0; i < e.operators.size(); ++i) {
    Value right = eval(*e.parts[i + 1], scope);
    const std::string& op = e.operators[i];
    bool holds = false;
    if (op == "==") {
      holds = equal(left, right, budget_);
    } else if (op == "!=") {
      holds = !equal(left, right, budget_);
    } else if (op == "in") {
      holds = contains(right, left, budget_);
    } else if (op == "not in") {
      holds = !contains(right, left, budget_);
    } else {
      const bool nan = (left.is_float() && left.real() != left.real()) ||
                       (right.is_float() && right.real() != right.real());
      const int sign = order(left, right, budget_);
      holds = !nan && (op == "<"    ? sign < 0
                       : op == "<=" ? sign <= 0
                       : op == ">"  ? sign > 0
                                    : sign >= 0);
    }
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Value Renderer::eval_concat(const Expr& e, const ScopePtr& scope) {
  std::string out;
  for (const ExprPtr& part : e.parts) {
    const std::string s = to_text(eval(*part, scope), budget_);
    budget_.make(out.size() + s.size());
    out += s;
  }
  return Value(std::move(out));
}

Value Renderer::eval_dict(const Expr& e, const ScopePtr& scope) {
  Dict dict;
  for (size_t i = 0; i < e.parts.size(); i += 2) {
    const Value key = eval(*e.parts[i], scope);
    require_hashable(key);
    dict.set(key, eval(*e.parts[i + 1], scope), budget_);
  }
  return make_dict(std::move(dict));
}

std::vector<Value> Renderer::eval_parts(const Expr& e, size_t from, const ScopePtr& scope) {
  std::vector<Value> values;
  for (size_t i = from; i < e.parts.size(); ++i) values.push_back(eval(*e.parts[i], scope));
  return values;
}

Args Renderer::eval_arguments(const Expr& e, const ScopePtr& scope) {
  Args args;
  args.positional = eval_parts(e, 1, scope);
  if (e.star) {
    for (Value& v : iterate(eval(*e.star, scope), budget_)) args.positional.push_back(std::move(v));
  }
  for (const auto& [name, part] : e.named) args.named.emplace_back(name, eval(*part, scope));
  if (e.double_star) {
    const Value rest = eval(*e.double_star, scope);
    if (!rest.dict()) fail("argument after ** must be a mapping, not " + rest.type_name());
    for (const auto& [key, value] : rest.dict()->entries) {
      if (!key.is_string()) fail("keywords must be strings");
      for (const auto& [name, _] : args.named) {
        if (name == key.text()) fail("got multiple values for keyword argument '" + name + "'");
      }
      args.named.emplace_back(key.text(), value);
    }
  }
  return args;
}

Value Renderer::eval_slice(const Expr& e, const ScopePtr& scope) {
  Value values[4];
  const Value* bounds[3] = {};
  for (size_t i = 0; i < 4; ++i) {
    if (!e.parts[i]) continue;
    values[i] = eval(*e.parts[i], scope);
    if (i > 0) bounds[i - 1] = &values[i];
  }
  return slice_of(*this, values[0], bounds);
}

Value Renderer::eval_call(const Expr& e, const ScopePtr& scope, const Value* caller) {
  const Value callee = eval(*e.parts[0], scope);
  require_defined(callee);
  Args args = eval_arguments(e, scope);
  if (caller) args.named.emplace_back("caller", *caller);
  line_ = e.line;
  return call(callee, std::move(args));
}

Value Renderer::eval_filter(const Expr& e, const ScopePtr& scope, const Value* input) {
  const Level level(*this);
  Value value;
  if (e.parts[0]) {
    value = e.parts[0]->kind == ExprKind::kFilter ? eval_filter(*e.parts[0], scope, input)
                                                  : eval(*e.parts[0], scope);
  } else if (input) {
    value = *input;
  }
  if (!e.filter) fail("no filter named '" + e.text + "'");
  const Args args = eval_arguments(e, scope);
  line_ = e.line;
  return e.filter(*this, value, args);
}

Value Renderer::eval_test(const Expr& e, const ScopePtr& scope) {
  const Value value = eval(*e.parts[0], scope);
  if (!e.predicate) fail("no test named '" + e.text + "'");
  const Args args = eval_arguments(e, scope);
  line_ = e.line;
  return Value(e.predicate(*this, value, args));
}

}  // namespace tutti::text::jinja
