// The syntax tree of a template.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_value.h"

namespace tutti::text::jinja {

using Filter = Value (*)(Renderer&, const Value& input, const Args&);
using Predicate = bool (*)(Renderer&, const Value& input, const Args&);

enum class ExprKind : uint8_t {
  kConst,
  kName,
  kList,
  kTuple,
  kDict,  // parts: key, value, key, value ...
  kNot,
  kNegate,
  kPlus,
  kBinary,  // text: operator; parts: left, right
  kAnd,
  kOr,
  kCompare,          // parts: first, then one per entry of `operators`
  kConcat,           // ~
  kCondition,        // parts: test, then, [else]
  kAttribute,        // parts: object; text: name
  kItem,             // parts: object, key
  kSlice,            // parts: object, start, stop, step (null where left out)
  kCall,             // parts: callee, positional arguments
  kFilter,           // parts: input (null in filter blocks), arguments; text: name
  kTest,             // parts: input, arguments; text: name
  kNamespaceTarget,  // name.text, only assigned to
};

struct Expr {
  ExprKind kind;
  int line = 0;
  int depth = 1;      // of the tree from here down
  uint32_t name = 0;  // of kName and kNamespaceTarget, an index into Template::names
  std::string text;
  Value constant;
  std::vector<std::unique_ptr<Expr>> parts;
  std::vector<std::string> operators;
  std::vector<std::pair<std::string, std::unique_ptr<Expr>>> named;  // keyword arguments
  std::unique_ptr<Expr> star, double_star;                           // *args, **kwargs
  Filter filter = nullptr;                                           // null: unknown name
  Predicate predicate = nullptr;
};
using ExprPtr = std::unique_ptr<Expr>;

struct Stmt;
using Block = std::vector<std::unique_ptr<Stmt>>;

enum class StmtKind : uint8_t {
  kText,
  kPrint,        // exprs: what to print
  kIf,           // exprs[i] guards blocks[i]; one block more is the else
  kFor,          // exprs: target, iterable, [filter]; blocks: body, else
  kSet,          // exprs: target, value
  kSetBlock,     // exprs: target, [filter chain]; blocks: body
  kMacro,        // name, parameters, blocks: body
  kCallBlock,    // exprs: the call; parameters and body of its caller()
  kFilterBlock,  // exprs: filter chain; blocks: body
  kWith,         // exprs: target, value, target, value ...; blocks: body
  kScope,        // blocks: body, in a scope of its own (generation)
  kBreak,
  kContinue,
};

struct Parameter {
  uint32_t name = 0;
  std::string text;
  ExprPtr otherwise;  // null: required
};

struct Stmt {
  StmtKind kind;
  int line = 0;
  std::string text;
  uint32_t name = 0;
  std::vector<ExprPtr> exprs;
  std::vector<Block> blocks;
  std::vector<Parameter> parameters;
  bool recursive = false;                                               // for
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;  // macro bodies
};

struct Template {
  std::vector<std::string> names;  // every name used, once
  Block body;
};

// Throws Error(kBadFile) naming the line; Error(kUnsupported) for tags that need other templates.
Template parse(std::string_view source);

}  // namespace tutti::text::jinja
