// Renders a parsed template: scopes, loops, macros, calls.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "text/jinja_budget.h"
#include "text/jinja_syntax.h"
#include "text/jinja_value.h"

namespace tutti::text::jinja {

// Variables of one block. Lookups go outwards; assignments stay here.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<uint32_t, Value>> variables;

  explicit Scope(std::shared_ptr<Scope> p = nullptr) : parent(std::move(p)) {}
  const Value* find(uint32_t name) const;
  void set(uint32_t name, Value value);
};
using ScopePtr = std::shared_ptr<Scope>;

// The `loop` variable.
struct Loop {
  Value sequence;  // a list of what is looped over
  size_t index = 0;
  int depth0 = 0;
  int depth = 1;  // of nesting as a value
  std::vector<Value> last_changed;
  bool changed_before = false;
  const Stmt* recursive = nullptr;  // the for statement, to be entered again by loop(...)
  std::weak_ptr<Scope> scope;       // where that statement stands

  const std::vector<Value>& items() const { return sequence.array()->items; }
};

class Renderer {
 public:
  Renderer(const Template& source, const Limits& limits, std::chrono::system_clock::time_point now);

  // Renders with `context` (an object) as the variables. Throws Error naming the line.
  std::string render(const nlohmann::ordered_json& context);

  // For filters, tests and methods.
  Budget& budget() { return budget_; }
  std::chrono::system_clock::time_point now() const { return now_; }
  Value call(const Value& callee, Args args);
  Value call_filter(const std::string& name, const Value& input, const Args& args);
  bool call_predicate(const std::string& name, const Value& input, const Args& args);
  Namespace* make_namespace();
  Value text(std::string s, bool markup = false) {
    budget_.make(s.size());
    return Value(std::move(s), markup);
  }

 private:
  enum class Flow { kOn, kBreak, kContinue };
  struct Macro {
    const Stmt* source;
    ScopePtr scope;  // where it was defined
  };
  class Level;

  Flow run(const Block& block, const ScopePtr& scope, std::string& out);
  Flow run(const Stmt& s, const ScopePtr& scope, std::string& out);
  Flow run_if(const Stmt& s, const ScopePtr& scope, std::string& out);
  void run_for(const Stmt& s, const ScopePtr& scope, std::string& out);
  void run_loop(const Stmt& s, const ScopePtr& scope, const Value& iterable, int depth0,
                std::string& out);
  void run_set_block(const Stmt& s, const ScopePtr& scope);
  void run_call_block(const Stmt& s, const ScopePtr& scope, std::string& out);
  std::string captured(const Block& block, const ScopePtr& scope);
  void assign(const Expr& target, const Value& value, Scope& scope);
  Value define(const Stmt& s, const ScopePtr& scope);
  Value invoke(const Macro& macro, Args args);
  void bind(const Macro& macro, Args& args, const ScopePtr& scope);

  Value eval(const Expr& e, const ScopePtr& scope);
  Value eval_node(const Expr& e, const ScopePtr& scope);
  Value eval_name(const Expr& e, const Scope& scope);
  Value eval_compare(const Expr& e, const ScopePtr& scope);
  Value eval_concat(const Expr& e, const ScopePtr& scope);
  Value eval_dict(const Expr& e, const ScopePtr& scope);
  Value eval_slice(const Expr& e, const ScopePtr& scope);
  Value eval_call(const Expr& e, const ScopePtr& scope, const Value* caller);
  Value eval_filter(const Expr& e, const ScopePtr& scope, const Value* input);
  Value eval_test(const Expr& e, const ScopePtr& scope);
  std::vector<Value> eval_parts(const Expr& e, size_t from, const ScopePtr& scope);
  Args eval_arguments(const Expr& e, const ScopePtr& scope);
  void print(std::string& out, std::string_view text);

  const Template& template_;
  Budget budget_;
  const size_t output_limit_;
  const std::chrono::system_clock::time_point now_;
  int line_ = 1;
  int level_ = 0;
  std::deque<Macro> macros_;  // values point at these, so that closures are no cycles
  std::deque<Namespace> namespaces_;
};

}  // namespace tutti::text::jinja
