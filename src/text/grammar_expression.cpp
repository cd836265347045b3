#include "text/grammar_expression.h"

#include <algorithm>
#include <map>

namespace tutti::text {
namespace {

std::shared_ptr<Expression> make(Expression::Kind kind) {
  auto e = std::make_shared<Expression>();
  e->kind = kind;
  return e;
}

CodePoints joined(CodePoints ranges) {
  std::ranges::sort(ranges);
  CodePoints out;
  for (const auto& [first, last] : ranges) {
    if (!out.empty() && first <= out.back().second + 1)
      out.back().second = std::max(out.back().second, last);
    else
      out.emplace_back(first, last);
  }
  return out;
}

}  // namespace

ExpressionPtr literal(std::string bytes) {
  auto e = make(Expression::kBytes);
  e->bytes = std::move(bytes);
  return e;
}

ExpressionPtr any_of(CodePoints ranges) {
  auto e = make(Expression::kClass);
  constexpr uint32_t kFirstSurrogate = 0xD800, kLastSurrogate = 0xDFFF;
  for (const auto& [first, last] : joined(std::move(ranges))) {
    if (first < kFirstSurrogate) e->ranges.emplace_back(first, std::min(last, kFirstSurrogate - 1));
    if (last > kLastSurrogate) e->ranges.emplace_back(std::max(first, kLastSurrogate + 1), last);
  }
  return e;
}

ExpressionPtr none_of(CodePoints ranges) {
  ranges.emplace_back(0xD800, 0xDFFF);
  CodePoints rest;
  uint32_t next = 0;
  for (const auto& [first, last] : joined(std::move(ranges))) {
    if (first > next) rest.emplace_back(next, first - 1);
    next = last + 1;
  }
  if (next <= kLastCodePoint) rest.emplace_back(next, kLastCodePoint);
  auto e = make(Expression::kClass);
  e->ranges = std::move(rest);
  return e;
}

ExpressionPtr sequence(std::vector<ExpressionPtr> parts) {
  if (parts.size() == 1) return parts.front();
  auto e = make(Expression::kSequence);
  e->parts = std::move(parts);
  return e;
}

ExpressionPtr choice(std::vector<ExpressionPtr> parts) {
  if (parts.size() == 1) return parts.front();
  auto e = make(Expression::kChoice);
  e->parts = std::move(parts);
  return e;
}

ExpressionPtr repeat(ExpressionPtr part, int least, int most) {
  auto e = make(Expression::kRepeat);
  e->parts.push_back(std::move(part));
  e->least = least;
  e->most = most;
  return e;
}

ExpressionPtr optional(ExpressionPtr part) { return repeat(std::move(part), 0, 1); }

ExpressionPtr rule(int index) {
  auto e = make(Expression::kRule);
  e->rule = index;
  return e;
}

int GrammarRules::add(std::string name, ExpressionPtr body) {
  names.push_back(std::move(name));
  bodies.push_back(std::move(body));
  return int(names.size()) - 1;
}

namespace {

// A copy whose rules are numbered from `first`; parts that stand in several places stay shared.
ExpressionPtr moved(const ExpressionPtr& e, int first,
                    std::map<const Expression*, ExpressionPtr>& known) {
  if (!e) return e;
  if (const auto it = known.find(e.get()); it != known.end()) return it->second;
  auto copy = std::make_shared<Expression>(*e);
  if (copy->kind == Expression::kRule) copy->rule += first;
  for (ExpressionPtr& part : copy->parts) part = moved(part, first, known);
  known[e.get()] = copy;
  return copy;
}

}  // namespace

int GrammarRules::append(const GrammarRules& other) {
  const int first = int(names.size());
  std::map<const Expression*, ExpressionPtr> known;
  for (size_t i = 0; i < other.bodies.size(); ++i)
    add(other.names[i], moved(other.bodies[i], first, known));
  return first + other.root;
}

}  // namespace tutti::text
